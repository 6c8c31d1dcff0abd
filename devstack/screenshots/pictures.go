package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"path/filepath"
	"regexp"
	"strings"

	"github.com/outflowhq/outflow/devstack/temporal"
	"github.com/outflowhq/outflow/workflows"
)

// The Web UI keeps its settings in the browser's local storage: the columns of
// the list by namespace, and whether the menu is spread out.
const (
	columnsKey = "namespace-workflow-table-columns"
	menuKey    = "navOpen"
)

var columns = []string{"Status", workflows.AttributeType.GetName(), workflows.AttributeDestination.GetName(),
	"Workflow ID", "Type"}

// settings is the script that sets them.
func settings() (string, error) {
	type column struct {
		Label string `json:"label"`
	}
	var list []column
	for _, label := range columns {
		list = append(list, column{label})
	}
	value, err := json.Marshal(map[string][]column{temporal.Namespace: list})
	if err != nil {
		return "", fmt.Errorf("writing the columns: %w", err)
	}
	return fmt.Sprintf("localStorage.setItem(%q, %q); localStorage.setItem(%q, 'false')", columnsKey, value,
		menuKey), nil
}

const listPath = "/namespaces/" + temporal.Namespace + "/workflows"

// picture is one page, what it says, and the file that it becomes.
type picture struct {
	file   string
	path   string
	height int
	expect expect
}

// pictures are in the order in which they are taken: the run that retries shows
// its next attempt only between two.
func (s *scene) pictures() []picture {
	on := func(d delivery, tab string) string {
		return listPath + "/" + url.PathEscape(d.id) + "/" + d.run + "/" + tab
	}
	row := func(status string, d delivery) string {
		return strings.Join([]string{status, d.message.Type, d.message.Destination, d.id, workflows.WorkflowDeliver},
			" ")
	}
	return []picture{
		{"retrying.png", on(s.retrying, "pending-activities"), 820, expect{
			shows: []string{"RUNNING " + s.retrying.id, "Activity ID publish", "Next Retry", busyReason},
			match: regexp.MustCompile(`Attempt [2-9] / UNLIMITED`),
		}},
		{"list.png", listPath, 680, expect{shows: []string{
			strings.Join(columns, " "), row("COMPLETED", s.delivered), row("RUNNING", s.retrying), row("FAILED",
				s.failed), row("CANCELED", s.cancelled),
		}}},
		{"delivered.png", on(s.delivered, "history"), 980, expect{shows: []string{
			"COMPLETED " + s.delivered.id, `"state": "delivered"`,
			"Summary `" + s.delivered.message.Type + "` to `" + s.delivered.message.Destination + "`",
			"Publish Summary publish to `" + s.delivered.message.Destination + "`",
		}}},
		{"failed.png", on(s.failed, "timeline"), 900, expect{shows: []string{
			"FAILED " + s.failed.id, missingReason, `"type": "` + workflows.ErrTypeDead +
				`"`, workflows.ActivityMarkDead,
		}}},
	}
}

// view is a link to a filtered list. These stand in docs/web-ui.md.
type view struct {
	name, query string
	of          func(*scene) delivery
}

var views = []view{
	{"Retrying", `OutflowState="retrying" AND ExecutionStatus="Running"`,
		func(s *scene) delivery { return s.retrying }},
	{"Failed", `WorkflowType="Deliver" AND ExecutionStatus="Failed"`, func(s *scene) delivery { return s.failed }},
	{"Cancelled", `WorkflowType="Deliver" AND ExecutionStatus="Canceled"`,
		func(s *scene) delivery { return s.cancelled }},
}

// path is the link without the Web UI's address. The name makes it one of the
// reader's saved views.
func (v view) path() string {
	encode := func(s string) string { return strings.ReplaceAll(url.QueryEscape(s), "+", "%20") }
	return listPath + "?query=" + encode(v.query) + "&savedQuery=" + encode(v.name)
}

// expect is the view's own delivery, and no other.
func (v view) expect(s *scene) expect {
	e := expect{shows: []string{"1–1 of 1", v.of(s).id, v.name}}
	for _, d := range []delivery{s.delivered, s.retrying, s.failed, s.cancelled} {
		if d.id != v.of(s).id {
			e.hides = append(e.hides, d.id)
		}
	}
	return e
}

// takePictures opens each page, waits until it says what it should, and writes
// its picture.
func takePictures(ctx context.Context, s *scene, p *page, folder string) error {
	for _, shot := range s.pictures() {
		if err := s.take(ctx, p, shot, folder); err != nil {
			return err
		}
	}
	return nil
}

func (s *scene) take(ctx context.Context, p *page, shot picture, folder string) error {
	if err := p.resize(ctx, shot.height); err != nil {
		return err
	}
	if err := p.show(ctx, shot.file, s.stack.UIURL()+shot.path, shot.expect); err != nil {
		return err
	}
	return p.capture(ctx, filepath.Join(folder, shot.file))
}

// checkViews opens each link as a reader would.
func checkViews(ctx context.Context, s *scene, p *page) error {
	for _, v := range views {
		if err := p.show(ctx, "the view "+v.name, s.stack.UIURL()+v.path(), v.expect(s)); err != nil {
			return err
		}
	}
	return nil
}

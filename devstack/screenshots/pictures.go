package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"time"

	"github.com/outflowhq/outflow/workflows"
)

const namespace = "default"

// columns are those of the Web UI's list of workflows. Each browser keeps them
// in its local storage, under this key, by namespace.
const columnsKey = "namespace-workflow-table-columns"

var columns = []string{"Status", workflows.AttributeType.GetName(), workflows.AttributeDestination.GetName(), "Workflow ID", "Type", "Start", "End"}

// settings is the script that sets the columns.
func settings() (string, error) {
	type column struct {
		Label string `json:"label"`
	}
	var list []column
	for _, label := range columns {
		list = append(list, column{label})
	}
	value, err := json.Marshal(map[string][]column{namespace: list})
	if err != nil {
		return "", fmt.Errorf("writing the columns: %w", err)
	}
	return fmt.Sprintf("localStorage.setItem(%q, %q)", columnsKey, value), nil
}

// view is a link to a filtered list, as it stands in the README.
type view struct{ name, query string }

var views = []view{
	{"Retrying", `OutflowState="retrying" AND ExecutionStatus="Running"`},
	{"Failed", `WorkflowType="Deliver" AND ExecutionStatus="Failed"`},
	{"Cancelled", `WorkflowType="Deliver" AND ExecutionStatus="Canceled"`},
}

// path is the link without the Web UI's address.
func (v view) path() string {
	return fmt.Sprintf("/namespaces/%s/workflows?query=%s&savedQuery=%s", namespace, url.PathEscape(v.query), url.PathEscape(v.name))
}

func (s *scene) listURL() string { return s.stack.UIURL() + "/namespaces/" + namespace + "/workflows" }

func (s *scene) runURL(d delivery) string {
	return s.listURL() + "/" + url.PathEscape(d.id) + "/" + d.run + "/history"
}

// takePictures opens the pages, asserts what they say and writes the pictures.
func takePictures(ctx context.Context, s *scene, p *page, out string) error {
	type shotT struct{ name, url string }
	var shots []shotT
	for n, d := range map[string]delivery{"retrying": s.retrying, "delivered": s.delivered, "failed": s.failed} {
		for _, route := range []string{"timeline", "history", "user-metadata", "pending-activities"} {
			u := s.listURL() + "/" + url.PathEscape(d.id) + "/" + d.run + "/" + route
			shots = append(shots, shotT{n + "-" + route, u})
		}
	}
	shots = append(shots, shotT{"list", s.listURL()})
	for _, shot := range shots {
		_ = p.open(ctx, shot.url)
		_ = p.await(ctx, shot.name, expect{shows: []string{"Deliver"}})
		select {
		case <-time.After(2 * time.Second):
		}
		t, _ := p.text(ctx)
		fmt.Println("=====", shot.name, "\n", t)
		if err := p.picture(ctx, filepath.Join(out, shot.name+".png")); err != nil {
			return err
		}
	}
	for _, v := range views {
		if err := p.open(ctx, s.stack.UIURL()+v.path()); err != nil {
			return err
		}
		if err := p.await(ctx, v.name, expect{shows: []string{"Deliver"}}); err != nil {
			return err
		}
		t, _ := p.text(ctx)
		fmt.Println("=====", v.path(), "\n", t)
		if err := p.picture(ctx, filepath.Join(os.TempDir(), "view-"+v.name+".png")); err != nil {
			return err
		}
	}
	return nil
}

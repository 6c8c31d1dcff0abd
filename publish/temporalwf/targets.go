package temporalwf

import (
	"errors"
	"fmt"
	"net/url"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/outflowhq/outflow"
)

// workflow is what may be started: a type on a task queue of a namespace.
type workflow struct{ namespace, taskQueue, workflowType string }

// String is the form of an entry of Targets.
func (w workflow) String() string {
	return url.PathEscape(w.namespace) + "/" + url.PathEscape(w.taskQueue) + "/" + url.PathEscape(w.workflowType)
}

// Targets are workflows that messages may start and signal. The zero value has none: whoever may
// enqueue could else start anything in the namespace.
type Targets struct{ listed map[workflow]bool }

// ParseTargets reads a list of workflows, separated by commas, each as
// namespace/task-queue/WorkflowType. The parts are percent-encoded where they have a slash, a comma
// or a percent sign. Workflows of Temporal's and Outflow's own are refused.
func ParseTargets(list string) (Targets, error) {
	t := Targets{listed: map[workflow]bool{}}
	for i, entry := range strings.Split(list, ",") {
		w, err := parseTarget(strings.TrimSpace(entry))
		if err != nil {
			return Targets{}, fmt.Errorf("wants workflows such as default/orders/ProcessOrder "+
				"(namespace, task queue, type), separated by commas: number %d %w", i+1, err)
		}
		t.listed[w] = true
	}
	return t, nil
}

// Any reports whether any workflow is listed.
func (t Targets) Any() bool { return len(t.listed) > 0 }

// TaskQueues returns the task queues that the list names, in no order.
func (t Targets) TaskQueues() (names []string) {
	for w := range t.listed {
		names = append(names, w.taskQueue)
	}
	return names
}

// parseTarget reads an entry. Its errors follow a subject.
func parseTarget(entry string) (workflow, error) {
	parts := strings.Split(entry, "/")
	if len(parts) != 3 {
		return workflow{}, errors.New("has not three parts (percent-encode a slash as %2F)")
	}
	for i, part := range parts {
		decoded, err := url.PathUnescape(part)
		if err != nil || decoded == "" || !utf8.ValidString(decoded) ||
			strings.ContainsFunc(decoded, unicode.IsControl) {
			return workflow{}, errors.New("has a part that is empty, or is no UTF-8, percent-encoded, " +
				"without control characters")
		}
		parts[i] = decoded
	}
	w := workflow{parts[0], parts[1], parts[2]}
	if why := (reserved{}).refusal(w); why != "" {
		return workflow{}, fmt.Errorf("is never started: %s", why)
	}
	return w, nil
}

// reserved says what is refused, listed or not.
type reserved struct{ outboxes, taskQueues []string }

// The names that Temporal keeps for itself, such as the workflow of a schedule, begin so.
// https://github.com/temporalio/temporal/blob/v1.32.1/common/primitives/namespace.go
const temporalsOwn = "temporal-sys"

// outflowsOwn begins the task queue of an outbox's own runs, unless a setting names another.
const outflowsOwn = "outflow-"

// refusal is why a workflow is refused whatever Targets say, or "".
func (r reserved) refusal(w workflow) string {
	for _, name := range []string{w.namespace, w.taskQueue, w.workflowType} {
		if strings.HasPrefix(name, temporalsOwn) {
			return "names that begin with " + temporalsOwn + " are Temporal's own"
		}
	}
	if strings.HasPrefix(w.taskQueue, outflowsOwn) {
		return "task queues that begin with " + outflowsOwn + " are Outflow's own"
	}
	for _, name := range r.taskQueues {
		if w.taskQueue == name {
			return "the task queue is Outflow's own"
		}
	}
	return ""
}

// refusalOfID is why a workflow ID is refused, or "". A run under an ID of Outflow's would keep
// that message from being delivered.
func (r reserved) refusalOfID(id string) string {
	if strings.HasPrefix(id, temporalsOwn) {
		return "workflow IDs that begin with " + temporalsOwn + " are Temporal's own"
	}
	for _, name := range r.outboxes {
		if strings.HasPrefix(id, name+"/") {
			return "workflow IDs that begin with " + name + "/ are Outflow's own"
		}
	}
	return ""
}

// workflowOf is the workflow of a destination.
func (p *Publisher) workflowOf(d outflow.Destination) workflow {
	w := workflow{d.Namespace, d.TaskQueue, d.WorkflowType}
	if w.namespace == "" {
		w.namespace = p.namespace
	}
	return w
}

// allowed is nil where a workflow may be started. What is Temporal's or Outflow's own is refused for
// good. Where a workflow is not listed, the message waits for the setting.
func (p *Publisher) allowed(doing string, w workflow) error {
	if why := p.reserved.refusal(w); why != "" {
		return outflow.Permanent(fmt.Errorf("%s: it is never started: %s (redirect the message)", doing, why))
	}
	if !p.targets.listed[w] {
		return outflow.Unavailable(fmt.Errorf("%s: %s is not listed (add it to OUTFLOW_TEMPORAL_TARGETS, "+
			"or redirect the message): nothing was sent", doing, w))
	}
	return nil
}

// Refusal is why nothing is sent to a destination until an operator lists its workflow, or nil.
// Publish refuses those that no setting allows.
func (p *Publisher) Refusal(destination string) error {
	d, err := outflow.ParseDestination(destination)
	if err != nil || d.Scheme != outflow.SchemeTemporal {
		return nil
	}
	if err = p.allowed("starting "+d.String(), p.workflowOf(d)); outflow.IsPermanent(err) {
		return nil
	}
	return err
}

package scanner_test

import (
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"

	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/scanner"
	"github.com/outflowhq/outflow/workflows"
)

const stalledLine = "a message waits: the run under its workflow ID makes no progress"

// standing is an open run that waits for a worker.
func standing(workflow string) *workflowservice.DescribeWorkflowExecutionResponse {
	return &workflowservice.DescribeWorkflowExecutionResponse{
		WorkflowExecutionInfo: &workflowpb.WorkflowExecutionInfo{
			Execution: &commonpb.WorkflowExecution{WorkflowId: "w",
				RunId: "r"}, Status: enums.WORKFLOW_EXECUTION_STATUS_RUNNING,
			Type: &commonpb.WorkflowType{Name: workflow}, TaskQueue: "old",
		},
		PendingWorkflowTask: &workflowpb.PendingWorkflowTaskInfo{State: enums.PENDING_WORKFLOW_TASK_STATE_SCHEDULED,
			Attempt: 1},
	}
}

// A lease ends twice beside a run: the scanner checks the run once, and logs why it is stalled.
func TestAStalledRunIsLogged(t *testing.T) {
	for name, c := range map[string]struct {
		described *workflowservice.DescribeWorkflowExecutionResponse
		polled    int
		logged    int
	}{
		"no worker":               {standing(workflows.WorkflowDeliver), 0, 1},
		"another outbox's":        {standing("Report"), 3, 1},
		"no free worker":          {standing(workflows.WorkflowDeliver), 3, 1},
		"it has ended meanwhile":  {nil, 3, 0},
		"an attempt is under way": {&workflowservice.DescribeWorkflowExecutionResponse{WorkflowExecutionInfo: standing(workflows.WorkflowDeliver).WorkflowExecutionInfo}, 3, 0},
	} {
		t.Run(name, func(t *testing.T) {
			var first []outbox.Record
			inWorld(t, scanner.Options{}, func(w *world) {
				w.engine.described, w.engine.polled = c.described, c.polled
				w.engine.reply = func(start) error {
					return serviceerror.NewWorkflowExecutionAlreadyStarted("running",
						"", "r")
				}
				w.table.enqueue("sqs://orders", 3)
				first = slices.Clone(w.table.due)
			}, func(w *world) {
				pass(time.Second)
				assert.Empty(t, w.engine.seen().checks, "a live run meets an expired lease once, now and then")
				w.table.set(func(t *table) { t.due = slices.Clone(first) })
				pass(time.Second)
				assert.Len(t, w.engine.seen().checks, 1)
				assert.Equal(t, c.logged, w.logs.count(stalledLine))
				for range 6 {
					w.table.set(func(t *table) { t.due = slices.Clone(first) })
					pass(5 * time.Second)
				}
				assert.Equal(t, c.logged, w.logs.count(stalledLine), "once a minute")
				if c.logged > 0 {
					w.table.set(func(t *table) { t.due = slices.Clone(first) })
					pass(31 * time.Second)
					w.table.set(func(t *table) { t.due = slices.Clone(first) })
					pass(time.Second)
					assert.Equal(t, 2, w.logs.count(stalledLine), "it is logged again")
				}
				assert.Empty(t, w.table.seen().released, "no lease is cut short by it")
			})
		})
	}
}

// A new run under the ID begins a new count.
func TestAnotherRunUnderTheIDIsNotStalled(t *testing.T) {
	var first []outbox.Record
	inWorld(t, scanner.Options{}, func(w *world) {
		w.engine.described = standing(workflows.WorkflowDeliver)
		runs := []string{"a", "b", "c", "c"}
		w.engine.reply = func(start) error {
			next := runs[0]
			runs = runs[1:]
			return serviceerror.NewWorkflowExecutionAlreadyStarted("running", "", next)
		}
		w.table.enqueue("sqs://orders", 1)
		first = slices.Clone(w.table.due)
	}, func(w *world) {
		pass(time.Second)
		for n := range 3 {
			assert.Empty(t, w.engine.seen().checks, n)
			w.table.set(func(t *table) { t.due = slices.Clone(first) })
			pass(time.Second)
		}
		assert.Len(t, w.engine.seen().checks, 1)
	})
}

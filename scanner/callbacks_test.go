package scanner_test

import (
	"errors"
	"fmt"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/scanner"
	"github.com/outflowhq/outflow/workflows"
)

func dueCallbacks(n int) (due []outbox.DueCallback) {
	for _, l := range newLeased(n) {
		due = append(due, outbox.DueCallback{Ref: l.Ref, Destination: "sqs://orders", Type: "order-placed"})
	}
	return due
}

// An idle scanner, too, looks for callbacks once in five seconds. It starts every one that it
// finds, however many there are.
func TestDueCallbacksAreStarted(t *testing.T) {
	refs := dueCallbacks(250)
	inWorld(t, scanner.Options{Outbox: "shop", TaskQueue: "tasks"}, func(w *world) {
		w.table.callbacks = slices.Clone(refs)
	}, func(w *world) {
		pass(time.Second)
		var wanted, started []string
		for _, r := range refs {
			wanted = append(wanted, fmt.Sprintf("shop/%s/callback/1", r.ID))
		}
		for _, o := range w.engine.seen().callbacks {
			started = append(started, o.ID)
			assert.Equal(t, "tasks", o.TaskQueue)
			assert.Equal(t, enums.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE, o.WorkflowIDReusePolicy,
				"beside one that has ended, the row decides")
			assert.Equal(t, enums.WORKFLOW_ID_CONFLICT_POLICY_FAIL, o.WorkflowIDConflictPolicy)
			assert.Equal(t, workflows.StartAttributes("sqs://orders", "order-placed"), o.TypedSearchAttributes,
				"as its delivery had them")
		}
		slices.Sort(started)
		assert.Equal(t, wanted, started, "in the first round")
		var before int
		w.table.set(func(t *table) { before = len(t.callbackRounds) })
		pass(time.Minute)
		w.stop()
		assert.InDelta(t, 12, len(w.table.callbackRounds)-before, 1)
	})
}

// A namespace without the search attributes, which one refused start shows: the
// callbacks that are started beside it may each be refused once, too.
func TestCallbacksWithoutSearchAttributes(t *testing.T) {
	inWorld(t, scanner.Options{}, func(w *world) {
		w.table.callbacks = dueCallbacks(50)
		w.engine.refused = serviceerror.NewInvalidArgument("Namespace default has no mapping defined for search attribute OutflowType")
	}, func(w *world) {
		pass(time.Second)
		w.stop()
		plain := map[string]bool{}
		for _, o := range w.engine.seen().callbacks {
			if o.TypedSearchAttributes.Size() == 0 {
				plain[o.ID] = true
			}
		}
		assert.Len(t, plain, 50)
		assert.LessOrEqual(t, len(w.engine.seen().callbacks), 58, "later ones go without at once")
		assert.Equal(t, 1, w.logs.total(), "it is logged once")
	})
}

func TestCallbackThatRunsOrCantBeStarted(t *testing.T) {
	refs := dueCallbacks(2)
	id := func(r outbox.DueCallback) string {
		return workflows.CallbackInput{Outbox: outflow.DefaultOutbox, MessageID: r.ID, Generation: 1}.ID()
	}
	inWorld(t, scanner.Options{}, func(w *world) {
		w.table.callbacks = slices.Clone(refs)
		w.engine.answered = func(workflowID string) error {
			if workflowID == id(refs[0]) {
				return serviceerror.NewWorkflowExecutionAlreadyStarted("running", "", "")
			}
			return errors.New("unavailable")
		}
	}, func(w *world) {
		pass(time.Minute)
		w.stop()
		assert.Len(t, w.engine.seen().callbacks, 2)
		assert.Equal(t, 1, w.logs.count("starting callbacks"), "only of the second one; its lease ends by itself")
	})
}

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
	"github.com/outflowhq/outflow/scanner"
	"github.com/outflowhq/outflow/workflows"
)

func callbackRefs(n int) (refs []outflow.Ref) {
	for _, l := range newLeased(n) {
		refs = append(refs, l.Ref)
	}
	return refs
}

// An idle table, too, is looked at for callbacks, once in five seconds, and every
// one that is found is started, however many there are.
func TestDueCallbacksAreStarted(t *testing.T) {
	refs := callbackRefs(250)
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
			assert.Equal(t, enums.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE, o.WorkflowIDReusePolicy, "beside one that has ended, the row decides")
			assert.Equal(t, enums.WORKFLOW_ID_CONFLICT_POLICY_FAIL, o.WorkflowIDConflictPolicy)
		}
		slices.Sort(started)
		assert.Equal(t, wanted, started, "in the first sweep")
		var before int
		w.table.set(func(t *table) { before = len(t.sweeps) })
		pass(time.Minute)
		w.stop()
		assert.InDelta(t, 12, len(w.table.sweeps)-before, 1)
	})
}

func TestCallbackThatRunsOrCantBeStarted(t *testing.T) {
	refs := callbackRefs(2)
	id := func(r outflow.Ref) string {
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
		assert.Equal(t, 1, w.logs.count("starting callbacks"), "of the second alone; its lease runs out")
	})
}

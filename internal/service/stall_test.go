package service

import (
	"context"
	"fmt"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/activities"
	"github.com/outflowhq/outflow/internal/config"
	"github.com/outflowhq/outflow/namespace"
	"github.com/outflowhq/outflow/operator"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/scanner"
	"github.com/outflowhq/outflow/workflows"
)

// endLease has the next claim find a message again, as if its lease had run out.
func (w *world) endLease(id uuid.UUID) {
	w.Helper()
	_, err := w.pool.Exec(w.Context(), `UPDATE outbox.messages SET available_at = now() WHERE id = $1 AND finished_at IS NULL`, id)
	require.NoError(w, err)
}

// doctored is what a doctor finds out about runs.
func (w *world) doctored() (found []operator.Finding) {
	w.Helper()
	operator.Examine(w.Context(), operator.Subject{
		Operator: operator.New(w.pool, nil, w.opts.Outbox), Namespace: namespace.New(w.client, client.DefaultNamespace),
		Outbox: w.opts.Outbox, TaskQueue: w.opts.TaskQueue,
	}, func(f operator.Finding) {
		if f.Check == "runs" {
			found = append(found, f)
		}
	})
	return found
}

func (w *world) untilDoctored(level operator.Level, part string) {
	w.Helper()
	var found []operator.Finding
	w.eventually(func() bool {
		found = w.doctored()
		for _, f := range found {
			if f.Level == level && strings.Contains(f.Text, part) {
				return true
			}
		}
		return false
	}, func() string { return fmt.Sprintf("%+v", found) })
}

// untilSaid has a message's lease end again and again until the log says why.
func (w *world) untilSaid(logged *notes, id uuid.UUID, part string) {
	w.Helper()
	w.eventually(func() bool { w.endLease(id); return strings.Contains(logged.String(), part) }, logged.String)
}

// Runs on a task queue that no worker polls any more hold their messages: the starters
// on the new one say so, the doctor shows it, and a worker on the old queue delivers.
func TestAChangedTaskQueueIsSaid(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	old := w.opts.TaskQueue
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- scanner.New(w.store, w.client, w.opts).Run(ctx) }() // no worker beside it
	id := w.enqueue("{}")
	w.eventually(func() bool {
		_, err := w.client.DescribeWorkflowExecution(t.Context(), w.workflowID(id), "")
		return err == nil
	}, func() string { return "no run" })
	stop()
	require.NoError(t, <-ended)

	var logged notes
	w.opts.TaskQueue, w.opts.Logger = old+"-new", logged.logger()
	w.work()
	w.scan()
	w.untilSaid(&logged, id, "a message waits: the run under its workflow ID makes no progress")
	assert.Contains(t, logged.String(), "it waits on task queue")
	assert.Contains(t, logged.String(), old)
	assert.Contains(t, logged.String(), "OUTFLOW_TASK_QUEUE="+old)
	w.untilDoctored(operator.Fail, "1 runs of outbox "+w.opts.Outbox+" are on task queue "+old+", which no worker polls")
	w.untilDoctored(operator.Fail, "wait for their run: it waits on task queue")
	assert.Zero(t, w.broker.count())

	run := worker.New(w.client, old, workerOptions(config.Config{}, make(chan error, 1)))
	workflows.Register(run, activities.New(w.store, w.broker))
	require.NoError(t, run.Start())
	t.Cleanup(run.Stop)
	w.until(id, func(r row) bool { return r.State == outflow.Delivered })
	assert.Equal(t, 1, w.broker.count())
	w.untilDoctored(operator.OK, "none has a stalled run")
}

// Somebody else's run under the ID: of another workflow, or of another database.
func TestSomebodyElsesRunIsSaid(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		workflow string
		said     string
	}{
		"another workflow": {"Report", `a run of workflow \"Report\" stands under the ID`},
		"another database": {workflows.WorkflowDeliver, "the run is of database"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			var logged notes
			w.opts.Logger = logged.logger()
			id := w.enqueue("{}")
			_, err := w.client.ExecuteWorkflow(t.Context(),
				client.StartWorkflowOptions{ID: w.workflowID(id), TaskQueue: w.opts.TaskQueue + "-theirs"},
				c.workflow, workflows.DeliverInput{Outbox: w.opts.Outbox, Database: uuid.New(), MessageID: id,
					Generation: 1})
			require.NoError(t, err)
			w.work()
			w.scan()
			w.untilSaid(&logged, id, c.said)
			w.untilDoctored(operator.Fail, strings.ReplaceAll(c.said, `\`, ""))
			text, _, err := namespace.New(w.client, client.DefaultNamespace).Stalled(t.Context(), w.opts.Outbox,
				uuid.Nil, outbox.Ref{ID: id, Generation: 1})
			require.NoError(t, err)
			assert.NotContains(t, text, "of database", "where nobody knows which one it is to be")
			require.NoError(t, w.client.TerminateWorkflow(t.Context(), w.workflowID(id), "", "as the log advises"))
			w.endLease(id)
			w.until(id, func(r row) bool { return r.State == outflow.Delivered })
			assert.Equal(t, 1, w.broker.count())
		})
	}
}

// A callback's run is checked as a message's is.
func TestACallbackOnAnotherQueueIsSaid(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var logged notes
	w.opts.Logger = logged.logger()
	id := w.enqueueCallback(done)
	_, err := w.pool.Exec(t.Context(), `UPDATE outbox.messages SET state = 'cancelled', finished_at = now(), callback_state = 'due', callback_due_at = now() WHERE id = $1`, id)
	require.NoError(t, err)
	in := workflows.CallbackInput{Outbox: w.opts.Outbox, Database: w.database(), MessageID: id, Generation: 1}
	_, err = w.client.ExecuteWorkflow(t.Context(),
		client.StartWorkflowOptions{ID: in.ID(), TaskQueue: w.opts.TaskQueue + "-old"}, workflows.WorkflowCallback, in)
	require.NoError(t, err)
	w.work()
	w.scan()
	w.eventually(func() bool {
		_, err := w.pool.Exec(t.Context(), `UPDATE outbox.messages SET callback_due_at = now() WHERE id = $1 AND callback_state = 'due'`, id)
		require.NoError(t, err)
		return strings.Contains(logged.String(), "it waits on task queue")
	}, logged.String)
	assert.Contains(t, logged.String(), in.ID())
}

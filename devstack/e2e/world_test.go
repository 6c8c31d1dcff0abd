package e2e

import (
	"context"
	"fmt"
	"net/http"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"go.temporal.io/api/enums/v1"
	"go.temporal.io/api/history/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/devstack/faults"
	"github.com/outflowhq/outflow/outboxdb"
	"github.com/outflowhq/outflow/publish/publishtest/fakesqs"
	"github.com/outflowhq/outflow/workflows"
)

var worlds atomic.Int64

// world is what one test has for itself.
type world struct {
	*faults.World
	t      *testing.T
	name   string
	pool   *pgxpool.Pool
	queues *fakesqs.Server
	client client.Client // beside the link
	env    []string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	return newWorldOn(t, shared)
}

func newWorldOn(t *testing.T, stack *faults.Stack) *world {
	t.Helper()
	name := fmt.Sprintf("w%d", worlds.Add(1))
	made, err := faults.NewWorld(t.Context(), stack, name)
	require.NoError(t, err)
	t.Cleanup(made.Close)
	w := &world{World: made, t: t, name: name, pool: made.Pool, queues: made.Queues, env: made.Env()}
	w.client, err = client.Dial(client.Options{HostPort: stack.Temporal.Address(), Logger: quiet{}})
	require.NoError(t, err)
	t.Cleanup(w.client.Close)
	return w
}

// start starts one of the built programs, killed at the latest with the test.
func (w *world) start(name string, args ...string) *faults.Program {
	w.t.Helper()
	return w.startIn(w.env, name, args...)
}

func (w *world) startIn(env []string, name string, args ...string) *faults.Program {
	w.t.Helper()
	p, err := faults.Run(binaries, name, env, args...)
	require.NoError(w.t, err)
	w.t.Cleanup(func() {
		_ = p.Signal(syscall.SIGKILL)
		<-p.Done()
		if w.t.Failed() {
			w.t.Logf("%s said:\n%s", name, p.Output)
		}
	})
	return p
}

// kill ends a program with SIGKILL. One that is gone is no error.
func (w *world) kill(p *faults.Program) {
	w.t.Helper()
	_ = p.Signal(syscall.SIGKILL)
	<-p.Done()
}

// stop ends a program as a deployment does, and waits for it.
func (w *world) stop(p *faults.Program) {
	w.t.Helper()
	require.NoError(w.t, p.Signal(syscall.SIGTERM))
	require.NoError(w.t, p.Err(), "%s", p.Output)
}

// enqueue writes n messages in transactions of 100.
func (w *world) enqueue(n int, make func(i int) outflow.Message) []uuid.UUID {
	w.t.Helper()
	ctx := w.t.Context()
	var all []uuid.UUID
	for len(all) < n {
		var batch []outflow.Message
		for i := len(all); i < n && len(batch) < 100; i++ {
			batch = append(batch, make(i))
		}
		tx, err := w.pool.Begin(ctx)
		require.NoError(w.t, err)
		ids, err := outboxdb.Enqueue(ctx, tx, batch...)
		require.NoError(w.t, err)
		require.NoError(w.t, tx.Commit(ctx))
		all = append(all, ids...)
	}
	return all
}

// to returns a maker of small messages to one destination.
func to(destination string) func(int) outflow.Message {
	return func(i int) outflow.Message {
		return outflow.Message{Destination: destination, Type: "numbered",
			Payload: fmt.Appendf(nil, `{"number":%d}`, i)}
	}
}

// count counts rows by a condition.
func (w *world) count(condition string, args ...any) int {
	w.t.Helper()
	var n int
	err := w.pool.QueryRow(context.WithoutCancel(w.t.Context()),
		"SELECT count(*) FROM outbox.messages WHERE "+condition, args...).Scan(&n)
	require.NoError(w.t, err)
	return n
}

// eventually waits for a condition, and says what it waited for.
func (w *world) eventually(within time.Duration, what string, holds func() bool) {
	w.t.Helper()
	require.Eventually(w.t, holds, within, 50*time.Millisecond, what)
}

// tally compares what arrived in a queue with what was enqueued.
func (w *world) tally(queue string, ids []uuid.UUID) (missing, duplicates int) {
	counts := w.Arrivals(queue)
	for _, id := range ids {
		if counts[id] == 0 {
			missing++
		}
	}
	for _, n := range counts {
		duplicates += n - 1
	}
	return missing, duplicates
}

// report prints what became of the messages to a queue, and how long after began
// that was.
func (w *world) report(queue string, ids []uuid.UUID, began time.Time) (lost, duplicates int) {
	w.t.Helper()
	took := time.Since(began).Round(10 * time.Millisecond)
	lost, duplicates = w.tally(queue, ids)
	w.t.Logf("enqueued %d, delivered %d, lost %d, duplicates %d, time to drain %s", len(ids), len(ids)-lost, lost,
		duplicates, took)
	return lost, duplicates
}

func (w *world) workflowID(id uuid.UUID) string { return workflows.DeliverID(w.name, id) }

// quiet is a Temporal logger that says nothing.
type quiet struct{}

func (quiet) Debug(string, ...any) {}
func (quiet) Info(string, ...any)  {}
func (quiet) Warn(string, ...any)  {}
func (quiet) Error(string, ...any) {}

// fakesqs503 makes a queue answer that the service is unavailable.
func fakesqs503(queue string) fakesqs.Fault {
	return fakesqs.Fault{Queue: queue, Error: &fakesqs.Error{Status: http.StatusServiceUnavailable,
		Code: "ServiceUnavailable", Message: "try again later"}}
}

// refusesEntries makes the queue orders refuse each message, and not all of them:
// they are retried one by one, and its breaker stays closed.
var refusesEntries = fakesqs.Fault{Queue: "orders",
	EntryError: func(fakesqs.Entry) *fakesqs.Error { return &fakesqs.Error{Code: "InternalError"} }}

// history returns the events of a message's newest run.
func (w *world) history(id string) []*history.HistoryEvent {
	w.t.Helper()
	var events []*history.HistoryEvent
	iterator := w.client.GetWorkflowHistory(w.t.Context(), w.name+"/"+id, "", false,
		enums.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
	for iterator.HasNext() {
		e, err := iterator.Next()
		require.NoError(w.t, err)
		events = append(events, e)
	}
	return events
}

// runs returns the run IDs of a message that Temporal's list shows.
func (w *world) runs(id string) []string {
	w.t.Helper()
	var runs []string
	w.eventually(10*time.Second, "the list shows the message", func() bool {
		answer, err := w.client.ListWorkflow(w.t.Context(), &workflowservice.ListWorkflowExecutionsRequest{
			Query: fmt.Sprintf("WorkflowId = '%s/%s'", w.name, id)})
		runs = nil
		for _, e := range answer.GetExecutions() {
			runs = append(runs, e.Execution.RunId)
		}
		return err == nil && len(runs) > 0
	})
	return runs
}

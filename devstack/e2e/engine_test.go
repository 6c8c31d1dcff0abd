package e2e

import (
	"context"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"go.temporal.io/api/enums/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/outflowhq/outflow/devstack/faults"
)

// The row is the truth: whatever Temporal has lost or believes, what the table
// calls pending is delivered. These tests let leases run out by hand.

func (w *world) endLeases() {
	w.t.Helper()
	_, err := w.pool.Exec(w.t.Context(), "UPDATE outbox.messages SET available_at = now() WHERE state = 'pending'")
	require.NoError(w.t, err)
}

func TestTerminatedRunIsStartedAnew(t *testing.T) {
	w := newWorld(t)
	w.queues.Inject(fakesqs503("orders"))
	id := w.enqueue(1, to("sqs://orders"))[0]
	w.start("outflow-worker")
	w.start("outflow-starter")
	w.eventually(30*time.Second, "the run is off its fast path",
		func() bool { return w.count("retrying AND attempts >= 1") == 1 })
	require.NoError(t, w.client.TerminateWorkflow(t.Context(), w.workflowID(id), "", "by a test"))
	w.queues.Heal("")
	require.Equal(t, 1, w.count("state = 'pending' AND available_at > now()"),
		"the row is held by a lease that nobody renews")

	w.endLeases()
	w.eventually(30*time.Second, "delivered by another run", func() bool { return w.count("state = 'delivered'") == 1 })
	require.Len(t, w.Arrivals("orders"), 1)
	w.eventually(10*time.Second, "both runs are listed", func() bool { return len(w.runs(id.String())) == 2 })
}

// A database restored from a backup knows less than Temporal does.
func TestPendingRowBesideACompletedRun(t *testing.T) {
	w := newWorld(t)
	id := w.enqueue(1, to("sqs://orders"))[0]
	w.start("outflow-starter")
	w.eventually(30*time.Second, "delivered", func() bool { return w.count("state = 'delivered'") == 1 })
	require.NoError(t, w.client.GetWorkflow(t.Context(), w.workflowID(id), "").Get(t.Context(), nil))

	_, err := w.pool.Exec(t.Context(), `UPDATE outbox.messages
		SET state = 'pending', finished_at = NULL, broker_message_id = NULL, attempts = 0, available_at = now()`)
	require.NoError(t, err)
	w.eventually(30*time.Second, "delivered again", func() bool { return w.count("state = 'delivered'") == 1 })
	require.Equal(t, map[uuid.UUID]int{id: 2}, w.Arrivals("orders"), "the restored row says that it was never sent")
}

func TestLostNamespace(t *testing.T) {
	w := newWorld(t)
	w.queues.Inject(refusesEntries)
	const n = 40
	ids := w.enqueue(n, to("sqs://orders"))
	worker, starter := w.start("outflow-worker"), w.start("outflow-starter")
	w.eventually(30*time.Second, "all runs are off their fast paths", func() bool { return w.count("retrying") == n })
	w.stop(worker)
	w.stop(starter)
	w.queues.Heal("")

	w.env = append(w.env, "TEMPORAL_NAMESPACE="+freshNamespace(t, w))
	w.endLeases()
	began := time.Now()
	w.start("outflow-worker")
	w.start("outflow-starter")
	w.eventually(time.Minute, "all delivered", func() bool { return w.count("state = 'delivered'") == n })
	lost, duplicates := w.report("orders", ids, began)
	require.Zero(t, lost)
	require.Zero(t, duplicates)
}

// Temporal comes back with nothing in it, under the programs that go on: its
// namespace has the old name, and no run that they know.
func TestTemporalIsLostUnderRunningPrograms(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	stack, err := faults.Up(ctx)
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, stack.Down(false)) })
	f := &fault{world: newWorldOn(t, stack), names: []string{"letters"}}
	f.env = append(f.env, "OUTFLOW_LEASE=30s")
	f.queues.Inject(refusesEntries)
	const n = 20
	ids := f.enqueue(n, to("sqs://orders"))
	f.supervise(faults.Worker)
	f.supervise(faults.Starter)
	f.eventually(time.Minute, "all runs are off their fast paths", func() bool { return f.count("retrying") == n })
	f.load = f.StartLoad(loadBeside, "sqs://letters")
	t.Cleanup(f.load.Stop)
	f.eventually(30*time.Second, "the load flows", func() bool { return f.count("state = 'delivered'") > loadBeside })
	before := f.runs(ids[0].String())
	f.meet()
	require.NoError(t, stack.LoseTemporal(ctx))
	f.queues.Heal("")

	// The rows of lost runs are held by leases that nobody renews, for minutes yet.
	f.endLeases()
	began := time.Now()
	f.eventually(2*time.Minute, "what was retrying is delivered", func() bool {
		return f.count("destination = 'sqs://orders' AND state = 'delivered'") == n
	})
	lost, duplicates := f.report("orders", ids, began)
	require.Zero(t, lost)
	require.Zero(t, duplicates)
	after := f.runs(ids[0].String())
	require.Len(t, after, 1, "the list knows no other run")
	require.NotEqual(t, before, after)
	f.flows(time.Minute)
	f.settle(2*time.Minute, true)
}

// freshNamespace registers a namespace without Outflow's search attributes, and
// returns when a run can be started in it.
func freshNamespace(t *testing.T, w *world) string {
	t.Helper()
	name := "fresh-" + w.name
	_, err := w.client.WorkflowService().RegisterNamespace(t.Context(), &workflowservice.RegisterNamespaceRequest{
		Namespace: name, WorkflowExecutionRetentionPeriod: durationpb.New(24 * time.Hour)})
	require.NoError(t, err)
	c, err := client.NewLazyClient(client.Options{HostPort: shared.Temporal.Address(), Namespace: name,
		Logger: quiet{}})
	require.NoError(t, err)
	defer c.Close()
	w.eventually(30*time.Second, "the namespace takes starts", func() bool {
		ctx, cancel := context.WithTimeout(t.Context(), 2*time.Second)
		defer cancel()
		_, err := c.ExecuteWorkflow(ctx, client.StartWorkflowOptions{ID: "probe", TaskQueue: "nobody",
			WorkflowIDConflictPolicy: enums.WORKFLOW_ID_CONFLICT_POLICY_TERMINATE_EXISTING}, "Probe")
		return err == nil
	})
	return name
}

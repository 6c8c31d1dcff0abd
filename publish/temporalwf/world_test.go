package temporalwf_test

import (
	"context"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	enumspb "go.temporal.io/api/enums/v1"
	historypb "go.temporal.io/api/history/v1"
	"go.temporal.io/sdk/client"
	sdklog "go.temporal.io/sdk/log"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
	"go.uber.org/goleak"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/publish/temporalwf"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	missingNamespace = "no-such-namespace"
	// marker is in payloads that no error may quote.
	marker = "a-secret-of-the-payload"
)

var quietly = sdklog.NewStructuredLogger(slog.New(slog.DiscardHandler))

// world is a real Temporal.
type world struct {
	address string
	client  client.Client
}

func newWorld(t *testing.T) world {
	t.Helper()
	w := world{address: teststack.Temporal(t)}
	var err error
	w.client, err = client.Dial(client.Options{HostPort: w.address, Logger: quietly})
	require.NoError(t, err)
	t.Cleanup(w.client.Close)
	return w
}

// parsed is a list of targets.
func parsed(t *testing.T, entries ...string) temporalwf.Targets {
	t.Helper()
	targets, err := temporalwf.ParseTargets(strings.Join(entries, ","))
	require.NoError(t, err)
	return targets
}

// app is a task queue with its own publisher, and with a worker where work was called.
type app struct {
	world
	queue     string
	publisher *temporalwf.Publisher
}

func newApp(t *testing.T, change ...func(*temporalwf.Options)) *app {
	t.Helper()
	a := &app{world: newWorld(t), queue: "app-" + uuid.NewString()}
	o := temporalwf.Options{
		Client: client.Options{HostPort: a.address},
		Targets: parsed(t, "default/"+a.queue+"/Process", "default/"+a.queue+"/Another",
			missingNamespace+"/"+a.queue+"/Process"),
	}
	for _, c := range change {
		c(&o)
	}
	a.publisher = temporalwf.New(o)
	t.Cleanup(a.publisher.Close)
	return a
}

// to is a destination of the app, with a query where one is given.
func (a *app) to(workflowType string, query ...string) string {
	return strings.Join(append([]string{"temporal://" + a.queue + "/" + workflowType}, query...), "?")
}

func message(destination string) outflow.Message {
	return outflow.Message{
		ID: uuid.Must(uuid.NewV7()), Destination: destination, Type: "order-placed",
		Payload: []byte(`{"note":"` + marker + `"}`),
	}
}

// named returns a copy of m with the header workflow-id.
func named(m outflow.Message, workflowID string) outflow.Message {
	m.Headers = map[string]string{"workflow-id": workflowID}
	return m
}

// publish publishes and returns the run ID.
func (a *app) publish(t *testing.T, m outflow.Message) (runID string) {
	t.Helper()
	runID, err := a.publisher.Publish(t.Context(), m)
	require.NoError(t, err)
	require.NotEmpty(t, runID)
	return runID
}

// fails publishes, and checks the failure's class, and that it shows no payload.
func (a *app) fails(t *testing.T, m outflow.Message, want outflow.Class, says ...string) error {
	t.Helper()
	_, err := a.publisher.Publish(t.Context(), m)
	failedAs(t, err, want, says...)
	return err
}

func failedAs(t *testing.T, err error, want outflow.Class, says ...string) {
	t.Helper()
	require.Error(t, err)
	require.Equal(t, want, outflow.ClassOf(err), "%v", err)
	require.NotContains(t, err.Error(), marker)
	for _, text := range says {
		require.ErrorContains(t, err, text)
	}
}

// process has what the test workflows were given.
type process struct {
	Input   map[string]string
	Signals []string
}

// work runs a worker of the app. Process returns its input, and with the signal "finish" what it
// has got; "continue" makes it continue as new. Another ends with "finish", too.
func (a *app) work(t *testing.T, c client.Client) {
	t.Helper()
	w := worker.New(c, a.queue, worker.Options{WorkerStopTimeout: 10 * time.Second})
	w.RegisterWorkflowWithOptions(processWorkflow, workflow.RegisterOptions{Name: "Process"})
	w.RegisterWorkflowWithOptions(processWorkflow, workflow.RegisterOptions{Name: "Another"})
	require.NoError(t, w.Start())
	t.Cleanup(w.Stop)
}

func processWorkflow(ctx workflow.Context, input map[string]string) (process, error) {
	got := process{Input: input}
	if input != nil && input["wait"] == "" {
		return got, nil
	}
	steps := workflow.GetSignalChannel(ctx, "step")
	ends := workflow.GetSignalChannel(ctx, "end")
	for ended := ""; ; {
		choice := workflow.NewSelector(ctx)
		choice.AddReceive(steps, func(c workflow.ReceiveChannel, _ bool) {
			var step string
			c.Receive(ctx, &step)
			got.Signals = append(got.Signals, step)
		})
		choice.AddReceive(ends, func(c workflow.ReceiveChannel, _ bool) { c.Receive(ctx, &ended) })
		choice.Select(ctx)
		switch {
		case ended == "continue":
			return got, workflow.NewContinueAsNewError(ctx, "Process", map[string]string{"wait": "yes"})
		case ended != "":
			return got, nil
		}
	}
}

// end ends a run of processWorkflow, or has it continue as new.
func (w world) end(t *testing.T, workflowID, how string) {
	t.Helper()
	require.NoError(t, w.client.SignalWorkflow(t.Context(), workflowID, "", "end", how))
}

// closed waits until a run has closed.
func (w world) closed(t *testing.T, workflowID, runID string) {
	t.Helper()
	require.Eventually(t, func() bool {
		d, err := w.client.DescribeWorkflowExecution(t.Context(), workflowID, runID)
		return err == nil && d.GetWorkflowExecutionInfo().GetStatus() != enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING
	}, time.Minute, 20*time.Millisecond)
}

// latest is the ID of a workflow's latest run.
func (w world) latest(t *testing.T, workflowID string) (runID string) {
	t.Helper()
	d, err := w.client.DescribeWorkflowExecution(t.Context(), workflowID, "")
	require.NoError(t, err)
	return d.GetWorkflowExecutionInfo().GetExecution().GetRunId()
}

// events are those of a run's history.
func (w world) events(t *testing.T, workflowID, runID string) (all []*historypb.HistoryEvent) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	history := w.client.GetWorkflowHistory(ctx, workflowID, runID, false, enumspb.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
	for history.HasNext() {
		event, err := history.Next()
		require.NoError(t, err)
		all = append(all, event)
	}
	return all
}

// started is the first event of a run.
func (w world) started(t *testing.T, workflowID, runID string) *historypb.WorkflowExecutionStartedEventAttributes {
	t.Helper()
	return w.events(t, workflowID, runID)[0].GetWorkflowExecutionStartedEventAttributes()
}

// signals are the signals in a run's history by this name.
func (w world) signals(t *testing.T, workflowID, runID, name string) (
	all []*historypb.WorkflowExecutionSignaledEventAttributes,
) {
	t.Helper()
	for _, event := range w.events(t, workflowID, runID) {
		if s := event.GetWorkflowExecutionSignaledEventAttributes(); s.GetSignalName() == name {
			all = append(all, s)
		}
	}
	return all
}

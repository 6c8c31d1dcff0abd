package main

import (
	"bytes"
	"context"
	"io"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/api/enums/v1"
	"go.temporal.io/api/operatorservice/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	sdklog "go.temporal.io/sdk/log"
	"go.temporal.io/sdk/worker"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/activities"
	"github.com/outflowhq/outflow/internal/program"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/namespace"
	"github.com/outflowhq/outflow/outboxdb"
	"github.com/outflowhq/outflow/scanner"
	"github.com/outflowhq/outflow/workflows"
)

// quietly is a logger that discards everything.
var quietly = slog.New(slog.DiscardHandler)

// runSetup runs the command with these settings only.
func runSetup(settings map[string]string, args ...string) (string, error) {
	var stdout bytes.Buffer
	getenv := func(name string) string { return settings[name] }
	err := run(context.Background(), append([]string{"setup"}, args...), getenv, &stdout, io.Discard)
	return stdout.String(), err
}

func TestSetupUsage(t *testing.T) {
	for _, c := range []struct {
		args  []string
		wants string
	}{
		{[]string{"now"}, `unexpected argument "now"`},
		{[]string{"-force"}, "-force"},
		{[]string{"-wait", "soon"}, "-wait"},
		{[]string{"-wait", "10ms"}, "at least 1s"},
	} {
		out, err := runSetup(nil, c.args...)
		var usage program.UsageError
		require.ErrorAs(t, err, &usage, "%v", c.args)
		assert.ErrorContains(t, err, c.wants)
		assert.Empty(t, out)
	}
	for _, help := range []string{"-h", "-help", "--help"} {
		out, err := runSetup(nil, help)
		require.NoError(t, err)
		assert.Equal(t, setupUsage, out)
	}
}

func TestSetupPrintConnectsToNothing(t *testing.T) {
	broken := map[string]string{
		"TEMPORAL_ADDRESS": "127.0.0.1:1", "TEMPORAL_NAMESPACE": "shop",
		"DATABASE_URL": "nonsense", "OUTFLOW_LEASE": "nonsense", "AWS_REGION": "",
	}
	for _, flag := range []string{"-print", "--print"} {
		out, err := runSetup(broken, flag)
		require.NoError(t, err)
		assert.Equal(t, 3, strings.Count(out,
			"temporal operator search-attribute create --address 127.0.0.1:1 --namespace shop --name Outflow"))
		assert.Equal(t, 3, strings.Count(out, "\n"), "nothing but the commands: %s", out)
	}
	out, err := runSetup(nil, "-print")
	require.NoError(t, err)
	assert.Contains(t, out, "--address localhost:7233 --namespace default", "the SDK's own defaults")
}

func TestSetupWithoutTemporal(t *testing.T) {
	began := time.Now()
	_, err := runSetup(map[string]string{"TEMPORAL_ADDRESS": "127.0.0.1:1"}, "-wait", "1s")
	require.ErrorContains(t, err, "connecting to Temporal at 127.0.0.1:1")
	assert.Less(t, time.Since(began), 20*time.Second)
	var usage program.UsageError
	assert.NotErrorAs(t, err, &usage)
}

// fresh is a namespace without search attributes on devstack's Temporal.
type fresh struct {
	*testing.T
	client   client.Client
	name     string
	settings map[string]string
}

func newFresh(t *testing.T) *fresh {
	t.Helper()
	address := teststack.Temporal(t)

	f := &fresh{T: t, name: "setup-" + uuid.NewString()}
	f.settings = map[string]string{"TEMPORAL_ADDRESS": address, "TEMPORAL_NAMESPACE": f.name,
		"DATABASE_URL": "nonsense", "OUTFLOW_LEASE": "nonsense"}
	var err error
	f.client, err = client.Dial(client.Options{HostPort: address, Namespace: f.name,
		Logger: sdklog.NewStructuredLogger(quietly)})
	require.NoError(t, err)
	t.Cleanup(f.client.Close)
	_, err = f.client.WorkflowService().RegisterNamespace(t.Context(), &workflowservice.RegisterNamespaceRequest{
		Namespace: f.name, WorkflowExecutionRetentionPeriod: durationpb.New(24 * time.Hour),
	})
	require.NoError(t, err)
	return f
}

func (f *fresh) attributes() map[string]enums.IndexedValueType {
	f.Helper()
	types, err := namespace.New(f.client, f.name).SearchAttributes(f.Context())
	require.NoError(f, err)
	return types
}

// listed are the IDs of the runs in the Web UI's list.
func (f *fresh) listed(query string) []string {
	f.Helper()
	list, err := f.client.ListWorkflow(f.Context(), &workflowservice.ListWorkflowExecutionsRequest{Query: query})
	require.NoError(f, err)
	var ids []string
	for _, e := range list.GetExecutions() {
		ids = append(ids, e.GetExecution().GetWorkflowId())
	}
	return ids
}

func TestSetupPreparesANamespace(t *testing.T) {
	t.Parallel()
	f := newFresh(t)
	require.Empty(t, f.attributes())

	out, err := runSetup(f.settings)
	require.NoError(t, err)
	for _, name := range []string{"OutflowDestination", "OutflowType", "OutflowState"} {
		assert.Contains(t, out, name+" created\n")
		assert.Equal(t, enums.INDEXED_VALUE_TYPE_KEYWORD, f.attributes()[name])
	}
	assert.Contains(t, out, "namespace "+f.name+" is ready: it accepts starts with them")
	assert.Empty(t, f.listed(""), "the probe leaves nothing behind")

	again, err := runSetup(f.settings)
	require.NoError(t, err)
	assert.Equal(t, "OutflowDestination exists\nOutflowType exists\nOutflowState exists\n"+
		"namespace "+f.name+" is ready: it accepts starts with them\n", again)
	assert.Empty(t, f.listed(""))
	assert.Len(t, slices.Collect(maps.Keys(f.attributes())), 3)
}

func TestSetupsAtOnce(t *testing.T) {
	t.Parallel()
	f := newFresh(t)
	failed := make(chan error)
	for range 4 {
		go func() {
			_, err := runSetup(f.settings)
			failed <- err
		}()
	}
	for range 4 {
		assert.NoError(t, <-failed)
	}
	described, err := f.client.WorkflowService().DescribeNamespace(t.Context(),
		&workflowservice.DescribeNamespaceRequest{Namespace: f.name})
	require.NoError(t, err)
	assert.Len(t, described.GetConfig().GetCustomSearchAttributeAliases(), 3, "each was created once")
	assert.Empty(t, f.listed(""))
}

func TestSetupMeetsAnotherType(t *testing.T) {
	t.Parallel()
	f := newFresh(t)
	_, err := f.client.OperatorService().AddSearchAttributes(t.Context(), &operatorservice.AddSearchAttributesRequest{
		Namespace: f.name, SearchAttributes: map[string]enums.IndexedValueType{"OutflowType": enums.INDEXED_VALUE_TYPE_TEXT},
	})
	require.NoError(t, err)
	out, err := runSetup(f.settings)
	require.ErrorContains(t, err, "search attribute OutflowType of namespace "+f.name+" has type Text and wants Keyword")
	assert.Empty(t, out)
	assert.Len(t, f.attributes(), 1, "nothing was created beside it")
}

func TestSetupOfAnUnknownNamespace(t *testing.T) {
	t.Parallel()
	f := newFresh(t)
	f.settings["TEMPORAL_NAMESPACE"] = "never-" + f.name
	_, err := runSetup(f.settings)
	require.ErrorContains(t, err, "looking at the search attributes of namespace never-"+f.name)
	require.ErrorContains(t, err, "not found")
}

// acknowledges is a broker that takes everything.
type acknowledges struct{}

func (acknowledges) Publish(context.Context, outflow.Message) (string, error) { return "broker-1", nil }

// deliver runs a starter of this namespace until one message is delivered, and
// returns its ID.
func (f *fresh) deliver() uuid.UUID {
	f.Helper()
	pool := teststack.New(f.T)
	store := outboxdb.New(pool)
	w := worker.New(f.client, workflows.TaskQueueFor(outflow.DefaultOutbox),
		worker.Options{WorkerStopTimeout: 15 * time.Second})
	workflows.Register(w, activities.New(store, acknowledges{}))
	require.NoError(f, w.Start())
	defer w.Stop()

	tx, err := pool.Begin(f.Context())
	require.NoError(f, err)
	ids, err := outboxdb.Enqueue(f.Context(), tx,
		outflow.Message{Destination: "sqs://orders", Type: "order-placed", Payload: []byte("{}")})
	require.NoError(f, err)
	require.NoError(f, tx.Commit(f.Context()))

	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() {
		ended <- scanner.New(store, f.client,
			scanner.Options{PollInterval: 20 * time.Millisecond, Logger: quietly}).Run(ctx)
	}()
	defer func() {
		stop()
		require.NoError(f, <-ended)
	}()
	require.Eventually(f, func() bool {
		var state outflow.State
		require.NoError(f, pool.QueryRow(f.Context(), "SELECT state FROM outbox.messages WHERE id = $1",
			ids[0]).Scan(&state))
		return state == outflow.Delivered
	}, time.Minute, 20*time.Millisecond, "the message is delivered")
	return ids[0]
}

func TestDeliveriesStartBeforeAndAfterSetup(t *testing.T) {
	t.Parallel()
	f := newFresh(t)
	f.deliver()

	_, err := runSetup(f.settings)
	require.NoError(t, err)
	id := workflows.DeliverID(outflow.DefaultOutbox, f.deliver())
	require.Eventually(t, func() bool {
		return slices.Equal(f.listed("OutflowDestination = 'sqs://orders' AND OutflowType = 'order-placed'"),
			[]string{id})
	}, 20*time.Second, 50*time.Millisecond, "the delivery after setup, and no other, is found by its attributes")
}

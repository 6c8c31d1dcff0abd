package service

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"go.temporal.io/api/enums/v1"
	historypb "go.temporal.io/api/history/v1"
	"go.temporal.io/api/temporalproto"
	"go.temporal.io/sdk/client"
	sdklog "go.temporal.io/sdk/log"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/activities"
	"github.com/outflowhq/outflow/internal/brokers"
	"github.com/outflowhq/outflow/internal/callbacks"
	"github.com/outflowhq/outflow/internal/config"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/outboxdb"
	"github.com/outflowhq/outflow/publish"
	"github.com/outflowhq/outflow/publish/webhook"
	"github.com/outflowhq/outflow/scanner"
	"github.com/outflowhq/outflow/workflows"
)

// recordVariable names a folder: finished runs' histories are written there.
// workflows/testdata is what replay tests read.
const recordVariable = "OUTFLOW_RECORD_HISTORIES"

// world is a starter's parts on a real Temporal and a real Postgres, with a
// broker that a test plays.
type world struct {
	*testing.T
	pool     *pgxpool.Pool
	client   client.Client
	store    *outboxdb.Store
	opts     scanner.Options
	broker   *broker
	receiver *receiver
	log      *slog.Logger
}

func newWorld(t *testing.T) *world {
	t.Helper()
	return newWorldOn(t, teststack.New(t), "test-"+uuid.NewString())
}

// newWorldOn is newWorld on a database that is there.
func newWorldOn(t *testing.T, pool *pgxpool.Pool, name string) *world {
	t.Helper()
	address := teststack.Temporal(t)

	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	c, err := client.Dial(client.Options{HostPort: address, Logger: sdklog.NewStructuredLogger(log)})
	require.NoError(t, err)
	t.Cleanup(c.Close)
	return &world{
		T: t, pool: pool, client: c, store: outboxdb.New(pool), broker: &broker{}, receiver: &receiver{}, log: log,
		opts: scanner.Options{Outbox: name, TaskQueue: name, PollInterval: 20 * time.Millisecond, Logger: log},
	}
}

// work starts a worker as the programs do, and stops it when the test ends.
func (w *world) work() {
	w.Helper()
	run := worker.New(w.client, w.opts.TaskQueue, workerOptions(config.Config{}, make(chan error, 1)))
	workflows.Register(run, activities.New(w.store, w.broker,
		activities.WithCallbacks(callbacks.Sender{HTTPS: w.receiver})))
	require.NoError(w, run.Start())
	w.Cleanup(run.Stop)
}

// workApart does the same with two workers that share nothing, as two
// processes would: one runs the workflows, one the regular activities.
func (w *world) workApart() {
	w.Helper()
	workflowsOnly, activitiesOnly := workerOptions(config.Config{}, make(chan error, 1)), workerOptions(config.Config{},
		make(chan error, 1))
	workflowsOnly.LocalActivityWorkerOnly = true
	activitiesOnly.DisableWorkflowWorker = true
	for _, options := range []worker.Options{workflowsOnly, activitiesOnly} {
		c, err := client.Dial(client.Options{HostPort: teststack.Temporal(w.T),
			Logger: sdklog.NewStructuredLogger(w.log)})
		require.NoError(w, err)
		run := worker.New(c, w.opts.TaskQueue, options)
		var registry worker.Registry = run
		if options.DisableWorkflowWorker {
			registry = noWorkflows{run}
		}
		workflows.Register(registry, activities.New(outboxdb.New(w.pool), w.broker))
		require.NoError(w, run.Start())
		w.Cleanup(func() { run.Stop(); c.Close() })
	}
}

type noWorkflows struct{ worker.Registry }

func (noWorkflows) RegisterWorkflowWithOptions(any, workflow.RegisterOptions) {}

// scan starts a scanner beside the worker.
func (w *world) scan() {
	w.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- scanner.New(w.store, w.client, w.opts).Run(ctx) }()
	w.Cleanup(func() {
		cancel()
		require.NoError(w, <-ended)
	})
}

// enqueue commits one message.
func (w *world) enqueue(payload string) uuid.UUID {
	w.Helper()
	tx, err := w.pool.Begin(w.Context())
	require.NoError(w, err)
	ids, err := outboxdb.Enqueue(w.Context(), tx, outflow.Message{
		Destination: "sqs://orders", Type: "order-placed", Payload: []byte(payload),
	})
	require.NoError(w, err)
	require.NoError(w, tx.Commit(w.Context()))
	return ids[0]
}

// database is the world's own.
func (w *world) database() uuid.UUID {
	w.Helper()
	id, err := w.store.DatabaseID(w.Context())
	require.NoError(w, err)
	return id
}

// row is what the tests look at of a message.
type row struct {
	State     outflow.State
	Attempts  int
	Claims    int
	LastError string
	Retrying  bool
	Due       bool
}

func (w *world) row(id uuid.UUID) row {
	w.Helper()
	var r row
	require.NoError(w, w.pool.QueryRow(w.Context(), `
		SELECT state, attempts, claims, coalesce(last_error, ''), retrying, available_at <= now()
		  FROM outbox.messages WHERE id = $1`, id).Scan(&r.State, &r.Attempts, &r.Claims, &r.LastError, &r.Retrying, &r.Due))
	return r
}

// until waits for a condition of the row.
func (w *world) until(id uuid.UUID, condition func(r row) bool) row {
	w.Helper()
	var r row
	w.eventually(func() bool { r = w.row(id); return condition(r) }, func() string { return fmt.Sprintf("%+v", r) })
	return r
}

func (w *world) eventually(condition func() bool, state func() string) {
	w.Helper()
	for deadline := time.Now().Add(3 * time.Minute); !condition(); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			w.Fatalf("it did not come to pass within three minutes: %s", state())
		}
	}
}

func (w *world) workflowID(id uuid.UUID) string { return workflows.DeliverID(w.opts.Outbox, id) }

// closed waits for the end of the newest run and returns its status and history.
func (w *world) closed(id uuid.UUID) (enums.WorkflowExecutionStatus, *historypb.History) {
	w.Helper()
	_ = w.client.GetWorkflow(w.Context(), w.workflowID(id), "").Get(w.Context(), nil)
	described, err := w.client.DescribeWorkflowExecution(w.Context(), w.workflowID(id), "")
	require.NoError(w, err)
	return described.GetWorkflowExecutionInfo().GetStatus(), w.history(id, "")
}

// history is that of a run, replayed.
func (w *world) history(id uuid.UUID, runID string) *historypb.History {
	w.Helper()
	return w.historyOf(w.workflowID(id), runID, "")
}

// historyOf is that of a run of any workflow; part distinguishes it from the others of
// the same test.
func (w *world) historyOf(workflowID, runID, part string) *historypb.History {
	w.Helper()
	history := &historypb.History{}
	events := w.client.GetWorkflowHistory(w.Context(), workflowID, runID, false,
		enums.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
	for events.HasNext() {
		event, err := events.Next()
		require.NoError(w, err)
		history.Events = append(history.Events, event)
	}
	w.replay(history, part)
	return history
}

// replay holds the workflow's code against what it really did.
func (w *world) replay(history *historypb.History, part string) {
	w.Helper()
	replayer := worker.NewWorkflowReplayer()
	replayer.RegisterWorkflowWithOptions(workflows.Deliver, workflow.RegisterOptions{Name: workflows.WorkflowDeliver})
	replayer.RegisterWorkflowWithOptions(workflows.Callback, workflow.RegisterOptions{Name: workflows.WorkflowCallback})
	replayer.RegisterWorkflowWithOptions(workflows.Maintain, workflow.RegisterOptions{Name: workflows.WorkflowMaintain})
	replayer.RegisterWorkflowWithOptions(workflows.Stream, workflow.RegisterOptions{Name: workflows.WorkflowStream})
	require.NoError(w, replayer.ReplayWorkflowHistory(nil, history))
	if folder := os.Getenv(recordVariable); folder != "" && !w.Failed() {
		data, err := temporalproto.CustomJSONMarshalOptions{Indent: " "}.Marshal(history)
		require.NoError(w, err)
		name := strings.NewReplacer("Test", "", "/", "-").Replace(w.Name()) + part + ".json"
		require.NoError(w, os.WriteFile(filepath.Join(folder, name), append(data, '\n'), 0o644))
	}
}

func count(history *historypb.History, kind enums.EventType) int {
	n := 0
	for _, event := range history.GetEvents() {
		if event.GetEventType() == kind {
			n++
		}
	}
	return n
}

// broker answers each publish as a test says; acknowledged otherwise.
type broker struct {
	mu      sync.Mutex
	answer  func(n int) (string, error)
	refuses string // a payload that it never takes
	panics  string // a payload that it panics with
	// hear takes each message, where it is set, or refuses it. It is set before the first publish.
	hear  func(outflow.Message) error
	calls int
}

func (b *broker) Publish(_ context.Context, m outflow.Message) (string, error) {
	b.mu.Lock()
	b.calls++
	n, answer, refuses := b.calls, b.answer, b.refuses
	b.mu.Unlock()
	if b.hear != nil {
		return fmt.Sprintf("broker-%d", n), b.hear(m)
	}
	switch string(m.Payload) {
	case refuses:
		return "", errDown
	case b.panics:
		panic("can't read " + string(m.Payload))
	}
	if answer == nil {
		return fmt.Sprintf("broker-%d", n), nil
	}
	return answer(n)
}

func (b *broker) count() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.calls
}

func (b *broker) set(answer func(n int) (string, error)) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.answer = answer
}

func (n *notes) logger() *slog.Logger { return slog.New(slog.NewTextHandler(n, nil)) }

// brokersOf are the brokers that the programs have.
func brokersOf(account aws.Config, hooks webhook.Options) []brokers.Broker {
	return []brokers.Broker{brokers.SQS(account, 0), brokers.Webhooks(hooks)}
}

// publishers are those of c's brokers.
func publishers(c config.Config) []publish.Publisher { return brokers.Publishers(c.Brokers) }

// configOf is what the programs are given for the world.
func configOf(w *world) config.Config {
	return config.Config{Database: w.pool.Config(), Scanner: w.opts,
		Brokers:   brokersOf(aws.Config{Region: "eu-west-1"}, webhook.Options{}),
		Retention: outflow.DefaultRetention(), Temporal: client.Options{HostPort: teststack.Temporal(w.T)}}
}

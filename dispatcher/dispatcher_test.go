package dispatcher_test

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	sdklog "go.temporal.io/sdk/log"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/dispatcher"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/namespace"
	"github.com/outflowhq/outflow/outboxdb"
	"github.com/outflowhq/outflow/publish"
	"github.com/outflowhq/outflow/publish/webhook"
	"github.com/outflowhq/outflow/scanner"
	"github.com/outflowhq/outflow/workflows"
)

// queue publishes to sqs:// as a test says.
type queue func(n int) error

func (queue) Scheme() string { return outflow.SchemeSQS }

// counted is a queue that counts its messages.
type counted struct {
	queue
	n atomic.Int64
}

func (c *counted) Publish(context.Context, outflow.Message) (string, error) {
	return "", c.queue(int(c.n.Add(1)))
}

func takesAll(int) error { return nil }

type buffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// given are options for a test's own outbox.
func given(t *testing.T, pool *pgxpool.Pool, q *counted) (dispatcher.Options, *buffer) {
	t.Helper()
	logged := &buffer{}
	log := slog.New(slog.NewTextHandler(logged, nil))
	c, err := client.Dial(client.Options{HostPort: teststack.Temporal(t),
		Logger: sdklog.NewStructuredLogger(slog.New(slog.DiscardHandler))})
	require.NoError(t, err)
	t.Cleanup(c.Close)
	name := "test-" + uuid.NewString()
	return dispatcher.Options{
		Pool: pool, Client: c, Publishers: []publish.Publisher{q},
		Scanner: scanner.Options{Outbox: name, TaskQueue: name, PollInterval: 20 * time.Millisecond, Logger: log},
	}, logged
}

func enqueue(t *testing.T, pool *pgxpool.Pool) uuid.UUID {
	t.Helper()
	tx, err := pool.Begin(t.Context())
	require.NoError(t, err)
	m, err := outflow.JSON("sqs://orders", "order-placed", 7)
	require.NoError(t, err)
	ids, err := outboxdb.Enqueue(t.Context(), tx, m)
	require.NoError(t, err)
	require.NoError(t, tx.Commit(t.Context()))
	return ids[0]
}

func state(t *testing.T, pool *pgxpool.Pool, id uuid.UUID) (state outflow.State) {
	t.Helper()
	require.NoError(t, pool.QueryRow(t.Context(), `SELECT state FROM outbox.messages WHERE id = $1`, id).Scan(&state))
	return state
}

func eventually(t *testing.T, condition func() bool) {
	t.Helper()
	require.Eventually(t, condition, time.Minute, 5*time.Millisecond)
}

// TestTheEndSendsNothingTwice: a durable attempt is under way while the worker stops.
// With the SDK's own WorkerStopTimeout the answer would be lost, and the message sent again.
func TestTheEndSendsNothingTwice(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	sending, stopping := make(chan struct{}), make(chan struct{})
	q := &counted{queue: func(n int) error {
		if n == 1 {
			return errors.New("connection refused") // off the fast path
		}
		if n == 2 {
			close(sending)
		}
		<-stopping
		return nil
	}}
	opts, logged := given(t, pool, q)
	waiting := make(chan struct{})
	opts.Register = func(r worker.Registry) {
		r.RegisterActivityWithOptions(func(ctx context.Context) error {
			close(waiting)
			<-activity.GetWorkerStopChannel(ctx)
			close(stopping)
			return nil
		}, activity.RegisterOptions{Name: "WaitForStop"})
		r.RegisterWorkflowWithOptions(func(ctx workflow.Context) error {
			ctx = workflow.WithActivityOptions(ctx, workflow.ActivityOptions{StartToCloseTimeout: time.Minute})
			return workflow.ExecuteActivity(ctx, "WaitForStop").Get(ctx, nil)
		}, workflow.RegisterOptions{Name: "Own"})
	}
	d, err := dispatcher.New(opts)
	require.NoError(t, err)
	assert.Contains(t, logged.String(), "schemes=[sqs]")
	assert.NotContains(t, logged.String(), "WARN")
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- d.Run(ctx) }()
	_, err = opts.Client.ExecuteWorkflow(t.Context(),
		client.StartWorkflowOptions{ID: opts.Scanner.Outbox + "-own", TaskQueue: opts.Scanner.TaskQueue}, "Own")
	require.NoError(t, err)
	<-waiting
	id := enqueue(t, pool)
	d.Wake()
	<-sending
	stop()
	require.NoError(t, <-ended)

	// The next process marks what this one has published.
	opts.Register = nil
	next, err := dispatcher.New(opts)
	require.NoError(t, err)
	ctx, stop = context.WithCancel(t.Context())
	defer stop()
	go func() { ended <- next.Run(ctx) }()
	eventually(t, func() bool { return state(t, pool, id) == outflow.Delivered })
	require.EqualValues(t, 2, q.n.Load())
	stop()
	require.NoError(t, <-ended)
}

// TestRunAgain: after its end the same Dispatcher runs again, and with a Retention it
// schedules the purge.
func TestRunAgain(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	q := &counted{queue: takesAll}
	opts, _ := given(t, pool, q)
	opts.Retention, opts.Namespace = outflow.DefaultRetention(), "default"
	d, err := dispatcher.New(opts)
	require.NoError(t, err)
	schedule := opts.Client.ScheduleClient().GetHandle(t.Context(), workflows.MaintainID(opts.Scanner.Outbox))
	defer func() { _ = schedule.Delete(context.WithoutCancel(t.Context())) }()
	for range 2 {
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- d.Run(ctx) }()
		id := enqueue(t, pool)
		d.Wake()
		eventually(t, func() bool { return state(t, pool, id) == outflow.Delivered })
		eventually(t, func() bool { _, err := schedule.Describe(t.Context()); return err == nil })
		stop()
		require.NoError(t, <-ended)
	}
	require.EqualValues(t, 2, q.n.Load())
}

// TestScheduleOfAnotherDatabase: who takes the schedule from another database says so.
func TestScheduleOfAnotherDatabase(t *testing.T) {
	t.Parallel()
	first, taken := given(t, teststack.New(t), &counted{queue: takesAll})
	taker, logged := given(t, teststack.New(t), &counted{queue: takesAll})
	taker.Scanner.Outbox = first.Scanner.Outbox
	schedule := first.Client.ScheduleClient().GetHandle(t.Context(), workflows.MaintainID(first.Scanner.Outbox))
	defer func() { _ = schedule.Delete(context.WithoutCancel(t.Context())) }()
	for _, opts := range []dispatcher.Options{first, taker} {
		database, err := outboxdb.New(opts.Pool).DatabaseID(t.Context())
		require.NoError(t, err)
		opts.Retention, opts.Namespace = outflow.DefaultRetention(), "default"
		d, err := dispatcher.New(opts)
		require.NoError(t, err)
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() { ended <- d.Run(ctx) }()
		eventually(t, func() bool {
			found, err := namespace.FindSchedule(t.Context(), opts.Client, opts.Namespace, opts.Scanner.Outbox)
			return err == nil && found.Database == database
		})
		stop()
		require.NoError(t, <-ended)
	}
	const warning = "the schedule maintains another database"
	assert.NotContains(t, taken.String(), warning)
	assert.Contains(t, logged.String(), warning)
}

// TestWhatIsNotAllowedWaits: messages for a host that no setting allows get no run.
func TestWhatIsNotAllowedWaits(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	opts, logged := given(t, pool, &counted{queue: takesAll})
	opts.Publishers = append(opts.Publishers, webhook.New(webhook.Options{}))
	d, err := dispatcher.New(opts)
	require.NoError(t, err)
	var id uuid.UUID
	require.NoError(t, pool.QueryRow(t.Context(),
		`SELECT outbox.enqueue('https://shop.example/in', 'order-placed', '{}')`).Scan(&id))
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- d.Run(ctx) }()
	var lastError string
	eventually(t, func() bool {
		return pool.QueryRow(t.Context(), `SELECT coalesce(last_error, '') FROM outbox.messages WHERE id = $1`,
			id).Scan(&lastError) == nil && lastError != ""
	})
	stop()
	require.NoError(t, <-ended)
	assert.Contains(t, lastError, "the host is not allowed")
	assert.Contains(t, logged.String(), "the host is not allowed")
	var started bool
	require.NoError(t, pool.QueryRow(t.Context(),
		`SELECT started OR state <> 'pending' FROM outbox.messages WHERE id = $1`, id).Scan(&started))
	assert.False(t, started)
}

func TestRunWithoutAnOutbox(t *testing.T) {
	t.Parallel()
	opts, _ := given(t, teststack.NewEmpty(t), &counted{queue: takesAll})
	d, err := dispatcher.New(opts)
	require.NoError(t, err)
	require.ErrorContains(t, d.Run(t.Context()), "outflow migrate up")
}

func TestNewNamesWhatIsMissing(t *testing.T) {
	t.Parallel()
	_, err := dispatcher.New(dispatcher.Options{Retention: outflow.DefaultRetention(),
		Worker: worker.Options{DisableWorkflowWorker: true}})
	for _, wants := range []string{"Pool: wants", "Client: wants", "Publishers: wants", "Namespace: wants",
		"Worker.DisableWorkflowWorker: wants false"} {
		require.ErrorContains(t, err, wants)
	}
	q := &counted{queue: takesAll}
	opts, _ := given(t, teststack.NewEmpty(t), q)
	opts.Publishers = []publish.Publisher{q, q}
	_, err = dispatcher.New(opts)
	require.ErrorContains(t, err, "two publishers for sqs://")
}

// TestNewWarns of options with which messages go out twice, or slowly.
func TestNewWarns(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		change func(*dispatcher.Options)
		warns  []string
	}{
		"nothing": {func(*dispatcher.Options) {}, nil},
		"enough": {func(o *dispatcher.Options) {
			o.Worker.WorkerStopTimeout = time.Minute
			o.Worker.MaxConcurrentWorkflowTaskExecutionSize = 200
			o.Worker.MaxConcurrentLocalActivityExecutionSize = 200
		}, nil},
		"many in flight": {func(o *dispatcher.Options) { o.Scanner.InFlight = 5000 }, nil},
		"stop": {func(o *dispatcher.Options) { o.Worker.WorkerStopTimeout = time.Second },
			[]string{"published twice", "option=WorkerStopTimeout got=1s", "35s"}},
		"panics": {func(o *dispatcher.Options) { o.Worker.WorkflowPanicPolicy = worker.FailWorkflow },
			[]string{"published again", "option=WorkflowPanicPolicy"}},
		"no activities": {func(o *dispatcher.Options) { o.Worker.LocalActivityWorkerOnly = true },
			[]string{"option=LocalActivityWorkerOnly"}},
		"few slots": {func(o *dispatcher.Options) { o.Worker.MaxConcurrentWorkflowTaskExecutionSize = 20 },
			[]string{"option=MaxConcurrentWorkflowTaskExecutionSize got=20", "200"}},
		"few local slots": {func(o *dispatcher.Options) { o.Worker.MaxConcurrentLocalActivityExecutionSize = 20 },
			[]string{"option=MaxConcurrentLocalActivityExecutionSize got=20", "200"}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			opts, logged := given(t, teststack.NewEmpty(t), &counted{queue: takesAll})
			c.change(&opts)
			_, err := dispatcher.New(opts)
			require.NoError(t, err)
			for _, wants := range c.warns {
				assert.Contains(t, logged.String(), wants)
			}
			if c.warns == nil {
				assert.NotContains(t, logged.String(), "WARN")
			}
		})
	}
}

// Messages to a queue that does not exist wait for as long as the program says, and its process is known
// meanwhile.
func TestMissingGrace(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	missing := &counted{queue: func(int) error { return outflow.Permanent(outflow.ErrNoDestination) }}
	opts, _ := given(t, pool, missing)
	opts.Scanner.MissingGrace = 3 * time.Second
	d, err := dispatcher.New(opts)
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- d.Run(ctx) }()
	id := enqueue(t, pool)
	eventually(t, func() bool { return missing.n.Load() > 0 })
	var schemes []string
	eventually(t, func() bool {
		return pool.QueryRow(t.Context(), `SELECT schemes FROM outbox.processes`).Scan(&schemes) == nil
	})
	assert.Equal(t, []string{"sqs"}, schemes)
	eventually(t, func() bool { return state(t, pool, id) == outflow.Dead })
	var waited time.Duration
	require.NoError(t, pool.QueryRow(t.Context(), `SELECT finished_at - due_at FROM outbox.messages`).Scan(&waited))
	assert.GreaterOrEqual(t, waited, opts.Scanner.MissingGrace)
	cancel()
	require.NoError(t, <-ended)
}

// TestABacklogGoesByAStream: a program that takes streams delivers a backlog by one run.
func TestABacklogGoesByAStream(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	q := &counted{queue: takesAll}
	opts, logged := given(t, pool, q)
	opts.Streams, opts.Scanner.StreamAbove = 1, 500
	d, err := dispatcher.New(opts)
	require.NoError(t, err)
	const backlog = 3000
	_, err = pool.Exec(t.Context(), `SELECT outbox.enqueue('sqs://orders', 'order-placed', '{}') FROM generate_series(1, $1)`,
		backlog)
	require.NoError(t, err)
	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- d.Run(ctx) }()
	var streamed, delivered int
	eventually(t, func() bool {
		return pool.QueryRow(t.Context(), `SELECT count(*) FILTER (WHERE streamed), count(*) FROM outbox.messages
			WHERE state = 'delivered'`).Scan(&streamed, &delivered) == nil && delivered == backlog
	})
	assert.Greater(t, streamed, backlog/2)
	assert.EqualValues(t, backlog, q.n.Load(), "each once")
	assert.Contains(t, logged.String(), "a stream delivers the backlog")
	stop()
	require.NoError(t, <-ended)
	var left int
	require.NoError(t, pool.QueryRow(t.Context(), `SELECT count(*) FROM outbox.pages`).Scan(&left))
	assert.Zero(t, left, "pages that nobody ended")
}

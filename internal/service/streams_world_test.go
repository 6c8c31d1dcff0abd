package service

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"go.temporal.io/api/common/v1"
	"go.temporal.io/api/enums/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/activities"
	"github.com/outflowhq/outflow/internal/callbacks"
	"github.com/outflowhq/outflow/internal/config"
	"github.com/outflowhq/outflow/outboxdb"
	"github.com/outflowhq/outflow/publish"
	"github.com/outflowhq/outflow/scanner"
	"github.com/outflowhq/outflow/workflows"
)

// backlogged is the destination that the tests of streams deliver to.
const backlogged = "sqs://backlogged"

// batches is a broker that takes batches, and counts what it acknowledged.
type batches struct {
	mu     sync.Mutex
	answer func(m outflow.Message) error // where set, and not nil: it refuses
	takes  time.Duration                 // of each request
	sent   map[uuid.UUID]int
	order  []uuid.UUID
}

func (b *batches) Publish(_ context.Context, m outflow.Message) (string, error) {
	b.mu.Lock()
	takes := b.takes
	b.mu.Unlock()
	time.Sleep(takes)
	return b.take(m)
}

func (b *batches) PublishBatch(_ context.Context, _ string, messages []outflow.Message) []publish.Result {
	b.mu.Lock()
	takes := b.takes
	b.mu.Unlock()
	time.Sleep(takes)
	results := make([]publish.Result, len(messages))
	for i, m := range messages {
		results[i].BrokerMessageID, results[i].Err = b.take(m)
	}
	return results
}

func (b *batches) take(m outflow.Message) (string, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.answer != nil {
		if err := b.answer(m); err != nil {
			return "", err
		}
	}
	b.sent[m.ID]++
	b.order = append(b.order, m.ID)
	return "broker-" + m.ID.String(), nil
}

func (b *batches) set(change func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	change()
}

// count is how many messages were acknowledged, and how many of them more than once.
func (b *batches) count() (messages, twice int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, n := range b.sent {
		if n > 1 {
			twice++
		}
	}
	return len(b.sent), twice
}

// streams is a world whose backlog goes to a broker by streams.
type streams struct {
	*world
	queue *batches
}

func newStreams(w *world) *streams {
	w.Helper()
	return &streams{world: w, queue: &batches{sent: map[uuid.UUID]int{}}}
}

// deliver starts a starter's parts beside the streams: a scanner, and a worker of single messages.
func (s *streams) deliver(change ...func(*scanner.Options)) {
	s.Helper()
	s.opts.InFlight = 20 // the others of these tests want some of Temporal, too
	for _, c := range change {
		c(&s.opts)
	}
	run := worker.New(s.client, s.opts.TaskQueue, workerOptions(config.Config{}, make(chan error, 1)))
	workflows.Register(run, activities.New(s.store, s.queue,
		activities.WithCallbacks(callbacks.Sender{HTTPS: s.receiver})))
	require.NoError(s, run.Start())
	s.Cleanup(run.Stop)
	s.scan()
}

// serve starts a worker of streams over a pool as a process of its own does, and returns what stops it.
func (s *streams) serve(pool *pgxpool.Pool, publisher activities.BatchPublisher) (stop func()) {
	s.Helper()
	store := outboxdb.New(pool)
	run := worker.New(s.client, workflows.StreamTaskQueue(s.opts.TaskQueue),
		streamWorkerOptions(config.Config{Streams: config.DefaultStreams}, make(chan error, 1)))
	workflows.RegisterStream(run, activities.NewStreams(activities.New(store, nil), store, publisher))
	require.NoError(s, run.Start())
	stop = sync.OnceFunc(run.Stop)
	s.Cleanup(stop)
	return stop
}

// backlog commits n messages that are due.
func (s *streams) backlog(n int) {
	s.Helper()
	_, err := s.pool.Exec(s.Context(), `
		INSERT INTO outbox.messages (id, destination, type, payload)
		SELECT gen_random_uuid(), $1, 'order-placed', '{}' FROM generate_series(1, $2::int)`, backlogged, n)
	require.NoError(s, err)
}

// begin starts the stream.
func (s *streams) begin() client.WorkflowRun {
	s.Helper()
	run, err := s.client.ExecuteWorkflow(s.Context(), workflows.StreamOptions(s.opts.Outbox, s.opts.TaskQueue, backlogged),
		workflows.WorkflowStream,
		workflows.StreamInput{Outbox: s.opts.Outbox, Database: s.database(), Destination: backlogged})
	require.NoError(s, err)
	return run
}

// number counts rows.
func (s *streams) number(condition string, args ...any) (n int) {
	s.Helper()
	require.NoError(s, s.pool.QueryRow(context.WithoutCancel(s.Context()),
		`SELECT count(*) FROM outbox.messages WHERE `+condition, args...).Scan(&n))
	return n
}

func (s *streams) exec(sql string, args ...any) {
	s.Helper()
	_, err := s.pool.Exec(s.Context(), sql, args...)
	require.NoError(s, err)
}

// says reads one value.
func (s *streams) says(sql string) (holds bool) {
	s.Helper()
	require.NoError(s, s.pool.QueryRow(s.Context(), sql).Scan(&holds))
	return holds
}

// untilSent waits until the broker has that many messages.
func (s *streams) untilSent(n int) {
	s.Helper()
	s.eventually(func() bool { sent, _ := s.queue.count(); return sent >= n }, func() string {
		sent, _ := s.queue.count()
		return fmt.Sprintf("%d of %d are sent", sent, n)
	})
}

// untilDelivered waits until that many messages are delivered.
func (s *streams) untilDelivered(n int) {
	s.Helper()
	s.eventually(func() bool { return s.number("state = 'delivered'") >= n }, func() string {
		var stands string
		_ = s.pool.QueryRow(s.Context(), `SELECT string_agg(c::text, ' ') FROM (
			SELECT state, started, streamed, parked, retrying, claims, count(*) FROM outbox.messages GROUP BY 1, 2, 3, 4, 5, 6) AS c`).
			Scan(&stands)
		var how string
		_ = s.pool.QueryRow(s.Context(), `SELECT s::text FROM outbox.streams AS s`).Scan(&how)
		described, _ := s.client.DescribeWorkflowExecution(s.Context(), s.execution().GetWorkflowId(), "")
		return fmt.Sprintf("of %d: %s; the stream: %s; its activities: %s", n, stands, how, described.GetPendingActivities())
	})
}

// requireOnce requires that all messages were delivered, each by one acknowledgement.
func (s *streams) requireOnce(n int) {
	s.Helper()
	require.Equal(s, n, s.number("state = 'delivered'"))
	sent, twice := s.queue.count()
	require.Equal(s, n, sent)
	require.Zero(s, twice)
}

func (s *streams) execution() *common.WorkflowExecution {
	return &common.WorkflowExecution{WorkflowId: workflows.StreamID(s.opts.Outbox, backlogged)}
}

// activity waits until the run's activity is in a state.
func (s *streams) activity(state enums.PendingActivityState) {
	s.Helper()
	s.eventually(func() bool {
		described, err := s.client.DescribeWorkflowExecution(s.Context(), s.execution().GetWorkflowId(), "")
		require.NoError(s, err)
		pending := described.GetPendingActivities()
		return len(pending) == 1 && pending[0].GetState() == state
	}, func() string { return "its activity is not " + state.String() })
}

func (s *streams) pause() {
	s.Helper()
	_, err := s.client.WorkflowService().PauseActivity(s.Context(), &workflowservice.PauseActivityRequest{
		Namespace: "default", Execution: s.execution(), Identity: "a test",
		Activity: &workflowservice.PauseActivityRequest_Id{Id: workflows.ActivityIDStream}})
	require.NoError(s, err)
}

func (s *streams) unpause() {
	s.Helper()
	_, err := s.client.WorkflowService().UnpauseActivity(s.Context(), &workflowservice.UnpauseActivityRequest{
		Namespace: "default", Execution: s.execution(), Identity: "a test",
		Activity: &workflowservice.UnpauseActivityRequest_Id{Id: workflows.ActivityIDStream}})
	require.NoError(s, err)
}

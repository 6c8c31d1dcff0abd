package operator

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/client"
	sdklog "go.temporal.io/sdk/log"
	"go.temporal.io/sdk/worker"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/activities"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/namespace"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/outboxdb"
	"github.com/outflowhq/outflow/scanner"
	"github.com/outflowhq/outflow/workflows"
)

// world is an operator beside a starter's parts, on a real Temporal and a real
// Postgres, with a broker that a test plays.
type world struct {
	*testing.T
	pool     *pgxpool.Pool
	client   client.Client
	operator *Operator
	by       Actor
	broker   *broker
	opts     scanner.Options
}

func newWorld(t *testing.T) *world {
	t.Helper()
	address := teststack.Temporal(t)
	log := slog.New(slog.NewTextHandler(io.Discard, nil))
	c, err := client.Dial(client.Options{HostPort: address, Logger: sdklog.NewStructuredLogger(log)})
	require.NoError(t, err)
	t.Cleanup(c.Close)
	pool := teststack.New(t)
	name := "operator-" + uuid.NewString()
	return &world{
		T: t, pool: pool, client: c, operator: New(pool, NewRuns(c),
			name), by: Actor{Who: "ada@host"}, broker: &broker{sent: map[uuid.UUID][]string{}},
		opts: scanner.Options{Outbox: name, TaskQueue: name, PollInterval: 10 * time.Millisecond, Logger: log},
	}
}

// start starts a scanner and its worker, as a starter does.
func (w *world) start() {
	w.Helper()
	store := outboxdb.New(w.pool)
	w.work(store)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- scanner.New(store, w.client, w.opts).Run(ctx) }()
	w.Cleanup(func() {
		cancel()
		require.NoError(w, <-ended)
	})
}

func (w *world) work(store *outboxdb.Store) {
	w.Helper()
	run := worker.New(w.client, w.opts.TaskQueue, worker.Options{WorkerStopTimeout: 15 * time.Second})
	workflows.Register(run, activities.New(store, w.broker))
	require.NoError(w, run.Start())
	w.Cleanup(run.Stop)
}

func (w *world) enqueue(destination string) uuid.UUID {
	w.Helper()
	id, err := w.operator.Send(w.Context(),
		outflow.Message{Destination: destination, Type: "order-placed", Payload: []byte("{}")}, w.by)
	require.NoError(w, err)
	return id
}

func (w *world) row(id uuid.UUID) MessageStatus {
	w.Helper()
	s, err := w.operator.Message(w.Context(), id)
	require.NoError(w, err)
	return s
}

func (w *world) until(id uuid.UUID, condition func(MessageStatus) bool) MessageStatus {
	w.Helper()
	for deadline := time.Now().Add(30 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		s := w.row(id)
		if condition(s) {
			return s
		}
		if time.Now().After(deadline) {
			w.Fatalf("it did not come to pass within 30 s: %+v", s)
		}
	}
}

func (w *world) untilState(id uuid.UUID, state outflow.State) MessageStatus {
	w.Helper()
	return w.until(id, func(s MessageStatus) bool { return s.State == state })
}

// untilBackoff waits until the message's run waits for its next attempt.
func (w *world) untilBackoff(id uuid.UUID) {
	w.Helper()
	w.until(id, func(MessageStatus) bool {
		run, err := w.operator.runs.Describe(w.Context(), w.operator.workflowID(id))
		return err == nil && len(run.Activities) == 1 && run.Activities[0].State == "Scheduled" &&
			run.Activities[0].Attempt > 1
	})
}

func (w *world) execute(sql string, args ...any) {
	w.Helper()
	_, err := w.pool.Exec(w.Context(), sql, args...)
	require.NoError(w, err)
}

// audited are the acts noted for a message: what, at which generation, who and why.
func (w *world) audited(id uuid.UUID) (acts []string) {
	w.Helper()
	entries, err := w.operator.audit(w.Context(), id)
	require.NoError(w, err)
	for _, e := range entries {
		acts = append(acts, fmt.Sprintf("%s %d %s: %s", e.Act, *e.Generation, e.Who, e.Why))
	}
	return acts
}

// one is the only answer of an act.
func (w *world) one(answers []Answer, err error) Answer {
	w.Helper()
	require.NoError(w, err)
	require.Len(w, answers, 1)
	return answers[0]
}

// broker notes what it acknowledges, and where.
type broker struct {
	mu     sync.Mutex
	answer func(m outflow.Message) error
	sent   map[uuid.UUID][]string
	calls  int
}

func (b *broker) Publish(_ context.Context, m outflow.Message) (string, error) {
	b.mu.Lock()
	b.calls++
	answer := b.answer
	b.mu.Unlock()
	if answer != nil {
		if err := answer(m); err != nil {
			return "", err
		}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	b.sent[m.ID] = append(b.sent[m.ID], m.Destination)
	return "broker: " + m.Destination, nil
}

func (b *broker) set(answer func(m outflow.Message) error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.answer = answer
}

func (b *broker) got(id uuid.UUID) []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.sent[id]
}

// Cancels meet their messages anywhere between the enqueue and the mark. Each
// message has one end, and what was answered "cancelled" was not sent. A third
// goes where nothing is ever taken, and a third is cancelled once the broker has
// it: so both verdicts are there, whatever the others come to.
func TestCancelBesideAPublish(t *testing.T) {
	t.Parallel()
	const each = 20
	w := newWorld(t)
	w.broker.set(func(m outflow.Message) error {
		time.Sleep(time.Duration(rand.IntN(20)) * time.Millisecond)
		refuses := strings.HasPrefix(m.Destination, "sqs://never-")
		if refuses || m.Destination == "sqs://sometimes" && rand.IntN(3) == 0 {
			return errors.New("try again")
		}
		return nil
	})
	w.start()
	somewhere := func() { time.Sleep(time.Duration(rand.IntN(60)) * time.Millisecond) }
	ids := map[uuid.UUID]string{}
	answers := make(map[uuid.UUID]Answer)
	var mu sync.Mutex
	var cancels sync.WaitGroup
	cancel := func(destination string, when func(uuid.UUID)) {
		id := w.enqueue(destination)
		ids[id] = destination
		cancels.Go(func() {
			when(id)
			got, err := w.operator.Cancel(t.Context(), []uuid.UUID{id}, 20*time.Second, w.by)
			if !assert.NoError(t, err) {
				return
			}
			mu.Lock()
			defer mu.Unlock()
			answers[id] = got[0]
			if got[0].Verdict == Done {
				assert.Empty(t, w.broker.got(id), "answered %q", got[0].Text)
			}
		})
	}
	for i := range each {
		// One for each: failures of many would open a breaker, and keep them from their runs.
		cancel(fmt.Sprintf("sqs://never-%d", i), func(uuid.UUID) { somewhere() })
		cancel("sqs://always", func(id uuid.UUID) {
			assert.Eventually(t, func() bool { return len(w.broker.got(id)) > 0 }, 30*time.Second, time.Millisecond)
		})
		cancel("sqs://sometimes", func(uuid.UUID) { somewhere() })
	}
	cancels.Wait()
	n := map[string]map[Verdict]int{"never": {}, "always": {}, "sometimes": {}}
	for id, destination := range ids {
		// What is still open closes; then nothing can be sent any more.
		_ = w.client.GetWorkflow(t.Context(), w.operator.workflowID(id), "").Get(t.Context(), nil)
		a, s := answers[id], w.row(id)
		kind, _, _ := strings.Cut(strings.TrimPrefix(destination, "sqs://"), "-")
		n[kind][a.Verdict]++
		switch a.Verdict {
		case Done:
			assert.Equal(t, outflow.Cancelled, s.State)
			assert.Empty(t, w.broker.got(id))
		case Refused:
			assert.Equal(t, "too late: delivered", a.Text)
			assert.Equal(t, outflow.Delivered, s.State)
			assert.Len(t, w.broker.got(id), 1)
		default:
			t.Errorf("%s: %s, row %s", id, a.Text, s.State)
		}
	}
	assert.Equal(t, map[Verdict]int{Done: each}, n["never"])
	assert.Equal(t, map[Verdict]int{Refused: each}, n["always"])
	t.Logf("of those cancelled anywhere: %v", n["sometimes"])
}

func TestCancelComesTooLate(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	sending, release := make(chan struct{}, 10), make(chan struct{})
	w.broker.set(func(outflow.Message) error { sending <- struct{}{}; <-release; return nil })
	w.start()
	id := w.enqueue("sqs://orders")
	<-sending
	a := w.one(w.operator.Cancel(t.Context(), []uuid.UUID{id}, 300*time.Millisecond, w.by))
	assert.Equal(t, Undecided, a.Verdict, "the broker may have it: %s", a.Text)
	close(release)
	a = w.one(w.operator.Cancel(t.Context(), []uuid.UUID{id}, 20*time.Second, w.by))
	assert.Equal(t, Refused, a.Verdict)
	assert.Equal(t, "too late: delivered", a.Text)
	assert.Len(t, w.broker.got(id), 1)
}

func TestCancelDuringBackoff(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.broker.set(func(outflow.Message) error {
		return &outflow.Failure{Class: outflow.ClassUnavailable, RetryAfter: 50 * time.Second,
			Err: errors.New("throttled")}
	})
	w.start()
	id := w.enqueue("sqs://orders")
	w.until(id, func(s MessageStatus) bool { return s.Retrying && s.Attempts >= 1 })
	a := w.one(w.operator.Cancel(t.Context(), []uuid.UUID{id}, 40*time.Second, w.by))
	assert.Equal(t, Done, a.Verdict, "it does not wait for the next attempt: %s", a.Text)
	assert.Equal(t, outflow.Cancelled, w.row(id).State)
	assert.Empty(t, w.broker.got(id))
}

// Temporal has lost the run, or never had one.
func TestCancelWithoutARun(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.enqueue("sqs://orders")
	w.execute(`UPDATE outbox.messages SET started = true, claims = 1, available_at = now() + interval '2 seconds' WHERE id = $1`, id)
	a := w.one(w.operator.Cancel(t.Context(), []uuid.UUID{id}, 0, w.by))
	assert.Equal(t, Undecided, a.Verdict)
	assert.Contains(t, a.Text, "it has no run, and is leased until ")
	assert.Equal(t, outflow.Pending, w.row(id).State, "a start may be on its way")
	a = w.one(w.operator.Cancel(t.Context(), []uuid.UUID{id}, 20*time.Second, w.by))
	assert.Equal(t, Done, a.Verdict, a.Text)
	s := w.row(id)
	assert.Equal(t, outflow.Cancelled, s.State)
	assert.True(t, s.FinishedAt.After(s.AvailableAt), "not before its lease was over")
}

// A run that starts after the request sees it, whoever claimed the message.
func TestCancelBeforeTheStart(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.enqueue("sqs://orders")
	w.execute(`UPDATE outbox.messages SET started = true, claims = 1, available_at = now() + interval '1 second' WHERE id = $1`, id)
	a := w.one(w.operator.Cancel(t.Context(), []uuid.UUID{id}, 0, w.by))
	require.Equal(t, Undecided, a.Verdict)
	w.start()
	assert.Equal(t, "cancelled: an operator asked for it", *w.untilState(id, outflow.Cancelled).LastError)
	assert.Empty(t, w.broker.got(id))
}

func TestRedirectWhileTheOldBrokerAcknowledges(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	sending, release := make(chan struct{}, 10), make(chan struct{})
	w.broker.set(func(m outflow.Message) error {
		if m.Destination == "sqs://old" {
			sending <- struct{}{}
			<-release
		}
		return nil
	})
	w.start()
	id := w.enqueue("sqs://old")
	<-sending
	a := w.one(w.operator.Redirect(t.Context(), []uuid.UUID{id}, "sqs://new", w.by))
	assert.Equal(t, Done, a.Verdict, a.Text)
	assert.Equal(t, 2, a.Generation)
	assert.Equal(t, outflow.Pending, w.row(id).State)
	close(release)
	s := w.untilState(id, outflow.Delivered)
	assert.Equal(t, "broker: sqs://new", *s.BrokerMessageID)
	assert.Equal(t, 2, s.Generation)
	assert.Equal(t, []string{"sqs://old", "sqs://new"}, w.broker.got(id))
}

func TestRedirectARetryingMessage(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.broker.set(func(m outflow.Message) error {
		if m.Destination == "sqs://old" {
			return errors.New("refused")
		}
		return nil
	})
	w.start()
	id := w.enqueue("sqs://old")
	w.until(id, func(s MessageStatus) bool { return s.Retrying })
	a := w.one(w.operator.Redirect(t.Context(), []uuid.UUID{id}, "sqs://new", w.by))
	assert.Equal(t, Done, a.Verdict, a.Text)
	assert.Contains(t, a.Text, "its run was signalled")
	s := w.untilState(id, outflow.Delivered)
	assert.Equal(t, "sqs://new", s.Destination)
	assert.Equal(t, []string{"sqs://new"}, w.broker.got(id))

	w.broker.set(func(m outflow.Message) error {
		if m.Destination == "sqs://gone" {
			return outflow.Permanent(errors.New("no such queue"))
		}
		return nil
	})
	dead := w.enqueue("sqs://gone")
	w.untilState(dead, outflow.Dead)
	a = w.one(w.operator.Redirect(t.Context(), []uuid.UUID{dead}, "sqs://new", w.by))
	assert.Equal(t, Done, a.Verdict, a.Text)
	assert.Equal(t, "redirected to sqs://new", a.Text)
	assert.Equal(t, 2, w.untilState(dead, outflow.Delivered).Generation)
	assert.Equal(t, []string{"sqs://new"}, w.broker.got(dead))
}

func TestRescheduleARetryingMessage(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.broker.set(func(outflow.Message) error { return errors.New("refused") })
	w.start()
	id := w.enqueue("sqs://orders")
	w.until(id, func(s MessageStatus) bool { return s.Retrying })
	a := w.one(w.operator.Reschedule(t.Context(), []uuid.UUID{id}, time.Time{}, time.Hour, w.by))
	assert.Equal(t, Done, a.Verdict, a.Text)
	_ = w.client.GetWorkflow(t.Context(), w.operator.workflowID(id), "").Get(t.Context(), nil)
	s := w.row(id)
	assert.Equal(t, "delayed", s.Phase, "the run that made way left it as it is")
	assert.False(t, s.AvailableAt.Before(s.DueAt))

	w.broker.set(nil)
	a = w.one(w.operator.Reschedule(t.Context(), []uuid.UUID{id}, time.Time{}, 0, w.by))
	assert.Equal(t, Done, a.Verdict, a.Text)
	s = w.untilState(id, outflow.Delivered)
	assert.Equal(t, 3, s.Generation)
	assert.Len(t, w.broker.got(id), 1)
}

// A dead message is retried while its old run, or a copy of it, still marks.
func TestRetrySupersedesTheOldRun(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.broker.set(func(outflow.Message) error { return outflow.Permanent(errors.New("no such queue")) })
	w.work(outboxdb.New(w.pool))
	id := w.enqueue("sqs://orders")
	database, err := outboxdb.New(w.pool).DatabaseID(t.Context())
	require.NoError(t, err)
	deliver := func(generation int) outflow.Outcome {
		run, err := w.client.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{
			ID: w.operator.workflowID(id), TaskQueue: w.opts.TaskQueue, WorkflowIDReusePolicy: enums.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE,
		}, workflows.WorkflowDeliver, workflows.DeliverInput{Outbox: w.opts.Outbox, Database: database, MessageID: id, Generation: generation})
		require.NoError(t, err)
		var outcome outflow.Outcome
		_ = run.Get(t.Context(), &outcome)
		return outcome
	}
	deliver(1)
	require.Equal(t, outflow.Dead, w.row(id).State)
	a := w.one(w.operator.Retry(t.Context(), []uuid.UUID{id}, w.by))
	assert.Equal(t, Done, a.Verdict)
	assert.Equal(t, 2, a.Generation)

	calls := w.broker.calls
	assert.Equal(t, 2, deliver(1).Generation, "it says how the row stands")
	assert.Equal(t, calls, w.broker.calls, "and sends nothing")
	outcome, err := outboxdb.New(w.pool).Finish(t.Context(),
		outbox.Ending{Ref: outbox.Ref{ID: id, Generation: 1}, State: outflow.Dead, LastError: "again"})
	require.NoError(t, err)
	assert.Equal(t, outflow.Pending, outcome.State)
	w.broker.set(nil)
	assert.Equal(t, outflow.Delivered, deliver(2).State)
}

func TestRetryOfARetryingMessage(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	// So far apart that between two attempts nothing is under way.
	w.broker.set(func(outflow.Message) error {
		return &outflow.Failure{Class: outflow.ClassRetryable, RetryAfter: 50 * time.Second,
			Err: errors.New("throttled")}
	})
	w.start()
	id := w.enqueue("sqs://orders")
	w.untilBackoff(id)
	leased := w.row(id).AvailableAt
	w.by.Why = "the queue is back"
	a := w.one(w.operator.Retry(t.Context(), []uuid.UUID{id}, w.by))
	assert.Equal(t, Done, a.Verdict)
	assert.Equal(t, "retrying: its run was signalled", a.Text)
	assert.Equal(t, []string{"send 1 ada@host: ", "try-now 1 ada@host: the queue is back"}, w.audited(id))
	run, err := w.operator.runs.Describe(t.Context(), w.operator.workflowID(id))
	require.NoError(t, err)
	assert.Equal(t, "Running", run.Status)
	events := w.client.GetWorkflowHistory(t.Context(), run.WorkflowID, run.RunID, false,
		enums.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
	var signals []string
	for events.HasNext() {
		event, err := events.Next()
		require.NoError(t, err)
		if s := event.GetWorkflowExecutionSignaledEventAttributes(); s != nil {
			signals = append(signals, s.GetSignalName())
		}
	}
	assert.Equal(t, []string{workflows.SignalTryNow}, signals)

	w.until(id, func(s MessageStatus) bool { return !s.AvailableAt.Equal(leased) }) // by the attempt that was asked for

	// The run is lost, as with its namespace: the lease waits for nobody.
	w.untilBackoff(id)
	require.NoError(t, w.client.TerminateWorkflow(t.Context(), run.WorkflowID, "", "lost"))
	w.broker.set(nil)
	w.execute(`DELETE FROM outbox.destinations`) // nor for the breaker
	w.execute(`UPDATE outbox.messages SET available_at = now() + interval '1 hour' WHERE id = $1`, id)
	a = w.one(w.operator.Retry(t.Context(), []uuid.UUID{id}, w.by))
	assert.Equal(t, "retrying: it had no run; the next scanner starts one", a.Text)
	assert.Equal(t, "release 1 ada@host: the queue is back", w.audited(id)[2], "no run was signalled")
	assert.Len(t, w.audited(id), 3)
	w.untilState(id, outflow.Delivered)
}

func TestDescribe(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.broker.set(func(outflow.Message) error { return fmt.Errorf("refused by policy") })
	w.start()
	id := w.enqueue("sqs://orders")
	_, err := w.operator.runs.Describe(t.Context(), "nobody/"+uuid.NewString())
	require.ErrorIs(t, err, ErrNoRun)
	w.until(id, func(s MessageStatus) bool { return s.Attempts >= 3 })
	run, err := w.operator.runs.Describe(t.Context(), w.operator.workflowID(id))
	require.NoError(t, err)
	require.Len(t, run.Activities, 1)
	assert.Equal(t, workflows.ActivityIDPublish, run.Activities[0].ID)
	assert.Equal(t, "refused by policy", run.Activities[0].LastFailure)
	assert.Nil(t, run.ClosedAt)

	lost := NewRuns(w.client)
	health := namespace.New(w.client, "default")
	pollers, _, err := health.Pollers(t.Context(), w.opts.TaskQueue)
	require.NoError(t, err)
	assert.Positive(t, pollers)
	require.ErrorIs(t, lost.TryNow(t.Context(), "nobody/"+uuid.NewString()), ErrNoRun)
	require.ErrorIs(t, lost.Cancel(t.Context(), "nobody/"+uuid.NewString()), ErrNoRun)

	// A namespace that is not there is no message without a run.
	elsewhere, err := client.NewLazyClient(client.Options{HostPort: teststack.Temporal(t), Namespace: "nowhere",
		Logger: sdklog.NewStructuredLogger(w.opts.Logger)})
	require.NoError(t, err)
	defer elsewhere.Close()
	err = NewRuns(elsewhere).Cancel(t.Context(), w.operator.workflowID(id))
	require.Error(t, err)
	require.NotErrorIs(t, err, ErrNoRun)
}

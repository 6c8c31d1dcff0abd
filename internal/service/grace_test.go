package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/worker"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/activities"
	"github.com/outflowhq/outflow/internal/callbacks"
	"github.com/outflowhq/outflow/internal/config"
	"github.com/outflowhq/outflow/internal/presence"
	"github.com/outflowhq/outflow/operator"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/outboxdb"
	"github.com/outflowhq/outflow/publish"
	"github.com/outflowhq/outflow/publish/publishtest/fakesqs"
	"github.com/outflowhq/outflow/publish/webhook"
	"github.com/outflowhq/outflow/scanner"
	"github.com/outflowhq/outflow/workflows"
)

// exchange is the broker of a scheme whose destinations a test makes, and whose answers it sets.
type exchange struct {
	scheme string

	mu      sync.Mutex
	there   map[string]bool
	err     error // of every destination
	sends   map[string]int
	looks   int
	arrived map[uuid.UUID]int
	// leaves is called before the next answer about a destination that does not exist.
	leaves func()
}

func newExchange(scheme string, there ...string) *exchange {
	x := &exchange{scheme: scheme, there: map[string]bool{}, sends: map[string]int{}, arrived: map[uuid.UUID]int{}}
	for _, d := range there {
		x.there[d] = true
	}
	return x
}

func (x *exchange) Scheme() string { return x.scheme }

// answer is what a request for a destination gets; the caller holds the lock.
func (x *exchange) answer(destination string) error {
	switch {
	case x.err != nil:
		return x.err
	case !x.there[destination]:
		return &outflow.Failure{Class: outflow.ClassPermanent, Answered: true,
			Err: fmt.Errorf("looking up %s: %w (create it)", destination, outflow.ErrNoDestination)}
	}
	return nil
}

func (x *exchange) Publish(_ context.Context, m outflow.Message) (string, error) {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.sends[m.Destination]++
	if err := x.answer(m.Destination); err != nil {
		if x.leaves != nil {
			x.leaves()
			x.leaves = nil
		}
		return "", err
	}
	x.arrived[m.ID]++
	return "b", nil
}

func (x *exchange) Check(_ context.Context, destination string) error {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.looks++
	return x.answer(destination)
}

func (x *exchange) set(change func(x *exchange)) {
	x.mu.Lock()
	defer x.mu.Unlock()
	change(x)
}

// count returns the requests that were made for a destination with a message.
func (x *exchange) count(destination string) int {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.sends[destination]
}

var (
	_ publish.Publisher = (*exchange)(nil)
	_ publish.Checker   = (*exchange)(nil)
)

// process runs what a starter or a worker has, with these publishers and a store of its own, as a
// process of its own would. It ends when the returned function is called, or with the test.
func (w *world) process(scans bool, grace time.Duration, publishers ...publish.Publisher) (stop func()) {
	w.Helper()
	router := publish.NewRouter(publishers...)
	require.NoError(w, router.Err())
	store := outboxdb.New(w.pool)
	run := worker.New(w.client, w.opts.TaskQueue, workerOptions(config.Config{}, make(chan error, 1)))
	workflows.Register(run, activities.New(store, router, activities.WithMissingGrace(missingGrace(grace)),
		activities.WithCallbacks(callbacks.Sender{HTTPS: w.receiver, Others: activities.PublishCallbacks(router)}),
		activities.LogTo(w.log)))
	require.NoError(w, run.Start())
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	if scans {
		opts := w.opts
		opts.Refuse, opts.Check, opts.Schemes, opts.MissingGrace = router.Refusal, router.Check, router.Schemes(), grace
		go func() { ended <- scanner.New(store, w.client, opts).Run(ctx) }()
	} else {
		leave := presence.Keep(ctx, store, func() outbox.Process { return outbox.Process{Schemes: router.Schemes()} }, w.log)
		go func() { <-ctx.Done(); leave(); ended <- nil }()
	}
	stop = sync.OnceFunc(func() {
		cancel()
		assert.NoError(w, <-ended)
		run.Stop()
	})
	w.Cleanup(stop)
	return stop
}

// fakeAccount is an account with these queues.
func fakeAccount(t *testing.T, queues *fakesqs.Server) aws.Config {
	t.Helper()
	endpoint := httptest.NewServer(queues)
	t.Cleanup(endpoint.Close)
	return aws.Config{Region: "eu-west-1", BaseEndpoint: aws.String(endpoint.URL),
		Credentials: credentials.NewStaticCredentialsProvider("fake", "fake", "")}
}

func to(destination string) outflow.Message {
	return outflow.Message{Destination: destination, Type: "order-placed", Payload: []byte("{}")}
}

// enqueueMany commits n messages to a destination, many in a transaction.
func (w *world) enqueueMany(destination string, n int) {
	w.Helper()
	_, err := w.pool.Exec(w.Context(), `SELECT outbox.enqueue_batch((
		SELECT jsonb_agg(jsonb_build_object('destination', $1::text, 'type', 'a', 'payload', '{}'))
		  FROM generate_series(1, $2::int)), false)`, destination, n)
	require.NoError(w, err)
}

// states counts the messages to a destination by state.
func (w *world) states(destination string) map[outflow.State]int {
	w.Helper()
	rows, err := w.pool.Query(w.Context(),
		`SELECT state, count(*) FROM outbox.messages WHERE destination = $1 GROUP BY 1`, destination)
	require.NoError(w, err)
	defer rows.Close()
	of := map[outflow.State]int{}
	for rows.Next() {
		var state outflow.State
		var n int
		require.NoError(w, rows.Scan(&state, &n))
		of[state] = n
	}
	require.NoError(w, rows.Err())
	return of
}

func (w *world) untilStates(destination string, state outflow.State, n int) {
	w.Helper()
	w.eventually(func() bool { return w.states(destination)[state] == n },
		func() string { return fmt.Sprintf("%s: %v", destination, w.states(destination)) })
}

// isOpen reports whether the message has an open run.
func (w *world) isOpen(id uuid.UUID) bool {
	described, err := w.client.DescribeWorkflowExecution(w.Context(), w.workflowID(id), "")
	return err == nil && described.GetWorkflowExecutionInfo().GetCloseTime() == nil
}

// A queue that somebody makes 3 seconds after its first messages: they wait as rows, without a run, and
// go out seconds after that.
func TestQueueThatComesLater(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	x := newExchange("sqs")
	w.process(true, time.Hour, x)
	id := w.enqueueMessage(to("sqs://orders"))
	w.enqueueMany("sqs://orders", 100)
	r := w.until(id, func(r row) bool { return r.LastError != "" && !r.Retrying })
	assert.Contains(t, r.LastError, "the destination does not exist (create it)")
	w.eventually(func() bool { return !w.isOpen(id) }, func() string { return "its run is open" })
	time.Sleep(3 * time.Second)
	assert.Equal(t, outflow.Pending, w.row(id).State)
	began := time.Now()
	x.set(func(x *exchange) { x.there["sqs://orders"] = true })
	w.untilStates("sqs://orders", outflow.Delivered, 101)
	t.Logf("101 messages were delivered %s after their queue was there; %d attempts before, %d looks",
		time.Since(began).Round(100*time.Millisecond), x.count("sqs://orders")-101, x.looks)
	assert.LessOrEqual(t, x.count("sqs://orders")-101, 2*20, "what a starter begins with")
	x.set(func(x *exchange) {
		for _, n := range x.arrived {
			assert.Equal(t, 1, n)
		}
	})
}

// A queue that nobody makes: its messages end dead when their grace is over, with the reason, and their
// waiting producers are notified. After a retry they have the whole grace again.
func TestQueueThatNeverComes(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var logged notes
	w.opts.Logger = slog.New(slog.NewTextHandler(&logged, nil))
	const grace = 2 * time.Second
	w.process(true, grace, newExchange("sqs"))
	m := to("sqs://missing")
	m.Callback = done
	first := w.enqueueMessage(m)
	w.enqueueMany("sqs://missing", 100)
	r := w.until(first, func(r row) bool { return r.State == outflow.Dead })
	assert.Equal(t, "looking up sqs://missing: the destination does not exist (create it)", r.LastError)
	w.untilStates("sqs://missing", outflow.Dead, 101)
	assert.Equal(t, callback{State: "sent", Attempts: 1}, w.untilTold(first))
	waited := func() (early int) {
		require.NoError(t, w.pool.QueryRow(t.Context(),
			`SELECT count(*) FROM outbox.messages WHERE finished_at < due_at + $1::interval`, grace).Scan(&early))
		return early
	}
	assert.Zero(t, waited(), "each had its grace")

	answers, err := operator.New(w.pool, operator.NewRuns(w.client), w.opts.Outbox).
		Retry(t.Context(), []uuid.UUID{first}, operator.Actor{Who: "ada"})
	require.NoError(t, err)
	require.Equal(t, operator.Done, answers[0].Verdict)
	w.until(first, func(r row) bool { return r.State == outflow.Dead })
	assert.Zero(t, waited(), "after the retry, too")
	var generation int
	require.NoError(t, w.pool.QueryRow(t.Context(), `SELECT generation FROM outbox.messages WHERE id = $1`,
		first).Scan(&generation))
	assert.Equal(t, 2, generation)
	assert.Equal(t, 1, strings.Count(logged.String(), "messages wait as rows: their destinations do not exist"),
		"once a minute, and not once a message")
}

// Messages of an outage have runs that wait for their next attempt. When it turns out that their queue
// is gone they are signalled, and wait as rows; and all end behind the open breaker.
func TestQueueThatIsMissingAfterAnOutage(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	x := newExchange("sqs")
	x.err = errDown
	w.process(true, 3*time.Second, x)
	const n = 30
	w.enqueueMany("sqs://orders", n)
	w.eventually(func() bool {
		var open bool
		require.NoError(t, w.pool.QueryRow(t.Context(),
			`SELECT count(*) > 0 AND (SELECT count(*) FROM outbox.messages WHERE retrying) >= 5
			FROM outbox.destinations WHERE open_until IS NOT NULL`).Scan(&open))
		return open
	}, func() string { return "no breaker, or no runs" })
	time.Sleep(4 * time.Second)
	assert.Equal(t, map[outflow.State]int{outflow.Pending: n}, w.states("sqs://orders"), "an outage ends nothing")
	x.set(func(x *exchange) { x.err = nil })
	w.untilStates("sqs://orders", outflow.Dead, n)
	var wrong int
	require.NoError(t, w.pool.QueryRow(t.Context(),
		`SELECT count(*) FROM outbox.messages WHERE last_error NOT LIKE '%does not exist%'`).Scan(&wrong))
	assert.Zero(t, wrong, "each says why")
}

// Ten thousand messages to one missing queue cost a handful of attempts and runs, and no others' time.
func TestManyMessagesToAMissingQueue(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	x := newExchange("sqs", "sqs://healthy")
	for range 5 {
		w.enqueueMany("sqs://missing", 2000)
	}
	w.process(true, 10*time.Second, x)
	w.enqueueMany("sqs://healthy", 100)
	w.untilStates("sqs://healthy", outflow.Delivered, 100)
	if dead := w.states("sqs://missing")[outflow.Dead]; dead > 0 {
		t.Logf("%d had their grace by then", dead) // on a busy machine
	}
	w.untilStates("sqs://missing", outflow.Dead, 10_000)
	x.set(func(x *exchange) {
		t.Logf("10,000 messages: %d attempts, and %d looks", x.sends["sqs://missing"], x.looks)
		assert.LessOrEqual(t, x.sends["sqs://missing"], 2*20+5, "what a starter begins with; each is a run")
		assert.Positive(t, x.looks)
	})
}

// A thousand missing queues beside a healthy one: that has its messages delivered as ever, and each of
// the others costs an attempt or two.
func TestManyMissingQueues(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	x := newExchange("sqs", "sqs://healthy")
	w.process(true, time.Hour, x)
	w.enqueueMany("sqs://healthy", 10)
	w.untilStates("sqs://healthy", outflow.Delivered, 10)
	_, err := w.pool.Exec(t.Context(), `SELECT outbox.enqueue_batch((
		SELECT jsonb_agg(jsonb_build_object('destination', 'sqs://missing-' || n % 1000, 'type', 'a', 'payload', '{}'))
		  FROM generate_series(1, 3000) AS n), false)`)
	require.NoError(t, err)
	w.eventually(func() bool {
		var missing int
		require.NoError(t, w.pool.QueryRow(t.Context(),
			`SELECT count(*) FROM outbox.destinations WHERE missing_since IS NOT NULL`).Scan(&missing))
		return missing >= 50
	}, func() string { return "the missing queues are not found" })
	began := time.Now()
	w.enqueueMany("sqs://healthy", 100)
	w.untilStates("sqs://healthy", outflow.Delivered, 110)
	x.set(func(x *exchange) {
		attempts, most := 0, 0
		for d, n := range x.sends {
			if d != "sqs://healthy" {
				attempts, most = attempts+n, max(most, n)
			}
		}
		t.Logf("100 healthy messages in %s beside %d missing queues that were tried, with %d attempts and %d looks",
			time.Since(began).Round(10*time.Millisecond), len(x.sends)-1, attempts, x.looks)
		assert.LessOrEqual(t, most, 3, "those that were claimed together")
	})
}

// A scheme that no process publishes to: its messages wait as rows without a run, and go out when a
// process comes that has a publisher.
func TestSchemeWithoutAPublisherThenAProcess(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var logged notes
	w.opts.Logger = slog.New(slog.NewTextHandler(&logged, nil))
	queues, topics := newExchange("sqs", "sqs://orders"), newExchange("sns", "sns://news")
	w.process(true, time.Hour, queues)
	id, other := w.enqueueMessage(to("sns://news")), w.enqueueMessage(to("sqs://orders"))
	w.until(other, func(r row) bool { return r.State == outflow.Delivered })
	w.eventually(func() bool {
		counts, err := w.store.Pending(t.Context())
		require.NoError(t, err)
		return len(counts) == 1 && counts[0].Missing
	}, func() string { return "nobody says that the scheme is not served" })
	assert.False(t, w.isOpen(id))
	assert.Equal(t, row{State: outflow.Pending, Due: true}, w.row(id), "its row was not touched")
	assert.Contains(t, logged.String(), "nobody publishes to their scheme")
	assert.Contains(t, logged.String(), "no publisher for sns:// is configured here")

	began := time.Now()
	w.process(true, time.Hour, topics, queues)
	w.until(id, func(r row) bool { return r.State == outflow.Delivered })
	t.Logf("delivered %s after a process with the publisher began", time.Since(began).Round(10*time.Millisecond))
	assert.Equal(t, 1, topics.count("sns://news"))
}

// Nobody ever publishes to the scheme: its messages end dead after their grace, with no run.
func TestSchemeThatNobodyPublishesTo(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.process(true, 2*time.Second, newExchange("sqs"))
	m := to("sns://news")
	m.Callback = done
	id := w.enqueueMessage(m)
	r := w.until(id, func(r row) bool { return r.State == outflow.Dead })
	assert.Contains(t, r.LastError, "no running starter or worker publishes to sns://")
	assert.Zero(t, r.Attempts)
	assert.Equal(t, callback{State: "sent", Attempts: 1}, w.untilTold(id))
}

// A worker that lacks the publisher which the starter has: it passes attempts on that are not for it.
func TestWorkerWithoutThePublisher(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	topics := newExchange("sns", "sns://news")
	topics.err = outflow.Retryable(errors.New("odd"))
	w.process(true, time.Second, newExchange("sqs"), topics)
	w.process(false, time.Second, newExchange("sqs"))
	const n = 20
	w.enqueueMany("sns://news", n)
	w.eventually(func() bool { return topics.count("sns://news") >= n }, func() string { return "they are not tried" })
	topics.set(func(x *exchange) { x.err = nil })
	w.untilStates("sns://news", outflow.Delivered, n)
	topics.set(func(x *exchange) { assert.Len(t, x.arrived, n) })
}

// A starter that lacks the publisher which a worker has: it leaves the messages to that.
func TestStarterWithoutThePublisher(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	topics := newExchange("sns", "sns://news")
	w.process(false, time.Second, newExchange("sqs"), topics)
	w.process(true, time.Second, newExchange("sqs"))
	w.enqueueMany("sns://news", 10)
	w.untilStates("sns://news", outflow.Delivered, 10)
	topics.set(func(x *exchange) { assert.Len(t, x.arrived, 10) })
}

// A starter without the publisher takes no message from one that has it, and its grace ends none.
func TestStarterWithoutThePublisherBesideOneWithIt(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	topics := newExchange("sns", "sns://news")
	topics.err = outflow.Retryable(errors.New("odd"))
	w.process(true, -1, newExchange("sqs"))
	stop := w.process(true, -1, topics)
	w.enqueueMany("sns://news", 5)
	w.eventually(func() bool { return topics.count("sns://news") >= 5 }, func() string { return "they are not tried" })
	time.Sleep(2 * time.Second)
	assert.Equal(t, map[outflow.State]int{outflow.Pending: 5}, w.states("sns://news"))
	topics.set(func(x *exchange) { x.err = nil })
	w.untilStates("sns://news", outflow.Delivered, 5)

	// With the process its publisher is gone; a new destination's message has no grace here.
	stop()
	id := w.enqueueMessage(to("sns://other"))
	w.until(id, func(r row) bool { return r.State == outflow.Dead })
	// Where messages have arrived before they wait.
	known := w.enqueueMessage(to("sns://news"))
	time.Sleep(3 * time.Second)
	assert.Equal(t, outflow.Pending, w.row(known).State)
}

// Without a grace a message ends dead with its first attempt.
func TestNoGrace(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	x := newExchange("sqs")
	w.process(true, -1, x)
	id := w.enqueueMessage(to("sqs://missing"))
	r := w.until(id, func(r row) bool { return r.State == outflow.Dead })
	assert.Equal(t, 1, r.Attempts)
	assert.Zero(t, x.looks)
}

// Beside a missing destination, everything that ends a message otherwise works as ever.
func TestWhatElseEndsAMessageThatWaits(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	x := newExchange("sqs", "sqs://elsewhere")
	w.process(true, 3*time.Second, x)
	expires, withdrawn, moved := to("sqs://missing"), to("sqs://missing"), to("sqs://missing")
	expires.ExpiresIn = 2 * time.Second
	short, cancelled, redirected := w.enqueueMessage(expires), w.enqueueMessage(withdrawn), w.enqueueMessage(moved)
	for _, id := range []uuid.UUID{cancelled, redirected} {
		w.until(id, func(r row) bool { return r.LastError != "" })
	}
	o := operator.New(w.pool, operator.NewRuns(w.client), w.opts.Outbox)
	_, err := o.Redirect(t.Context(), []uuid.UUID{redirected}, "sqs://elsewhere", operator.Actor{Who: "ada"})
	require.NoError(t, err)
	_, err = o.Cancel(t.Context(), []uuid.UUID{cancelled}, 30*time.Second, operator.Actor{Who: "ada"})
	require.NoError(t, err)
	w.until(cancelled, func(r row) bool { return r.State == outflow.Cancelled })
	w.until(redirected, func(r row) bool { return r.State == outflow.Delivered })
	w.until(short, func(r row) bool { return r.State == outflow.Expired })
}

// A message that waits without a run is cancelled at once, though it had a run before.
func TestCancelOfAMessageThatWaits(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.process(true, time.Hour, newExchange("sqs"))
	id := w.enqueueMessage(to("sqs://missing"))
	w.until(id, func(r row) bool { return r.LastError != "" && !w.isOpen(id) })
	o := operator.New(w.pool, operator.NewRuns(w.client), w.opts.Outbox)
	answers, err := o.Cancel(t.Context(), []uuid.UUID{id}, 30*time.Second, operator.Actor{Who: "ada"})
	require.NoError(t, err)
	assert.Equal(t, operator.Done, answers[0].Verdict, "%+v", answers)
	assert.Equal(t, outflow.Cancelled, w.row(id).State)
}

// A redirect to a destination that is missing, too, has its grace there.
func TestRedirectToAnotherMissingQueue(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.process(true, 4*time.Second, newExchange("sqs"))
	id := w.enqueueMessage(to("sqs://missing"))
	w.until(id, func(r row) bool { return r.LastError != "" })
	time.Sleep(2 * time.Second)
	o := operator.New(w.pool, operator.NewRuns(w.client), w.opts.Outbox)
	var moved time.Time
	require.NoError(t, w.pool.QueryRow(t.Context(), `SELECT now()`).Scan(&moved))
	_, err := o.Redirect(t.Context(), []uuid.UUID{id}, "sqs://gone", operator.Actor{Who: "ada"})
	require.NoError(t, err)
	r := w.until(id, func(r row) bool { return r.State == outflow.Dead })
	assert.Contains(t, r.LastError, "sqs://gone")
	var ended time.Time
	require.NoError(t, w.pool.QueryRow(t.Context(), `SELECT finished_at FROM outbox.messages WHERE id = $1`,
		id).Scan(&ended))
	assert.GreaterOrEqual(t, ended.Sub(moved), 4*time.Second)
}

// An operator retries the message while its first run still asks: the run's put-back changes nothing of
// the next generation, which has its grace.
func TestSupersededWhileItsQueueIsMissing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	x := newExchange("sqs", "sqs://elsewhere")
	o := operator.New(w.pool, operator.NewRuns(w.client), w.opts.Outbox)
	var id uuid.UUID
	enqueued := make(chan struct{})
	x.leaves = func() {
		<-enqueued
		_, err := o.Redirect(context.Background(), []uuid.UUID{id}, "sqs://elsewhere", operator.Actor{Who: "ada"})
		assert.NoError(t, err)
	}
	w.process(true, time.Second, x)
	id = w.enqueueMessage(to("sqs://missing"))
	close(enqueued)
	w.until(id, func(r row) bool { return r.State == outflow.Delivered })
	assert.Equal(t, 1, x.count("sqs://elsewhere"))
}

// A process that dies between the answer and the put-back leaves a lease, and after it a row that waits
// like the others.
func TestCrashBesideAMissingQueue(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.enqueueMessage(to("sqs://missing"))
	claimed, err := w.store.Claim(t.Context(),
		outbox.ClaimRequest{Lease: time.Minute, MaxMessages: 10, MaxBytes: 1 << 20, Allowance: 10})
	require.NoError(t, err)
	require.Len(t, claimed.Messages, 1)
	_, err = w.pool.Exec(t.Context(), `UPDATE outbox.messages SET available_at = now()`) // its lease is over
	require.NoError(t, err)
	x := newExchange("sqs")
	w.process(true, 2*time.Second, x)
	r := w.until(id, func(r row) bool { return r.State == outflow.Dead })
	assert.Contains(t, r.LastError, "does not exist")
}

// A callback whose own destination is missing, or that nobody publishes, waits for its grace and is then
// given up. The message ended long before.
func TestCallbackToAMissingDestination(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct{ to, says string }{
		"a queue":  {"sqs://replies", "does not exist"},
		"a scheme": {"sns://replies", "no publisher for sns:// is configured here"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			w.process(true, 3*time.Second, newExchange("sqs", "sqs://orders"))
			m := to("sqs://orders")
			m.Callback = c.to
			id := w.enqueueMessage(m)
			w.until(id, func(r row) bool { return r.State == outflow.Delivered })
			w.eventually(func() bool { return w.callback(id).Attempts > 1 },
				func() string { return "it is not tried again" })
			w.eventually(func() bool { return w.callback(id).State == "failed" },
				func() string { return fmt.Sprintf("%+v", w.callback(id)) })
			assert.Contains(t, w.callback(id).Error, c.says)
		})
	}
}

// A callback that finds its queue within the grace is sent.
func TestCallbackToAQueueThatComesLater(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	x := newExchange("sqs", "sqs://orders")
	w.process(true, time.Hour, x)
	m := to("sqs://orders")
	m.Callback = "sqs://replies"
	id := w.enqueueMessage(m)
	w.eventually(func() bool { return w.callback(id).Attempts > 1 }, func() string { return "it is not tried again" })
	x.set(func(x *exchange) { x.there["sqs://replies"] = true })
	w.eventually(func() bool { return w.callback(id).State == "sent" },
		func() string { return fmt.Sprintf("%+v", w.callback(id)) })
	w.eventually(func() bool {
		known, err := outboxdb.New(w.pool).Known(t.Context(), "sqs://replies")
		require.NoError(t, err)
		return known
	}, func() string { return "that it arrived is not noted" })
}

// A single pass does not wait for a queue that is missing; a later one looks again, and ends what has
// waited long enough.
func TestOnceBesideAMissingQueue(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	queues := &fakesqs.Server{}
	c := configOf(w)
	c.Brokers = brokersOf(fakeAccount(t, queues), webhook.Options{})
	pass := func(grace time.Duration) string {
		c.MissingGrace = grace
		var out strings.Builder
		require.NoError(t, Once(t.Context(), c, time.Hour, &out, w.log), "within its time")
		return out.String()
	}
	id := w.enqueueMessage(to("sqs://orders"))
	news := w.enqueueMessage(to("rabbitmq://events/placed"))
	out := pass(time.Hour)
	assert.Contains(t, out, "once: left 2 in backoff, 0 delayed, 0 not started")
	assert.Contains(t, out, "The specified queue does not exist")
	assert.Contains(t, out, "rabbitmq://events/placed: 1 in backoff; last error: no running starter or worker publishes to rabbitmq://")
	assert.Equal(t, outflow.Pending, w.row(id).State)

	queues.CreateQueue("", "orders", nil)
	w.eventually(func() bool { pass(time.Hour); return w.row(id).State == outflow.Delivered },
		func() string { return "no pass looks again" })
	assert.Equal(t, outflow.Pending, w.row(news).State)

	late := w.enqueueMessage(to("sqs://missing"))
	w.eventually(func() bool { pass(time.Second); return w.row(late).State == outflow.Dead },
		func() string { return "no pass ends what has waited for its grace" })
	w.eventually(func() bool { pass(time.Second); return w.row(news).State == outflow.Dead },
		func() string { return "no pass ends what nobody publishes" })
}

// The programs say that they run for as long as they do, and what they publish to.
func TestProgramsSayThatTheyRun(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	o := operator.New(w.pool, nil, "")
	for name, run := range map[string]func(context.Context, config.Config, *slog.Logger) error{"starter": Starter,
		"worker": Worker} {
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		c := configOf(w)
		c.Brokers = brokersOf(aws.Config{Region: "eu-west-1"}, webhook.Options{})
		go func() { ended <- run(ctx, c, w.log) }()
		var running []operator.RunningProcess
		w.eventually(func() (one bool) {
			var err error
			running, err = o.Running(t.Context())
			require.NoError(t, err)
			return len(running) == 1
		}, func() string { return name + " does not say that it runs" })
		assert.Equal(t, []string{"http", "https", "sqs"}, running[0].Schemes)
		assert.Equal(t, name == "starter", running[0].Scans)
		stop()
		require.NoError(t, <-ended)
		running, err := o.Running(t.Context())
		require.NoError(t, err)
		assert.Empty(t, running, "%s has ended", name)
	}
}

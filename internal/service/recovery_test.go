package service

import (
	"context"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/api/enums/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	sdklog "go.temporal.io/sdk/log"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/outboxdb"
	"github.com/outflowhq/outflow/scanner"
	"github.com/outflowhq/outflow/workflows"
)

var errDown = outflow.Unavailable(errors.New("503"))

// afterTheFirst is what a destination asks for: nothing at the nth attempt if that is the
// first, so that the durable one follows soon, and then a minute.
func afterTheFirst(n int) time.Duration {
	if n == 1 {
		return 0
	}
	return time.Minute
}

// A run in a long backoff that is signalled to try now does.
func TestTryNow(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.broker.set(func(n int) (string, error) {
		return "", &outflow.Failure{Class: outflow.ClassRetryable, RetryAfter: afterTheFirst(n), Err: errors.New("503")}
	})
	w.work()
	w.scan()
	id := w.enqueue("{}")
	w.eventually(func() bool { return w.broker.count() == 2 }, func() string { return "no durable attempt" })
	w.broker.set(nil)
	for range 3 { // a signal may come while the attempt before is ending
		require.NoError(t, w.client.SignalWorkflow(t.Context(), w.workflowID(id), "", workflows.SignalTryNow, nil))
	}
	began := time.Now()
	w.until(id, func(r row) bool { return r.State == outflow.Delivered })
	assert.Less(t, time.Since(began), 10*time.Second, "not after its minute")
	status, history := w.closed(id)
	assert.Equal(t, enums.WORKFLOW_EXECUTION_STATUS_COMPLETED, status)
	var ids []string
	for _, event := range history.GetEvents() {
		if scheduled := event.GetActivityTaskScheduledEventAttributes(); scheduled != nil {
			ids = append(ids, scheduled.GetActivityId())
		}
	}
	assert.Equal(t, []string{workflows.ActivityIDPublish, workflows.ActivityIDPublish + "-2"}, ids[:2])
}

// One message to which its destination answers 503, whatever it does with others,
// opens the breaker of a quiet destination by itself. Others find out that it works.
func TestOneHopelessMessageBesideOthers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.broker.refuses = `"hopeless"`
	w.work()
	w.scan()
	hopeless := w.enqueue(w.broker.refuses)
	isOpen := func() (open bool) {
		err := w.pool.QueryRow(t.Context(),
			`SELECT EXISTS (SELECT FROM outbox.destinations WHERE open_until IS NOT NULL)`).Scan(&open)
		require.NoError(t, err)
		return open
	}
	w.eventually(isOpen, func() string { return "the breaker did not open" })
	for range 3 {
		w.until(w.enqueue("{}"), func(r row) bool { return r.State == outflow.Delivered })
	}
	assert.Equal(t, outflow.Pending, w.row(hopeless).State)
}

// Signalled while an attempt is under way that then fails: the run goes on at once.
func TestTryNowDuringAnAttemptThatFails(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	sending, release := make(chan struct{}, 10), make(chan struct{})
	w.broker.set(func(n int) (string, error) {
		if n == 2 {
			sending <- struct{}{}
			<-release
		}
		return "", &outflow.Failure{Class: outflow.ClassRetryable, RetryAfter: afterTheFirst(n),
			Err: fmt.Errorf("503, the %d.", n)}
	})
	w.work()
	w.scan()
	id := w.enqueue("{}")
	<-sending
	require.NoError(t, w.client.SignalWorkflow(t.Context(), w.workflowID(id), "", workflows.SignalTryNow, nil))
	w.eventually(func() bool {
		described, err := w.client.DescribeWorkflowExecution(t.Context(), w.workflowID(id), "")
		require.NoError(t, err)
		pending := described.GetPendingActivities()
		return len(pending) == 1 && pending[0].GetState() == enums.PENDING_ACTIVITY_STATE_CANCEL_REQUESTED
	}, func() string { return "the attempt was not asked to cancel" })
	w.broker.set(nil)
	close(release)
	began := time.Now()
	r := w.until(id, func(r row) bool { return r.State == outflow.Delivered })
	assert.Equal(t, "503, the 2.", r.LastError, "what the attempt met that was under way")
	assert.Less(t, time.Since(began), 10*time.Second, "not after its minute")
	status, _ := w.closed(id)
	assert.Equal(t, enums.WORKFLOW_EXECUTION_STATUS_COMPLETED, status)
}

// A queue that is down costs a few attempts and one probe at a time; when it is
// back everything goes at once, what was retrying and what was never tried.
func TestOutageAndRecovery(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.opts.InFlight = 20
	w.broker.set(func(int) (string, error) { return "", errDown })
	w.work()
	w.scan()
	const n = 200
	for range n {
		w.enqueue("{}")
	}
	number := func(condition string) (n int) {
		require.NoError(t, w.pool.QueryRow(t.Context(),
			`SELECT count(*) FROM outbox.messages WHERE `+condition).Scan(&n))
		return n
	}
	w.eventually(func() bool {
		var openings int
		require.NoError(t, w.pool.QueryRow(t.Context(),
			`SELECT coalesce(max(openings), 0) FROM outbox.destinations`).Scan(&openings))
		return openings >= 3
	}, func() string { return "the breaker did not stay open" })
	assert.Less(t, number("claims > 0 OR attempts > 0"), 100, "the others were never tried")
	sent := w.broker.count()
	time.Sleep(3 * time.Second)
	assert.LessOrEqual(t, w.broker.count()-sent, 3, "one probe at a time")

	w.broker.set(nil)
	began := time.Now()
	w.eventually(func() bool { return number("state = 'delivered'") == n }, func() string {
		var breakers string
		_ = w.pool.QueryRow(t.Context(), `SELECT string_agg(d::text, ' ') FROM outbox.destinations AS d`).Scan(&breakers)
		return "not all of them are delivered; breakers: " + breakers
	})
	t.Logf("%d messages, %d publishes during the outage; drained %s after it", n, sent,
		time.Since(began).Round(time.Millisecond))
	assert.Less(t, time.Since(began), 45*time.Second)
}

// Somebody terminates a run. Its row is pending, and started again when its lease is over.
func TestTerminatedRunStartsAnew(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.broker.set(func(int) (string, error) { return "", errDown })
	w.work()
	w.scan()
	id := w.enqueue("{}")
	w.until(id, func(r row) bool { return r.Retrying })
	require.NoError(t, w.client.TerminateWorkflow(t.Context(), w.workflowID(id), "", "a test"))
	w.broker.set(nil)
	w.expireLease(id)
	w.until(id, func(r row) bool { return r.State == outflow.Delivered })
	assert.Equal(t, 2, w.runs(id))
}

// Two starters, each with its own connections, meet one lease that has run out
// while the message's run is alive, and then one whose run is gone: one start each.
func TestTwoStartersMeetOneExpiredLease(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.work()
	release := make(chan struct{})
	w.broker.set(func(int) (string, error) { <-release; return "broker-1", nil })
	w.scan()
	other := *w
	other.store = outboxdb.New(w.pool)
	other.scan()
	id := w.enqueue("{}")
	w.eventually(func() bool { return w.broker.count() == 1 }, func() string { return "no publish" })
	for range 5 {
		w.expireLease(id)
		w.until(id, func(r row) bool { return !r.Due && r.Claims == 1 })
	}
	close(release)
	w.until(id, func(r row) bool { return r.State == outflow.Delivered })
	assert.Equal(t, 1, w.broker.count())

	var sent atomic.Int64
	w.broker.set(func(int) (string, error) {
		if n := sent.Add(1); n <= 2 { // the fast path, and the first durable attempt
			return "", &outflow.Failure{Class: outflow.ClassRetryable, RetryAfter: afterTheFirst(int(n)),
				Err: errors.New("not now")}
		}
		return "broker-2", nil
	})
	id = w.enqueue("{}")
	w.eventually(func() bool { return sent.Load() == 2 }, func() string { return "no durable attempt" })
	require.NoError(t, w.client.TerminateWorkflow(t.Context(), w.workflowID(id), "", "a test"))
	w.expireLease(id)
	w.until(id, func(r row) bool { return r.State == outflow.Delivered })
	assert.EqualValues(t, 3, sent.Load(), "the new run sent it once")
	assert.Equal(t, 2, w.runs(id))
}

// A payload that makes its publisher panic ends dead, and its neighbours are
// delivered, whichever of them share its claim and its workers.
func TestPanicBesideOthers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.broker.panics = `"guilty"`
	var ids []uuid.UUID
	for range 25 {
		ids = append(ids, w.enqueue("{}"))
	}
	guilty := w.enqueue(w.broker.panics)
	for range 25 {
		ids = append(ids, w.enqueue("{}"))
	}
	w.work()
	w.scan()
	r := w.until(guilty, func(r row) bool { return r.State != outflow.Pending })
	assert.Equal(t, outflow.Dead, r.State)
	assert.Contains(t, r.LastError, "publishing: the publisher panicked: a string, not shown because it may quote the message (")
	for _, id := range ids {
		w.until(id, func(r row) bool { return r.State == outflow.Delivered })
	}
	assert.Equal(t, len(ids)+1, w.broker.count(), "each once")
}

// After a restore of the database a row is pending whose run is completed.
func TestPendingRowBesideACompletedRun(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.work()
	w.scan()
	id := w.enqueue("{}")
	w.until(id, func(r row) bool { return r.State == outflow.Delivered })
	w.closed(id)
	_, err := w.pool.Exec(t.Context(), `UPDATE outbox.messages SET state = 'pending', finished_at = NULL, broker_message_id = NULL, available_at = now() WHERE id = $1`, id)
	require.NoError(t, err)
	w.until(id, func(r row) bool { return r.State == outflow.Delivered })
	assert.Equal(t, 2, w.broker.count())
	assert.Equal(t, 2, w.runs(id))
}

// A row that its process died of so often that nobody tries once more.
func TestTooManyClaimsEndDead(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.enqueue("{}")
	_, err := w.pool.Exec(t.Context(), `UPDATE outbox.messages SET claims = 8 WHERE id = $1`, id)
	require.NoError(t, err)
	w.work()
	w.scan()
	r := w.until(id, func(r row) bool { return r.State == outflow.Dead })
	assert.Contains(t, r.LastError, "the process crashed 8 times while publishing this message, the last 3 times"+
		" with nothing else in flight")
	assert.Zero(t, w.broker.count())
	status, _ := w.closed(id)
	assert.Equal(t, enums.WORKFLOW_EXECUTION_STATUS_FAILED, status)
}

// starts is a client whose starts a test plays with.
type starts struct {
	client.Client
	start func(next func() (client.WorkflowRun, error)) (client.WorkflowRun, error)
}

func (s starts) ExecuteWorkflow(ctx context.Context, options client.StartWorkflowOptions, workflow any,
	args ...any) (client.WorkflowRun, error) {
	return s.start(func() (client.WorkflowRun,
		error) {
		return s.Client.ExecuteWorkflow(ctx, options, workflow, args...)
	})
}

// A start whose answer is lost is given back, and claimed in another process while
// its run is alive. That process's start comes when the run has just ended: what
// its claim saw is old by then.
func TestStartWhoseAnswerIsLost(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.work()
	sending, release := make(chan struct{}, 10), make(chan struct{})
	w.broker.set(func(int) (string, error) { sending <- struct{}{}; <-release; return "broker-1", nil })
	id := w.enqueue("{}")

	ctx, stop := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	var calls atomic.Int64
	lossy := starts{w.client, func(next func() (client.WorkflowRun, error)) (client.WorkflowRun, error) {
		if calls.Add(1) > 1 { // a second claim that meets the run would lease the row for a minute
			return nil, context.DeadlineExceeded
		}
		if _, err := next(); !assert.NoError(t, err) {
			stop()
			return nil, err
		}
		<-sending
		stop()
		return nil, context.DeadlineExceeded
	}}
	go func() { ended <- scanner.New(w.store, lossy, w.opts).Run(ctx) }()
	require.NoError(t, <-ended)
	r := w.row(id)
	require.True(t, r.Due && r.Claims == 0, "given back: %+v", r)

	other := *w
	other.store = outboxdb.New(w.pool)
	var err error
	other.client, err = client.Dial(client.Options{HostPort: teststack.Temporal(t),
		Logger: sdklog.NewStructuredLogger(w.log)})
	require.NoError(t, err)
	t.Cleanup(other.client.Close)
	other.work()
	late := starts{other.client, func(next func() (client.WorkflowRun, error)) (client.WorkflowRun, error) {
		close(release)
		require.NoError(t, w.client.GetWorkflow(t.Context(), w.workflowID(id), "").Get(t.Context(), nil))
		return next()
	}}
	ctx, stop = context.WithCancel(context.Background())
	go func() { ended <- scanner.New(other.store, late, other.opts).Run(ctx) }()
	w.until(id, func(r row) bool { return r.State == outflow.Delivered })
	assert.Equal(t, 2, w.runs(id))
	w.closed(id)
	stop()
	require.NoError(t, <-ended)
	assert.Equal(t, 1, w.broker.count())
}

func (w *world) expireLease(id uuid.UUID) {
	w.Helper()
	_, err := w.pool.Exec(w.Context(), `UPDATE outbox.messages SET available_at = now() WHERE id = $1`, id)
	require.NoError(w, err)
}

// runs counts the runs of a message. Visibility lags behind, minutes on a busy machine.
func (w *world) runs(id uuid.UUID) int {
	w.Helper()
	n := 0
	require.Eventually(w, func() bool {
		list, err := w.client.ListWorkflow(w.Context(),
			&workflowservice.ListWorkflowExecutionsRequest{Query: "WorkflowId = '" + w.workflowID(id) + "'"})
		require.NoError(w, err)
		n = len(list.GetExecutions())
		return n > 1
	}, 5*time.Minute, 100*time.Millisecond, "the second run is not listed")
	return n
}

package workflows_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/interceptor"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/activities"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/workflows"
)

// table is outbox.messages in memory, with one row and the guards of outboxdb's
// statements: only a pending row of the same generation is written, and only
// delivered replaces another end.
type table struct {
	mu       sync.Mutex
	now      func() time.Time
	row      outbox.Record
	gone     bool
	leased   time.Time // the lease's end
	loads    int
	renewals []outbox.Renewal
	endings  []outbox.Ending // every Finish that was asked for
	madeWay  []outbox.Ref
	callback callbackRow
	// before runs ahead of each statement, outside the lock; its error is the
	// statement's.
	before func(statement string) error
}

var _ activities.Store = (*table)(nil)

func (t *table) begin(statement string) error {
	t.mu.Lock()
	before := t.before
	t.mu.Unlock()
	if before == nil {
		return nil
	}
	return before(statement)
}

// read returns the row as it stands; callers hold mu.
func (t *table) read() (outbox.Record, error) {
	if t.gone {
		return outbox.Record{}, outflow.ErrNotFound
	}
	r := t.row
	r.Expired = !r.ExpiresAt.IsZero() && !t.now().Before(r.ExpiresAt)
	if !r.ExpiresAt.IsZero() {
		r.ExpiresAfter = max(r.ExpiresAt.Sub(t.now()), 0)
	}
	return r, nil
}

func (t *table) Load(_ context.Context, ref outbox.Ref) (outbox.Record, error) {
	if err := t.begin("load"); err != nil {
		return outbox.Record{}, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.loads++
	return t.read()
}

// LoadAgain counts as outboxdb's does.
func (t *table) LoadAgain(ctx context.Context, ref outbox.Ref) (outbox.Record, error) {
	t.change(func(r *outbox.Record) { r.Claims++ })
	return t.Load(ctx, ref)
}

func (*table) Observe(string, uuid.UUID, outbox.Observation) int { return 0 }

// DatabaseID is zero, as that of an input which names none.
func (*table) DatabaseID(context.Context) (uuid.UUID, error) { return uuid.Nil, nil }

func (*table) Known(context.Context, string) (bool, error) { return false, nil }

func (*table) Served(context.Context, string) (outbox.Served, error) { return outbox.ServedByNone, nil }

func (t *table) Renew(_ context.Context, r outbox.Renewal) (outbox.Record, error) {
	if err := t.begin("renew"); err != nil {
		return outbox.Record{}, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.renewals = append(t.renewals, r)
	if !t.gone && t.row.Generation == r.Generation && t.row.State == outflow.Pending {
		t.row.Attempts += r.Attempts
		if row, _ := t.read(); !r.Waits && !row.Expired && !row.CancelRequested {
			t.row.Attempts++
		}
		if r.LastError != "" {
			t.row.LastError = r.LastError
		}
		t.leased = t.now().Add(r.Lease)
	}
	return t.read()
}

func (*table) LoadPayload(context.Context, outbox.Record) ([]byte, error) {
	return nil, errors.New("not asked for here")
}

func (t *table) Finish(_ context.Context, e outbox.Ending) (outflow.Outcome, error) {
	if err := t.begin("finish"); err != nil {
		return outflow.Outcome{}, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.endings = append(t.endings, e)
	open := t.row.State == outflow.Pending || e.State == outflow.Delivered && t.row.State != outflow.Delivered
	if !t.gone && t.row.Generation == e.Generation && open {
		t.row.State, t.row.BrokerMessageID, t.row.FinishedAt = e.State, e.BrokerMessageID, t.now()
		t.row.Attempts += e.Attempts
		if e.LastError != "" {
			t.row.LastError = e.LastError
		}
		t.row.CallbackDue = t.row.Callback != ""
	}
	r, err := t.read()
	return r.Outcome(), err
}

// callbackRow is the row's part that is about its callback.
type callbackRow struct {
	attempts int
	notes    []outbox.CallbackNote // every NoteCallback that was asked for
	leases   []time.Duration
	lastErr  string
	state    outbox.CallbackState // sent or failed
}

func (t *table) BeginCallback(_ context.Context, ref outbox.Ref, lease time.Duration) (outbox.Callback, bool, error) {
	if err := t.begin("begin callback"); err != nil {
		return outbox.Callback{}, false, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.gone || t.row.Generation != ref.Generation || !t.row.CallbackDue {
		return outbox.Callback{}, false, nil
	}
	t.callback.attempts++
	t.callback.leases = append(t.callback.leases, lease)
	return outbox.Callback{To: t.row.Callback, Outcome: t.row.Outcome(), Destination: t.row.Destination,
		Type: t.row.Type}, true, nil
}

func (t *table) NoteCallback(_ context.Context, n outbox.CallbackNote) (bool, error) {
	if err := t.begin("note callback"); err != nil {
		return false, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.callback.notes = append(t.callback.notes, n)
	if t.gone || t.row.Generation != n.Generation || !t.row.CallbackDue || n.End != "" && n.End != t.row.State {
		return false, nil
	}
	t.callback.lastErr = n.LastError
	if n.State != outbox.CallbackDue {
		t.row.CallbackDue, t.callback.state = false, n.State
	}
	return true, nil
}

// PutBack has a run make way for another.
func (t *table) PutBack(_ context.Context, p outbox.PutBack) (outflow.Outcome, error) {
	if !p.NotSent {
		return outflow.Outcome{}, errors.New("not asked for here")
	}
	if err := t.begin("make way"); err != nil {
		return outflow.Outcome{}, err
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.madeWay = append(t.madeWay, p.Ref)
	return outflow.Outcome{}, nil
}

// change edits the row as an operator would.
func (t *table) change(edit func(r *outbox.Record)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	edit(&t.row)
}

// broker answers each publish from a script, whose last answer repeats.
type broker struct {
	mu     sync.Mutex
	script []answer
	calls  []outflow.Message
}

type answer func(ctx context.Context, m outflow.Message) (string, error)

func (b *broker) Publish(ctx context.Context, m outflow.Message) (string, error) {
	b.mu.Lock()
	next := b.script[min(len(b.calls), len(b.script)-1)]
	b.calls = append(b.calls, m)
	b.mu.Unlock()
	return next(ctx, m)
}

func (b *broker) count() int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return len(b.calls)
}

func acks(_ context.Context, m outflow.Message) (string, error) { return "broker-1", nil }

func fails(err error) answer {
	return func(context.Context, outflow.Message) (string, error) { return "", err }
}

// times repeats an answer.
func times(n int, a answer) []answer {
	var all []answer
	for range n {
		all = append(all, a)
	}
	return all
}

const payload = `{"secret":"the payload stays in the database"}`

// run is one Deliver in the test environment, over the real activities.
type run struct {
	t      *testing.T
	env    *testsuite.TestWorkflowEnvironment
	table  *table
	broker *broker
	spy    *spy
	in     workflows.DeliverInput
	began  time.Time
}

func newRun(t *testing.T, script ...answer) *run {
	t.Helper()
	var suite testsuite.WorkflowTestSuite
	env := suite.NewTestWorkflowEnvironment()
	id := uuid.Must(uuid.NewV7())
	r := &run{
		t: t, env: env, began: env.Now(), broker: &broker{script: script}, spy: &spy{},
		in: workflows.DeliverInput{Outbox: "outbox", MessageID: id, Generation: 1},
		table: &table{now: env.Now, row: outbox.Record{
			Message: outflow.Message{ID: id, Destination: "sqs://orders", Type: "order-placed",
				Payload: []byte(payload)},
			State: outflow.Pending, Generation: 1,
		}},
	}
	env.SetWorkerOptions(worker.Options{Interceptors: []interceptor.WorkerInterceptor{r.spy}})
	env.SetTestTimeout(20 * time.Second)
	workflows.Register(env, activities.New(r.table, r.broker))
	return r
}

// execute runs Deliver to its end and returns its result.
func (r *run) execute() (outflow.Outcome, error) {
	r.t.Helper()
	r.env.ExecuteWorkflow(workflows.WorkflowDeliver, r.in)
	require.True(r.t, r.env.IsWorkflowCompleted())
	if err := r.env.GetWorkflowError(); err != nil {
		return outflow.Outcome{}, err
	}
	var outcome outflow.Outcome
	require.NoError(r.t, r.env.GetWorkflowResult(&outcome))
	return outcome, nil
}

// failedAs returns the outcome in the application error with which a run failed.
func failedAs(t *testing.T, err error, kind string) outflow.Outcome {
	t.Helper()
	var application *temporal.ApplicationError
	require.ErrorAs(t, err, &application)
	require.Equal(t, kind, application.Type())
	require.True(t, application.NonRetryable())
	var outcome outflow.Outcome
	if application.HasDetails() {
		require.NoError(t, application.Details(&outcome))
	}
	return outcome
}

func canceledAs(t *testing.T, err error) outflow.Outcome {
	t.Helper()
	var canceled *temporal.CanceledError
	require.ErrorAs(t, err, &canceled)
	var outcome outflow.Outcome
	require.NoError(t, canceled.Details(&outcome))
	return outcome
}

// status asks the query that people ask.
func (r *run) status() workflows.Status {
	r.t.Helper()
	value, err := r.env.QueryWorkflow(workflows.QueryDeliveryStatus)
	require.NoError(r.t, err)
	var status workflows.Status
	require.NoError(r.t, value.Get(&status))
	return status
}

// spy notes what the workflow asks of the SDK. It lifts the test environment's
// own limit of ten attempts, where the workflow sets none.
type spy struct {
	interceptor.WorkerInterceptorBase
	// localTimeout replaces that of local activities, where set.
	localTimeout time.Duration
	// attempts limits the attempts as an operator's update-options would.
	attempts int32
	// child is called for every child workflow; noChildren keeps them from starting.
	child      func(id string)
	noChildren error

	mu      sync.Mutex
	regular []workflow.ActivityOptions
	local   []workflow.LocalActivityOptions
	childs  []workflow.ChildWorkflowOptions
	names   []string
	upserts int
}

func (s *spy) InterceptWorkflow(_ workflow.Context,
	next interceptor.WorkflowInboundInterceptor) interceptor.WorkflowInboundInterceptor {
	in := &spyIn{spy: s}
	in.Next = next
	return in
}

type spyIn struct {
	interceptor.WorkflowInboundInterceptorBase
	spy *spy
}

func (i *spyIn) Init(outbound interceptor.WorkflowOutboundInterceptor) error {
	out := &spyOut{spy: i.spy}
	out.Next = outbound
	return i.Next.Init(out)
}

type spyOut struct {
	interceptor.WorkflowOutboundInterceptorBase
	spy *spy
}

func (o *spyOut) ExecuteActivity(ctx workflow.Context, name string, args ...any) workflow.Future {
	options := workflow.GetActivityOptions(ctx)
	o.spy.mu.Lock()
	o.spy.regular = append(o.spy.regular, options)
	o.spy.names = append(o.spy.names, name)
	o.spy.mu.Unlock()
	if options.RetryPolicy != nil && options.RetryPolicy.MaximumAttempts == 0 {
		policy := *options.RetryPolicy
		policy.MaximumAttempts = 1 << 30
		if o.spy.attempts > 0 {
			policy.MaximumAttempts = o.spy.attempts
		}
		options.RetryPolicy = &policy
		ctx = workflow.WithActivityOptions(ctx, options)
	}
	return o.Next.ExecuteActivity(ctx, name, args...)
}

func (o *spyOut) ExecuteLocalActivity(ctx workflow.Context, name string, args ...any) workflow.Future {
	options := workflow.GetLocalActivityOptions(ctx)
	o.spy.mu.Lock()
	o.spy.local = append(o.spy.local, options)
	o.spy.names = append(o.spy.names, "local "+name)
	o.spy.mu.Unlock()
	if o.spy.localTimeout > 0 {
		options.ScheduleToCloseTimeout = o.spy.localTimeout
		ctx = workflow.WithLocalActivityOptions(ctx, options)
	}
	return o.Next.ExecuteLocalActivity(ctx, name, args...)
}

func (o *spyOut) ExecuteChildWorkflow(ctx workflow.Context, name string, args ...any) workflow.ChildWorkflowFuture {
	o.spy.mu.Lock()
	o.spy.childs = append(o.spy.childs, workflow.GetChildWorkflowOptions(ctx))
	o.spy.mu.Unlock()
	if o.spy.child != nil {
		o.spy.child(workflow.GetChildWorkflowOptions(ctx).WorkflowID)
	}
	if o.spy.noChildren != nil {
		started, settle := workflow.NewFuture(ctx)
		settle.SetError(o.spy.noChildren)
		return notStarted{started: started}
	}
	return o.Next.ExecuteChildWorkflow(ctx, name, args...)
}

type notStarted struct {
	workflow.ChildWorkflowFuture
	started workflow.Future
}

func (n notStarted) GetChildWorkflowExecution() workflow.Future { return n.started }

func (o *spyOut) UpsertTypedSearchAttributes(ctx workflow.Context, attributes ...temporal.SearchAttributeUpdate) error {
	o.spy.mu.Lock()
	o.spy.upserts++
	o.spy.mu.Unlock()
	return o.Next.UpsertTypedSearchAttributes(ctx, attributes...)
}

var errReset = errors.New("connection reset by peer")

// failsFirst makes the first n runs of a statement fail.
func failsFirst(statement string, n int) func(string) error {
	var mu sync.Mutex
	return func(s string) error {
		mu.Lock()
		defer mu.Unlock()
		if s != statement || n == 0 {
			return nil
		}
		n--
		return fmt.Errorf("%s: %w", s, errReset)
	}
}

package activities

import (
	"context"
	"errors"
	"runtime"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/text"
	"github.com/outflowhq/outflow/outbox"
)

// fake is a store and a publisher whose answers a test sets.
type fake struct {
	mu                  sync.Mutex
	record              outbox.Record
	lookErr             error
	outcome             outflow.Outcome
	endErr              error
	makeWayErr          error
	knownErr            error
	putErr              error
	consecutiveFailures int
	publish             func(ctx context.Context, m outflow.Message) (string, error)

	loads    []outbox.Ref
	again    []outbox.Ref
	health   []string // what was told of destinations
	known    bool
	renewals []outbox.Renewal
	loadErr  error // of a payload
	endings  []outbox.Ending
	madeWay  []outbox.Ref
	sent     int

	callback    outbox.Callback
	notOwed     bool
	beginErr    error
	noteErr     error
	refused     bool // NoteCallback finds another row than was told
	begun       []outbox.Ref
	notes       []outbox.CallbackNote
	database    uuid.UUID
	databaseErr error
	leases      []time.Duration
}

func (f *fake) Load(_ context.Context, ref outbox.Ref) (outbox.Record, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.loads = append(f.loads, ref)
	return f.record, f.lookErr
}

func (f *fake) LoadAgain(_ context.Context, ref outbox.Ref) (outbox.Record, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.again = append(f.again, ref)
	return f.record, f.lookErr
}

func (f *fake) Observe(destination string, id uuid.UUID, o outbox.Observation) int {
	switch kind := o.Kind(); kind {
	case outbox.Acknowledged:
		if o.Took > outflow.FastPathCallTime {
			f.told(destination + " took " + o.Took.String())
		}
		f.told(destination + " acknowledged")
	case outbox.DestinationFailed:
		f.told(destination + " failed: " + o.Err.Error())
		return f.consecutiveFailures
	case outbox.Inconclusive:
		if id == f.record.ID {
			f.told(destination + " inconclusive")
		}
	default:
		f.told(destination + " " + string(kind))
	}
	return 0
}

func (f *fake) PutBack(_ context.Context, p outbox.PutBack) (outflow.Outcome, error) {
	if p.NotSent {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.madeWay = append(f.madeWay, p.Ref)
		return outflow.Outcome{}, f.makeWayErr
	}
	f.told("put back: " + p.LastError)
	return outflow.Outcome{ID: p.ID, Generation: p.Generation, State: outflow.Pending}, f.putErr
}

func (f *fake) told(what string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.health = append(f.health, what)
}

func (f *fake) Known(context.Context, string) (bool, error) { return f.known, f.knownErr }

func (f *fake) Renew(_ context.Context, r outbox.Renewal) (outbox.Record, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.renewals = append(f.renewals, r)
	return f.record, f.lookErr
}

func (f *fake) LoadPayload(context.Context, outbox.Record) ([]byte, error) {
	return []byte("large"), f.loadErr
}

func (f *fake) BeginCallback(_ context.Context, ref outbox.Ref, lease time.Duration) (outbox.Callback, bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.begun, f.leases = append(f.begun, ref), append(f.leases, lease)
	return f.callback, !f.notOwed, f.beginErr
}

func (f *fake) NoteCallback(_ context.Context, n outbox.CallbackNote) (bool, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.notes = append(f.notes, n)
	return !f.refused && f.noteErr == nil, f.noteErr
}

func (f *fake) Finish(_ context.Context, e outbox.Ending) (outflow.Outcome, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.endings = append(f.endings, e)
	if f.outcome.State != "" {
		return f.outcome, f.endErr
	}
	return outflow.Outcome{ID: e.ID, Generation: e.Generation, State: e.State, BrokerMessageID: e.BrokerMessageID,
		LastError: e.LastError, Destination: f.record.Destination, Type: f.record.Type}, f.endErr
}

func (f *fake) Publish(ctx context.Context, m outflow.Message) (string, error) {
	f.mu.Lock()
	f.sent++
	publish := f.publish
	f.mu.Unlock()
	if publish != nil {
		return publish(ctx, m)
	}
	return "broker-1", nil
}

func newFake() (*fake, *Activities, outbox.Ref) {
	ref := newRef()
	f := &fake{record: outbox.Record{
		Message: outflow.Message{ID: ref.ID, Destination: "sqs://orders", Payload: []byte("{}")},
		State:   outflow.Pending, Generation: 1,
	}}
	return f, New(f, f), ref
}

// The order of an attempt's checks: a later one is not looked at.
func TestAttemptChecks(t *testing.T) {
	all := func(r *outbox.Record) { // everything that keeps a message from being sent
		r.Generation, r.State, r.CancelRequested, r.Expired = 2, outflow.Dead, true, true
	}
	for _, c := range []struct {
		name    string
		edit    func(r *outbox.Record)
		left    time.Duration
		verdict Verdict
	}{
		{"superseded before all else", all, 0, Superseded},
		{"an older row is another's too", func(r *outbox.Record) { r.Generation = 0 }, time.Minute, Superseded},
		{"ended before cancelled", func(r *outbox.Record) { all(r); r.Generation = 1 }, 0, Ended},
		{"withdrawn before overdue", func(r *outbox.Record) { r.CancelRequested, r.Expired = true, true }, 0, Withdrawn},
		{"overdue before too late", func(r *outbox.Record) { r.Expired = true }, 0, Overdue},
		{"too late", func(*outbox.Record) {}, BrokerCall - time.Nanosecond, ""},
		{"just in time", func(*outbox.Record) {}, BrokerCall, Published},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f, a, ref := newFake()
				c.edit(&f.record)
				ctx, cancel := context.WithTimeout(t.Context(), c.left)
				defer cancel()
				result, err := a.attempt(ctx, try{ref: ref, look: func(ctx context.Context) (outbox.Record, error) { return f.Load(ctx, ref) }})
				assert.Equal(t, c.verdict, result.Verdict)
				if c.verdict == "" {
					require.ErrorIs(t, err, outflow.ErrNotAttempted)
				} else {
					require.NoError(t, err)
				}
				assert.Equal(t, c.verdict == Published, f.sent == 1)
				assert.Equal(t, c.verdict == Superseded, len(f.madeWay) == 1)
				if c.verdict != Published && c.verdict != "" {
					assert.Equal(t, f.record.Outcome(), result.Outcome)
				}
			})
		})
	}
}

func TestAttemptPassesErrorsOn(t *testing.T) {
	f, a, ref := newFake()
	look := func(ctx context.Context) (outbox.Record, error) { return f.Load(ctx, ref) }
	f.lookErr = outflow.ErrNotFound
	_, err := a.attempt(t.Context(), try{ref: ref, look: look})
	require.ErrorIs(t, err, outflow.ErrNotFound)
	assert.Zero(t, f.sent)

	f.lookErr, f.makeWayErr, f.record.Generation = nil, errors.New("no database"), 2
	_, err = a.attempt(t.Context(), try{ref: ref, look: look})
	require.ErrorIs(t, err, f.makeWayErr, "the newer start must not wait out its lease unseen")
}

func environment() (*testsuite.TestActivityEnvironment, *[]string) {
	var suite testsuite.WorkflowTestSuite
	env := suite.NewTestActivityEnvironment()
	env.SetTestTimeout(20 * time.Second)
	var beats []string
	env.SetOnActivityHeartbeatListener(func(_ *activityInfo, details encodedValues) {
		var note attemptNote
		if details.Get(&note) == nil {
			beats = append(beats, note.LastError)
		}
	})
	return env, &beats
}

func TestDurableAttempt(t *testing.T) {
	t.Run("it renews the lease and notes the fast path's failure", func(t *testing.T) {
		f, a, ref := newFake()
		env, beats := environment()
		env.RegisterActivity(a)
		value, err := env.ExecuteActivity(a.Publish, PublishInput{MessageID: ref.ID, Generation: 1, LastError: "reset", Attempts: 1})
		require.NoError(t, err)
		var result PublishResult
		require.NoError(t, value.Get(&result))
		assert.Equal(t, published, result, "its own attempts are on the row already")
		assert.Equal(t, []outbox.Renewal{{Ref: ref, Lease: leaseFor(1), LastError: "reset", Attempts: 1}}, f.renewals)
		assert.Empty(t, f.loads)
		assert.Empty(t, *beats)
	})
	t.Run("it leaves its failure to the next attempt", func(t *testing.T) {
		f, a, ref := newFake()
		f.publish = func(context.Context, outflow.Message) (string, error) {
			return "", outflow.Unavailable(errors.New("the \x00 broker's words" + strings.Repeat("x", 5000)))
		}
		env, beats := environment()
		env.RegisterActivity(a)
		_, err := env.ExecuteActivity(a.Publish, PublishInput{MessageID: ref.ID, Generation: 1})
		var application *temporal.ApplicationError
		require.ErrorAs(t, err, &application)
		assert.Equal(t, ErrTypeUnavailable, application.Type())
		require.Len(t, *beats, 1)
		assert.True(t, strings.HasPrefix((*beats)[0], "the \uFFFD broker's words"))
		assert.LessOrEqual(t, len((*beats)[0]), text.MaxError)
	})
	t.Run("it takes the last failure from the attempt before", func(t *testing.T) {
		f, a, ref := newFake()
		env, _ := environment()
		env.RegisterActivity(a)
		env.SetHeartbeatDetails(attemptNote{LastError: "the attempt before"})
		_, err := env.ExecuteActivity(a.Publish, PublishInput{MessageID: ref.ID, Generation: 1, LastError: "the fast path"})
		require.NoError(t, err)
		require.Len(t, f.renewals, 1)
		assert.Equal(t, "the attempt before", f.renewals[0].LastError)
	})
	t.Run("what it only met is not on the row yet", func(t *testing.T) {
		f, a, ref := newFake()
		env, _ := environment()
		env.RegisterActivity(a)
		_, err := env.ExecuteLocalActivity(a.Publish, PublishInput{MessageID: ref.ID, Generation: 1})
		require.NoError(t, err)
		value, err := env.ExecuteActivity(a.Publish, PublishInput{MessageID: ref.ID, Generation: 1, Attempts: 1})
		require.NoError(t, err)
		var result PublishResult
		require.NoError(t, value.Get(&result))
		assert.Equal(t, 1, result.Attempts)
		assert.Equal(t, 1, f.sent)
		assert.Empty(t, f.renewals)
		a.flights.forget(ref)
	})
}

// An attempt that never came to send is not counted by the next one, whichever way the
// row was renewed.
func TestAttemptsThatSendNothing(t *testing.T) {
	attempt := func(t *testing.T, change func(f *fake)) (notes []attemptNote, err error) {
		f, a, ref := newFake()
		change(f)
		var suite testsuite.WorkflowTestSuite
		env := suite.NewTestActivityEnvironment()
		env.SetOnActivityHeartbeatListener(func(_ *activityInfo, details encodedValues) {
			var note attemptNote
			assert.NoError(t, details.Get(&note))
			notes = append(notes, note)
		})
		env.RegisterActivity(a)
		_, err = env.ExecuteActivity(a.Publish, PublishInput{MessageID: ref.ID, Generation: 1, Attempts: 1})
		return notes, err
	}
	for name, c := range map[string]struct {
		change func(f *fake)
		want   attemptNote
	}{
		"the payload did not come":   {func(f *fake) { f.record.MissingBytes, f.loadErr = 1, errors.New("slow") }, attemptNote{LastError: "slow", Attempt: 1, Uncounted: -1}},
		"the publisher had no time":  {func(f *fake) { f.publish = refuses }, attemptNote{LastError: "", Attempt: 1, Uncounted: -1}},
		"the row was not renewed":    {func(f *fake) { f.lookErr = errors.New("no database") }, attemptNote{LastError: "no database", Attempt: 1, Uncounted: 1}},
		"its destination is closed":  {func(f *fake) { f.record.HeldBack = true }, attemptNote{LastError: "", Attempt: 1}},
		"but one that failed counts": {func(f *fake) { f.publish = down }, attemptNote{LastError: "503", Attempt: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			notes, err := attempt(t, c.change)
			require.Error(t, err)
			assert.Equal(t, []attemptNote{c.want}, notes)
		})
	}
}

func refuses(context.Context, outflow.Message) (string, error) { return "", outflow.ErrNotAttempted }
func down(context.Context, outflow.Message) (string, error) {
	return "", outflow.Unavailable(errors.New("503"))
}

// A large payload is loaded only where it is to be sent.
func TestPayloadThatIsOwed(t *testing.T) {
	f, a, ref := newFake()
	f.record.Payload, f.record.MissingBytes = nil, 5
	f.publish = func(_ context.Context, m outflow.Message) (string, error) { return string(m.Payload), nil }
	look := func(ctx context.Context) (outbox.Record, error) { return f.Load(ctx, ref) }
	result, err := a.attempt(t.Context(), try{ref: ref, look: look})
	require.NoError(t, err)
	assert.Equal(t, "large", result.BrokerMessageID)

	f.loadErr = errors.New("it is not loaded")
	f.record.Expired = true
	_, err = a.attempt(t.Context(), try{ref: ref, look: look})
	require.NoError(t, err)
}

// Waits that are longer than the attempt's lease get one of their own.
func TestLongWaitsAreLeased(t *testing.T) {
	for name, change := range map[string]func(f *fake){
		"asked for": func(f *fake) {
			f.publish = func(context.Context, outflow.Message) (string, error) {
				return "", &outflow.Failure{Class: outflow.ClassUnavailable, RetryAfter: 30 * time.Minute, Err: errors.New("429")}
			}
		},
		"held back": func(f *fake) { f.record.HeldBack, f.record.HeldBackFor = true, 30*time.Minute },
	} {
		t.Run(name, func(t *testing.T) {
			f, a, ref := newFake()
			change(f)
			env, _ := environment()
			env.RegisterActivity(a)
			_, err := env.ExecuteActivity(a.Publish, PublishInput{MessageID: ref.ID, Generation: 1})
			var application *temporal.ApplicationError
			require.ErrorAs(t, err, &application)
			assert.GreaterOrEqual(t, application.NextRetryDelay(), 30*time.Minute)
			require.Len(t, f.renewals, 2)
			lease := f.renewals[1]
			assert.True(t, lease.Waits)
			assert.Zero(t, lease.Attempts)
			assert.Equal(t, waitLease(application.NextRetryDelay()), lease.Lease)
		})
	}
}

// While an attempt takes long its worker says that it lives, and nothing that the next
// attempt could take for this one's word.
func TestALongAttemptBeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, a, ref := newFake()
		f.publish = func(context.Context, outflow.Message) (string, error) {
			time.Sleep(outflow.MaxCallTime)
			return "", errors.New("503")
		}
		var notes []attemptNote
		var suite testsuite.WorkflowTestSuite
		env := suite.NewTestActivityEnvironment()
		env.SetTestTimeout(Durable)
		env.SetOnActivityHeartbeatListener(func(_ *activityInfo, details encodedValues) {
			var note attemptNote
			assert.NoError(t, details.Get(&note))
			notes = append(notes, note)
		})
		env.SetHeartbeatDetails(attemptNote{LastError: "the one before", Attempt: 7})
		env.RegisterActivity(a)
		_, err := env.ExecuteActivity(a.Publish, PublishInput{MessageID: ref.ID, Generation: 1})
		require.Error(t, err)
		require.GreaterOrEqual(t, len(notes), 2)
		assert.Equal(t, attemptNote{LastError: "the one before", Attempt: 7}, notes[0])
		assert.Equal(t, attemptNote{LastError: "503", Attempt: 1}, notes[len(notes)-1], "the last word is the failure's")
	})
}

// A worker that stops while an attempt gets ready to send leaves the message to another
// one: it would not wait for the whole call.
func TestAStoppingWorkerBeginsNoCall(t *testing.T) {
	f, a, ref := newFake()
	asked := make(chan struct{})
	f.publish = func(ctx context.Context, _ outflow.Message) (string, error) {
		close(asked)
		<-ctx.Done() // as one that has not sent it yet
		return "", outflow.ErrNotAttempted
	}
	stopping := make(chan struct{})
	var suite testsuite.WorkflowTestSuite
	env := suite.NewTestActivityEnvironment()
	env.SetWorkerStopChannel(stopping)
	env.RegisterActivity(a)
	go func() {
		<-asked
		close(stopping)
	}()
	_, err := env.ExecuteActivity(a.Publish, PublishInput{MessageID: ref.ID, Generation: 1})
	var failed *temporal.ApplicationError
	require.ErrorAs(t, err, &failed)
	assert.Equal(t, ErrTypeNotAttempted, failed.Type())

	f.publish = func(ctx context.Context, _ outflow.Message) (string, error) { return "", ctx.Err() }
	_, err = env.ExecuteActivity(a.Publish, PublishInput{MessageID: ref.ID, Generation: 1})
	require.ErrorContains(t, err, "context canceled", "a publisher knows it from the start")
}

// second runs the second attempt of a durable publish, whose first left no word.
func second(t *testing.T, a *Activities, in PublishInput) PublishResult {
	t.Helper()
	var suite testsuite.WorkflowTestSuite
	env := suite.NewTestWorkflowEnvironment()
	env.RegisterActivityWithOptions(func(ctx context.Context, in PublishInput) (PublishResult, error) {
		if activity.GetInfo(ctx).Attempt == 1 {
			return PublishResult{}, errors.New("its process died")
		}
		return a.Publish(ctx, in)
	}, activity.RegisterOptions{Name: "publish"})
	env.ExecuteWorkflow(func(ctx workflow.Context) (result PublishResult, err error) {
		ctx = workflow.WithActivityOptions(ctx, workflow.ActivityOptions{StartToCloseTimeout: time.Minute})
		err = workflow.ExecuteActivity(ctx, "publish", in).Get(ctx, &result)
		return result, err
	})
	var result PublishResult
	require.NoError(t, env.GetWorkflowResult(&result))
	return result
}

func TestSecondAttempt(t *testing.T) {
	t.Run("of a suspect: it is left to a claim that has it alone", func(t *testing.T) {
		f, a, ref := newFake()
		f.record.Claims = outbox.QuarantineClaims
		assert.Equal(t, SetAside, second(t, a, PublishInput{MessageID: ref.ID, Generation: 1}).Verdict)
		assert.True(t, f.renewals[0].Lost)
		assert.Zero(t, f.sent)
	})
	t.Run("the first one noted the fast path's attempt", func(t *testing.T) {
		_, a, ref := newFake()
		_, _, err := a.flights.do(t.Context(), ref, func(context.Context) (PublishResult, error) { return published, nil })
		require.NoError(t, err)
		assert.Equal(t, published, second(t, a, PublishInput{MessageID: ref.ID, Generation: 1, Attempts: 1}))
		a.flights.forget(ref)
	})
}

// A run whose process was lost says so at its look, and a suspect goes no further.
func TestLocalAttemptAgain(t *testing.T) {
	f, a, ref := newFake()
	f.record.Claims = outbox.QuarantineClaims
	env, _ := environment()
	env.RegisterActivity(a)
	value, err := env.ExecuteLocalActivity(a.Publish, PublishInput{MessageID: ref.ID, Generation: 1, Again: true})
	require.NoError(t, err)
	var result PublishResult
	require.NoError(t, value.Get(&result))
	assert.Equal(t, SetAside, result.Verdict)
	assert.Equal(t, []outbox.Ref{ref}, f.again)
	assert.Empty(t, f.loads)
	assert.Zero(t, f.sent)
}

// A publisher that hangs until its deadline is answered for before the SDK
// drops the answer.
func TestDurableAttemptGivesUpInTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, a, ref := newFake()
		began := time.Now()
		f.publish = func(ctx context.Context, _ outflow.Message) (string, error) {
			deadline, ok := ctx.Deadline()
			assert.True(t, ok)
			assert.Equal(t, Durable-answerMargin, deadline.Sub(began))
			return "broker-1", nil
		}
		env, _ := environment()
		env.RegisterActivity(a)
		_, err := env.ExecuteActivity(a.Publish, PublishInput{MessageID: ref.ID, Generation: 1})
		require.NoError(t, err)
		assert.Equal(t, 1, f.sent)
		a.flights.forget(ref)
	})
}

// A cancel request reaches the attempt through its context, where the server
// sends it: the attempt stays, for the broker may have the message.
func TestDurableAttemptWaitsForItsAnswer(t *testing.T) {
	f, a, ref := newFake()
	background, cancel := context.WithCancel(t.Context())
	f.publish = func(ctx context.Context, _ outflow.Message) (string, error) {
		cancel()
		select {
		case <-ctx.Done():
			return "", ctx.Err()
		case <-time.After(50 * time.Millisecond): // time to leave, for one who would
			return "broker-1", nil
		}
	}
	env, _ := environment()
	env.SetWorkerOptions(worker.Options{BackgroundActivityContext: background})
	env.RegisterActivity(a)
	value, err := env.ExecuteActivity(a.Publish, PublishInput{MessageID: ref.ID, Generation: 1})
	require.NoError(t, err)
	var result PublishResult
	require.NoError(t, value.Get(&result))
	assert.Equal(t, Published, result.Verdict)
	a.flights.forget(ref)
}

func TestLocalAttemptOnlyLoads(t *testing.T) {
	f, a, ref := newFake()
	env, beats := environment()
	f.publish = func(context.Context, outflow.Message) (string, error) { return "", errors.New("reset") }
	_, err := env.ExecuteLocalActivity(a.Publish, PublishInput{MessageID: ref.ID, Generation: 1})
	require.Error(t, err)
	assert.Equal(t, []outbox.Ref{ref}, f.loads)
	assert.Empty(t, f.renewals)
	assert.Empty(t, *beats)
}

// A payload that makes its publisher panic is given up, and does not get into
// Temporal by way of the panic's text.
func TestPanicInThePublisher(t *testing.T) {
	const whatToDo = " (the log has the stack; fix the publisher and retry the message, or correct the message and enqueue it again)"
	for name, c := range map[string]struct {
		panics func(payload []byte)
		says   string
	}{
		"with words":         {func(payload []byte) { panic("can't read " + string(payload)) }, "publishing panicked: a string, not shown because it may quote the message" + whatToDo},
		"of Go's own":        {func(payload []byte) { _ = payload[len(payload)] }, "publishing panicked: runtime error: index out of range [2] with length 2" + whatToDo},
		"ends its goroutine": {func([]byte) { runtime.Goexit() }, "the publish ended without an answer"},
	} {
		t.Run(name, func(t *testing.T) {
			f, a, ref := newFake()
			f.publish = func(_ context.Context, m outflow.Message) (string, error) { c.panics(m.Payload); return "", nil }
			env, _ := environment()
			env.RegisterActivity(a)
			_, err := env.ExecuteActivity(a.Publish, PublishInput{MessageID: ref.ID, Generation: 1})
			var application *temporal.ApplicationError
			require.ErrorAs(t, err, &application)
			assert.Equal(t, c.says, application.Message())
			if name != "ends its goroutine" {
				assert.Equal(t, ErrTypePermanent, application.Type())
			}
			assert.Empty(t, known(a.flights))
		})
	}
}

func (f *fake) DatabaseID(context.Context) (uuid.UUID, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.database, f.databaseErr
}

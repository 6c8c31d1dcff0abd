package activities

import (
	"context"
	"errors"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/text"
	"github.com/outflowhq/outflow/internal/timing"
	"github.com/outflowhq/outflow/outbox"
)

func TestDurableAttempt(t *testing.T) {
	t.Run("it renews the lease and notes the fast path's failure", func(t *testing.T) {
		f, a, ref := newFake()
		env, beats := environment()
		env.RegisterActivity(a)
		value, err := env.ExecuteActivity(a.Publish,
			PublishInput{MessageID: ref.ID, Generation: 1, LastError: "reset", Attempts: 1})
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
		_, err := env.ExecuteActivity(a.Publish,
			PublishInput{MessageID: ref.ID, Generation: 1, LastError: "the fast path"})
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
		keepNotes(t, env, &notes)
		env.RegisterActivity(a)
		_, err = env.ExecuteActivity(a.Publish, PublishInput{MessageID: ref.ID, Generation: 1, Attempts: 1})
		return notes, err
	}
	for name, c := range map[string]struct {
		change func(f *fake)
		want   attemptNote
	}{
		"the payload did not come": {func(f *fake) { f.record.MissingBytes, f.loadErr = 1, errors.New("slow") },
			attemptNote{LastError: "slow", Attempt: 1, Uncounted: -1}},
		"the publisher had no time": {func(f *fake) { f.publish = refuses },
			attemptNote{LastError: "", Attempt: 1, Uncounted: -1}},
		"the row was not renewed": {func(f *fake) { f.rowErr = errors.New("no database") },
			attemptNote{LastError: "no database", Attempt: 1, Uncounted: 1}},
		"its breaker is open": {func(f *fake) { f.record.HeldBack = true },
			attemptNote{LastError: "", Attempt: 1}},
		"but one that failed counts": {func(f *fake) { f.publish = down }, attemptNote{LastError: "503", Attempt: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			notes, err := attempt(t, c.change)
			require.Error(t, err)
			assert.Equal(t, []attemptNote{c.want}, notes)
		})
	}
}

// Waits that are longer than the attempt's lease get one of their own.
func TestLongWaitsAreLeased(t *testing.T) {
	for name, change := range map[string]func(f *fake){
		"asked for": func(f *fake) {
			f.publish = func(context.Context, outflow.Message) (string, error) {
				return "", &outflow.Failure{Class: outflow.ClassUnavailable, RetryAfter: 30 * time.Minute,
					Err: errors.New("429")}
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

// A long attempt sends heartbeats. None of them is a note that the next attempt could take for this
// attempt's own.
func TestALongAttemptSendsHeartbeats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, a, ref := newFake()
		f.publish = func(context.Context, outflow.Message) (string, error) {
			time.Sleep(outflow.MaxCallTime)
			return "", errors.New("503")
		}
		var notes []attemptNote
		var suite testsuite.WorkflowTestSuite
		env := suite.NewTestActivityEnvironment()
		env.SetTestTimeout(timing.DurablePublish)
		keepNotes(t, env, &notes)
		env.SetHeartbeatDetails(attemptNote{LastError: "the one before", Attempt: 7})
		env.RegisterActivity(a)
		_, err := env.ExecuteActivity(a.Publish, PublishInput{MessageID: ref.ID, Generation: 1})
		require.Error(t, err)
		require.GreaterOrEqual(t, len(notes), 2)
		assert.Equal(t, attemptNote{LastError: "the one before", Attempt: 7}, notes[0])
		assert.Equal(t, attemptNote{LastError: "503", Attempt: 1}, notes[len(notes)-1], "the last note has the failure")
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

// second runs the second attempt of a durable publish, whose first one crashed.
func second(t *testing.T, a *Activities, in PublishInput) PublishResult {
	t.Helper()
	var suite testsuite.WorkflowTestSuite
	env := suite.NewTestWorkflowEnvironment()
	env.RegisterActivityWithOptions(func(ctx context.Context, in PublishInput) (PublishResult, error) {
		if activity.GetInfo(ctx).Attempt == 1 {
			return PublishResult{}, errors.New("its process crashed")
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
	t.Run("of a quarantined message: it is left to a claim in isolation", func(t *testing.T) {
		f, a, ref := newFake()
		f.record.Claims = outbox.QuarantineClaims
		assert.Equal(t, SetAside, second(t, a, PublishInput{MessageID: ref.ID, Generation: 1}).Verdict)
		assert.True(t, f.renewals[0].Lost)
		assert.Zero(t, f.sent)
	})
	t.Run("the first one noted the fast path's attempt", func(t *testing.T) {
		_, a, ref := newFake()
		_, _, err := a.flights.do(t.Context(), ref,
			func(context.Context) (PublishResult, error) { return published, nil })
		require.NoError(t, err)
		assert.Equal(t, published, second(t, a, PublishInput{MessageID: ref.ID, Generation: 1, Attempts: 1}))
		a.flights.forget(ref)
	})
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
			assert.Equal(t, timing.DurablePublish-timing.AnswerMargin, deadline.Sub(began))
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
		case <-time.After(50 * time.Millisecond): // time enough to leave
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

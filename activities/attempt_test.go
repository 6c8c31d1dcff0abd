package activities

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/temporal"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/timing"
	"github.com/outflowhq/outflow/outbox"
)

// The breaker's observation of an attempt, and the class of the attempt's error.
func TestAttemptIsObserved(t *testing.T) {
	errDown := outflow.Unavailable(errors.New("503"))
	answered := &outflow.Failure{Class: outflow.ClassRetryable, Answered: true, Err: errors.New("400")}
	gone := &outflow.Failure{Class: outflow.ClassPermanent, Answered: true,
		Err: fmt.Errorf("no such queue: %w", outflow.ErrNoDestination)}
	cut := &outflow.Failure{Class: outflow.ClassUnavailable, CutShort: true, Err: errors.New("no answer in time")}
	inconclusive, rejected := []string{"sqs://orders inconclusive"}, []string{"sqs://orders rejected"}
	for name, c := range map[string]struct {
		err   error
		known bool
		want  []string
		class outflow.Class
	}{
		"acknowledged": {nil, false, []string{"sqs://orders acknowledged"}, ""},
		"unavailable":  {errDown, false, []string{"sqs://orders failed: 503"}, outflow.ClassUnavailable},
		"cut short": {fmt.Errorf("sending: %w", cut), false, []string{"sqs://orders cut short"},
			outflow.ClassUnavailable},
		"unavailable, never sent": {outflow.Unavailable(fmt.Errorf("queueing: %w", outflow.ErrNotAttempted)), false,
			inconclusive, outflow.ClassUnavailable},
		"retryable says nothing": {outflow.Retryable(errors.New("odd")), false, inconclusive,
			outflow.ClassRetryable},
		"retryable, answered": {outflow.Retryable(fmt.Errorf("sending: %w", answered)), false, rejected,
			outflow.ClassRetryable},
		"the message's own fault": {outflow.Permanent(errors.New("too large")), true, inconclusive,
			outflow.ClassPermanent},
		"refused by the destination": {outflow.Permanent(fmt.Errorf("sending: %w", answered)), true, rejected,
			outflow.ClassPermanent},
		"deleted": {gone, true,
			[]string{"sqs://orders failed: no such queue: the destination does not exist; messages have reached" +
				" it before, so they wait for it"}, outflow.ClassUnavailable},
		"missing for another reason": {outflow.Retryable(outflow.ErrNoDestination), true, inconclusive,
			outflow.ClassRetryable},
		"not attempted for other why": {outflow.ErrNotAttempted, false, inconclusive, outflow.ClassRetryable},
	} {
		t.Run(name, func(t *testing.T) {
			f, a, ref := newFake()
			f.known = c.known
			f.publish = func(context.Context, outflow.Message) (string, error) { return "broker-1", c.err }
			_, err := a.publishOnce(t.Context(), attempt{ref: ref, load: f.row})
			assert.Equal(t, c.want, f.observations)
			if c.err == nil {
				require.NoError(t, err)
				return
			}
			assert.Equal(t, c.class, outflow.ClassOf(err), "%v", err)
		})
	}
}

// A message that is not sent says nothing about its destination, and must not stay its probe.
func TestAttemptThatSendsNothing(t *testing.T) {
	for name, change := range map[string]func(r *outbox.Record){
		"expired":    func(r *outbox.Record) { r.Expired = true },
		"cancelled":  func(r *outbox.Record) { r.CancelRequested = true },
		"ended":      func(r *outbox.Record) { r.State = outflow.Dead },
		"superseded": func(r *outbox.Record) { r.Generation = 2 },
		"crashes":    func(r *outbox.Record) { r.Claims = outbox.MaxClaims + 1 },
	} {
		f, a, ref := newFake()
		change(&f.record)
		_, _ = a.publishOnce(t.Context(), attempt{ref: ref, load: f.row})
		assert.Zero(t, f.sent, name)
		assert.Equal(t, []string{"sqs://orders inconclusive"}, f.observations, name)
	}
}

func TestHeldBackIsNotSent(t *testing.T) {
	f, a, ref := newFake()
	f.record.HeldBack, f.record.HeldBackFor, f.record.LastError = true, 10*time.Second, "503"
	env, beats := environment()
	env.RegisterActivity(a)
	_, err := env.ExecuteActivity(a.Publish, PublishInput{MessageID: ref.ID, Generation: 1})
	var application *temporal.ApplicationError
	require.ErrorAs(t, err, &application)
	assert.Equal(t, ErrTypeNotAttempted, application.Type())
	assert.False(t, application.NonRetryable())
	assert.InDelta(t, timing.MinHeldBackDelay.Seconds(), application.NextRetryDelay().Seconds(),
		0.21*timing.MinHeldBackDelay.Seconds(),
		"its run is signalled when the destination recovers")
	assert.Contains(t, application.Message(),
		"sqs://orders: circuit breaker open: one probe at a time is sent; this message is retried when the"+
			" destination recovers; its last attempt: 503")
	assert.Zero(t, f.sent)
	assert.Empty(t, f.observations, "no failure of the destination")
	assert.Equal(t, []string{""}, *beats, "the row keeps the last real failure")
}

// The fast path sends nothing to a slow target, and shows nothing of it: the durable attempt
// that follows has the broker's whole time, without a wait.
func TestSlowTargetIsLeftToADurableAttempt(t *testing.T) {
	f, a, ref := newFake()
	f.record.SlowTarget = true
	env, _ := environment()
	env.RegisterActivity(a)
	_, err := env.ExecuteLocalActivity(a.Publish, PublishInput{MessageID: ref.ID, Generation: 1})
	var application *temporal.ApplicationError
	require.ErrorAs(t, err, &application)
	assert.Equal(t, ErrTypeNotAttempted, application.Type())
	assert.Equal(t, "not attempted: nothing was sent on the fast path: the target takes longer to answer than the"+
		" 2.5s that a call has there: sqs://orders", application.Message())
	assert.Zero(t, f.sent)
	assert.Empty(t, f.observations, "a probe stays the probe")

	_, err = env.ExecuteActivity(a.Publish, PublishInput{MessageID: ref.ID, Generation: 1})
	require.NoError(t, err)
	assert.Equal(t, 1, f.sent)

	for name, change := range map[string]func(r *outbox.Record){
		"a quarantined message": func(r *outbox.Record) { r.Claims = outbox.QuarantineClaims },
		"one that is not slow":  func(r *outbox.Record) { r.SlowTarget = false },
	} {
		f, a, ref := newFake()
		f.record.SlowTarget = true
		change(&f.record)
		_, err := a.publishOnce(t.Context(), attempt{ref: ref, fastPath: true, load: f.row})
		require.NoError(t, err, name)
		assert.Equal(t, 1, f.sent, name)
	}
}

// An answer that took longer than the fast path has is noted with the success.
func TestLateAnswerIsNoted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f, a, ref := newFake()
		f.publish = func(context.Context, outflow.Message) (string, error) {
			time.Sleep(3 * time.Second)
			return "broker-1", nil
		}
		_, err := a.publishOnce(t.Context(), attempt{ref: ref, load: f.row})
		require.NoError(t, err)
		assert.Equal(t, []string{"sqs://orders took 3s", "sqs://orders acknowledged"}, f.observations)
	})
}

// A message with which one process after the other crashed.
func TestQuarantinedMessages(t *testing.T) {
	publish := func(t *testing.T, crashed bool, claims int) (*fake, PublishResult, error) {
		f, a, ref := newFake()
		f.record.Claims = claims
		result, err := a.publishOnce(t.Context(), attempt{ref: ref, load: f.row, crashed: crashed})
		return f, result, err
	}
	for _, claims := range []int{1, outbox.QuarantineClaims, outbox.MaxClaims} {
		f, result, err := publish(t, false, claims)
		require.NoError(t, err)
		assert.Equal(t, Published, result.Verdict, "it is sent in isolation: %d", claims)
		assert.Equal(t, 1, f.sent)
	}
	f, result, err := publish(t, true, outbox.QuarantineClaims-1)
	require.NoError(t, err)
	assert.Equal(t, Published, result.Verdict)
	assert.Equal(t, 1, f.sent)

	f, result, err = publish(t, true, outbox.QuarantineClaims)
	require.NoError(t, err)
	assert.Equal(t, SetAside, result.Verdict)
	assert.Zero(t, f.sent)
	assert.Len(t, f.madeWay, 1, "it can be claimed at once")

	f, _, err = publish(t, false, outbox.MaxClaims+1)
	assert.True(t, outflow.IsPermanent(err))
	assert.EqualError(t, err, "publishing to sqs://orders: the process crashed 8 times while publishing this message,"+
		" the last 3 times with nothing else in flight"+
		" (find out how the message crashes the process, then retry or redirect it)")
	assert.Zero(t, f.sent)
}

// A durable attempt that follows a crashed one counts the crash.
func TestWhatADurableAttemptNotes(t *testing.T) {
	ref := newRef()
	in := PublishInput{LastError: "the fast path's", Attempts: 1}
	for name, c := range map[string]struct {
		attempt int32
		last    *attemptNote
		want    outbox.Renewal
	}{
		"the first": {1, nil, outbox.Renewal{LastError: "the fast path's", Attempts: 1}},
		"after one that failed": {3, &attemptNote{LastError: "503", Attempt: 2},
			outbox.Renewal{LastError: "503"}},
		"after one that sent nothing": {3, &attemptNote{LastError: "503", Attempt: 2, Uncounted: -1},
			outbox.Renewal{LastError: "503", Attempts: -1}},
		"after one that left no note": {3, &attemptNote{LastError: "503", Attempt: 1, Uncounted: -1},
			outbox.Renewal{Lost: true}},
		"after none that left any": {2, nil, outbox.Renewal{Lost: true}},
		"the first after a person's reset": {1, &attemptNote{LastError: "503", Attempt: 7},
			outbox.Renewal{LastError: "503"}},
	} {
		c.want.Ref, c.want.Lease = ref, leaseFor(c.attempt)
		assert.Equal(t, c.want, renewalOf(ref, in, c.attempt, c.last), name)
	}
}

// While a destination fails, a few of its messages wait as runs and the others as rows.
func TestManyFailuresPutBack(t *testing.T) {
	down := outflow.Unavailable(errors.New("503"))
	publish := func(t *testing.T, consecutiveFailures int, fastPath bool, err, putErr error) (*fake, PublishResult,
		error) {
		f, a, ref := newFake()
		f.consecutiveFailures, f.putErr = consecutiveFailures, putErr
		f.publish = func(context.Context, outflow.Message) (string, error) { return "", err }
		result, err := a.publishOnce(t.Context(), attempt{ref: ref, fastPath: fastPath, load: f.row})
		return f, result, err
	}
	f, result, err := publish(t, maxWaitingRuns+1, true, down, nil)
	require.NoError(t, err)
	assert.Equal(t, SetAside, result.Verdict)
	assert.Equal(t, outflow.Pending, result.Outcome.State)
	assert.Equal(t, "put back: 503", f.observations[1])

	for name, c := range map[string]struct {
		consecutiveFailures int
		fastPath            bool
		err                 error
		putErr              error
	}{
		"the first ones wait as runs":    {maxWaitingRuns, true, down, nil},
		"a durable attempt is a run":     {maxWaitingRuns + 1, false, down, nil},
		"a failure of this message only": {0, true, outflow.Retryable(errors.New("odd")), nil},
		"a call that was cut short": {maxWaitingRuns + 1, true,
			&outflow.Failure{Class: outflow.ClassUnavailable, CutShort: true, Err: errors.New("no answer")}, nil},
		"what can't be put back": {maxWaitingRuns + 1, true, down, errors.New("no database")},
	} {
		_, _, err := publish(t, c.consecutiveFailures, c.fastPath, c.err, c.putErr)
		assert.Equal(t, c.err, err, name)
	}
}

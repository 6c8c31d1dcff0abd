package activities

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/temporal"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/timing"
	"github.com/outflowhq/outflow/outbox"
)

var (
	noQueue = &outflow.Failure{Class: outflow.ClassPermanent, Answered: true,
		Err: fmt.Errorf("no such queue: %w", outflow.ErrNoDestination)}
	noPublisher = outflow.Permanent(fmt.Errorf("there is sqs: %w", outflow.ErrNoPublisher))
	errNoTable  = errors.New("no database")
)

// What becomes of a message whose destination, or whose publisher, is missing. An attempt that is left
// to another process ends no probe: that process sends the probe.
func TestAttemptToAMissingDestination(t *testing.T) {
	const (
		missing, inconclusive = "sqs://orders missing", "sqs://orders inconclusive"
		queueWaits            = "put back: no such queue: the destination does not exist"
		schemeWaits           = "put back: there is sqs: no publisher for the scheme"
	)
	waits := func(attempts int) *outbox.Missing {
		return &outbox.Missing{Grace: outflow.DefaultMissingGrace, Attempts: attempts}
	}
	for name, c := range map[string]struct {
		err         error
		fastPath    bool
		spoil       func(f *fake, a *Activities)
		observes    []string
		putBack     *outbox.Missing
		fails       outflow.Class // where the attempt returns an error
		notAttempts bool
	}{
		"a queue": {err: noQueue, fastPath: true, observes: []string{missing, queueWaits}, putBack: waits(1)},
		"a queue, for a durable attempt, which has counted itself": {err: noQueue,
			observes: []string{missing, queueWaits}, putBack: waits(0)},
		"a queue, for as long as the message may wait": {err: noQueue, fastPath: true,
			spoil:    func(f *fake, _ *Activities) { f.putErr = outbox.ErrGraceOver },
			observes: []string{missing, queueWaits}, putBack: waits(1), fails: outflow.ClassPermanent},
		"a queue, and nobody can put the message back": {err: noQueue, fastPath: true,
			spoil:    func(f *fake, _ *Activities) { f.putErr = errNoTable },
			observes: []string{missing, queueWaits}, putBack: waits(1), fails: outflow.ClassRetryable},
		"a queue, and nobody knows whether it was ever there": {err: noQueue, fastPath: true,
			spoil:    func(f *fake, _ *Activities) { f.knownErr = errNoTable },
			observes: []string{"sqs://orders rejected"}, fails: outflow.ClassRetryable},
		"a queue, without a grace": {err: noQueue, fastPath: true,
			spoil:    func(f *fake, a *Activities) { WithMissingGrace(0)(a); f.putErr = outbox.ErrGraceOver },
			observes: []string{"sqs://orders rejected", queueWaits}, putBack: &outbox.Missing{Attempts: 1},
			fails: outflow.ClassPermanent},
		"the publisher, everywhere": {err: noPublisher, fastPath: true,
			observes: []string{inconclusive, schemeWaits}, putBack: waits(0)},
		"the publisher, everywhere, for a durable attempt that sent nothing": {err: noPublisher,
			observes: []string{inconclusive, schemeWaits}, putBack: waits(-1)},
		"the publisher here, and a starter has it": {err: noPublisher, fastPath: true,
			spoil: func(f *fake, _ *Activities) { f.served = outbox.ServedByScanners },
			fails: outflow.ClassRetryable, notAttempts: true},
		"the publisher here, and a worker has it": {err: noPublisher, fastPath: true,
			spoil: func(f *fake, _ *Activities) { f.served = outbox.ServedByWorkers },
			fails: outflow.ClassRetryable, notAttempts: true},
		"the publisher here, and nobody knows of others": {err: noPublisher, fastPath: true,
			spoil:    func(f *fake, _ *Activities) { f.servedErr = errNoTable },
			observes: []string{inconclusive}, fails: outflow.ClassRetryable, notAttempts: true},
	} {
		t.Run(name, func(t *testing.T) {
			f, a, ref := newFake()
			if c.spoil != nil {
				c.spoil(f, a)
			}
			f.publish = func(context.Context, outflow.Message) (string, error) { return "", c.err }
			result, err := a.publishOnce(t.Context(), attempt{ref: ref, fastPath: c.fastPath, load: f.row})
			assert.Equal(t, c.observes, f.observations)
			if c.putBack != nil {
				assert.Equal(t, []outbox.Missing{*c.putBack}, f.missing)
			} else {
				assert.Empty(t, f.missing)
			}
			if c.fails == "" {
				require.NoError(t, err)
				assert.Equal(t, SetAside, result.Verdict, "its run ends")
				assert.Equal(t, outflow.Pending, result.Outcome.State)
				return
			}
			assert.Equal(t, c.fails, outflow.ClassOf(err), "%v", err)
			assert.Equal(t, c.notAttempts, errors.Is(err, outflow.ErrNotAttempted), "%v", err)
		})
	}
}

// A run off the fast path whose destination was found missing leaves its message to its row, and
// sends nothing.
func TestRunBehindAMissingDestination(t *testing.T) {
	for name, c := range map[string]struct {
		putErr error
		dead   bool
	}{"waits as a row": {nil, false}, "has waited long enough": {outbox.ErrGraceOver, true}} {
		t.Run(name, func(t *testing.T) {
			f, a, ref := newFake()
			f.record.HeldBack, f.record.Missing, f.putErr = true, "no such queue", c.putErr
			env, _ := environment()
			env.RegisterActivity(a)
			value, err := env.ExecuteActivity(a.Publish, PublishInput{MessageID: ref.ID, Generation: 1})
			assert.Zero(t, f.sent)
			assert.Equal(t, []string{"put back: no such queue"}, f.observations, "it is no failure of the destination")
			assert.Equal(t, []outbox.Missing{{Grace: outflow.DefaultMissingGrace}}, f.missing)
			if c.dead {
				var application *temporal.ApplicationError
				require.ErrorAs(t, err, &application)
				assert.Equal(t, ErrTypePermanent, application.Type())
				assert.Equal(t, "no such queue", application.Message())
				return
			}
			require.NoError(t, err)
			var result PublishResult
			require.NoError(t, value.Get(&result))
			assert.Equal(t, SetAside, result.Verdict)
		})
	}
}

// An attempt in a process without the publisher is passed on to one that has it: no attempt is
// counted, and the next one comes soon.
func TestAttemptIsPassedOnToAnotherProcess(t *testing.T) {
	f, a, ref := newFake()
	f.served = outbox.ServedByWorkers
	f.publish = func(context.Context, outflow.Message) (string, error) { return "", noPublisher }
	env, _ := environment()
	env.RegisterActivity(a)
	var notes []attemptNote
	keepNotes(t, env, &notes)
	_, err := env.ExecuteActivity(a.Publish, PublishInput{MessageID: ref.ID, Generation: 1})
	var application *temporal.ApplicationError
	require.ErrorAs(t, err, &application)
	assert.Equal(t, ErrTypeNotAttempted, application.Type())
	assert.LessOrEqual(t, application.NextRetryDelay(), timing.MaxForeignDelay)
	assert.Contains(t, application.Message(), "another process publishes to the scheme")
	require.Len(t, notes, 1)
	assert.Equal(t, -1, notes[0].Uncounted, "the row has counted it")
}

// A callback waits for its destination as a message does: for its grace, or for a day where the
// destination was reached before.
func TestCallbackGrace(t *testing.T) {
	began := time.Date(2026, 1, 31, 8, 0, 0, 0, time.UTC)
	grace := outflow.DefaultMissingGrace
	for name, c := range map[string]struct {
		err     error
		waited  time.Duration
		spoil   func(f *fake)
		class   outflow.Class
		longest time.Duration
	}{
		"a queue":                    {noQueue, 0, nil, outflow.ClassUnavailable, missingCallbackDelay},
		"a queue, soon for too long": {noQueue, grace - time.Second, nil, outflow.ClassUnavailable, time.Second},
		"a queue, for too long":      {noQueue, grace, nil, outflow.ClassPermanent, 0},
		"a queue that was there before": {noQueue, grace, func(f *fake) { f.known = true }, outflow.ClassUnavailable,
			timing.CallbackBackoff.Max},
		"the publisher":               {noPublisher, 0, nil, outflow.ClassUnavailable, missingCallbackDelay},
		"the publisher, for too long": {noPublisher, grace, nil, outflow.ClassPermanent, 0},
		"the publisher here alone": {noPublisher, grace, func(f *fake) { f.served = outbox.ServedByWorkers },
			outflow.ClassRetryable, timing.MaxForeignDelay},
	} {
		f, a, _ := newFake()
		if c.spoil != nil {
			c.spoil(f)
		}
		info := activity.Info{ScheduledTime: began, StartedTime: began.Add(c.waited)}
		longest, err := a.callbackGrace(t.Context(), "sqs://replies", info, c.err)
		assert.Equal(t, c.class, outflow.ClassOf(err), name)
		if c.longest == timing.MaxForeignDelay { // at random
			assert.Positive(t, longest, name)
			longest = max(longest, c.longest)
		}
		assert.Equal(t, c.longest, longest, name)
	}
}

// A callback that reached its queue counts as a message that did; breakers learn nothing else of it.
func TestCallbackNotesThatItsQueueIsThere(t *testing.T) {
	for to, want := range map[string][]string{
		"sqs://replies": {"sqs://replies acknowledged"}, "https://shop.example/in": nil,
	} {
		f := owing()
		f.callback.To = to
		_, failed := callBack(t, f, &sender{})
		require.Nil(t, failed)
		assert.Equal(t, want, f.observations, to)
	}
	f := owing()
	f.callback.To = "sqs://replies"
	_, failed := callBack(t, f, &sender{answer: func(context.Context) error { return outflow.Unavailable(errors.New("503")) }})
	require.NotNil(t, failed)
	assert.Empty(t, f.observations)
}

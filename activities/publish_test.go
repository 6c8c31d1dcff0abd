package activities

import (
	"context"
	"errors"
	"runtime"
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

// The order of an attempt's checks: the first one decides.
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
		{"an older row is superseded, too", func(r *outbox.Record) { r.Generation = 0 }, time.Minute, Superseded},
		{"ended before cancelled", func(r *outbox.Record) { all(r); r.Generation = 1 }, 0, Ended},
		{"withdrawn before overdue", func(r *outbox.Record) { r.CancelRequested, r.Expired = true, true }, 0,
			Withdrawn},
		{"overdue before too late", func(r *outbox.Record) { r.Expired = true }, 0, Overdue},
		{"too late", func(*outbox.Record) {}, timing.FastPathCall - time.Nanosecond, ""},
		{"just in time", func(*outbox.Record) {}, timing.FastPathCall, Published},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f, a, ref := newFake()
				c.edit(&f.record)
				ctx, cancel := context.WithTimeout(t.Context(), c.left)
				defer cancel()
				result, err := a.publishOnce(ctx, attempt{ref: ref, load: f.row})
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
	f.rowErr = outflow.ErrNotFound
	_, err := a.publishOnce(t.Context(), attempt{ref: ref, load: f.row})
	require.ErrorIs(t, err, outflow.ErrNotFound)
	assert.Zero(t, f.sent)

	f.rowErr, f.makeWayErr, f.record.Generation = nil, errors.New("no database"), 2
	_, err = a.publishOnce(t.Context(), attempt{ref: ref, load: f.row})
	require.ErrorIs(t, err, f.makeWayErr, "the newer start must not wait out its lease unseen")
}

// A large payload is loaded only for a message that is sent.
func TestMissingPayloadIsLoaded(t *testing.T) {
	f, a, ref := newFake()
	f.record.Payload, f.record.MissingBytes = nil, 5
	f.publish = func(_ context.Context, m outflow.Message) (string, error) { return string(m.Payload), nil }
	result, err := a.publishOnce(t.Context(), attempt{ref: ref, load: f.row})
	require.NoError(t, err)
	assert.Equal(t, "large", result.BrokerMessageID)

	f.loadErr = errors.New("it is not loaded")
	f.record.Expired = true
	_, err = a.publishOnce(t.Context(), attempt{ref: ref, load: f.row})
	require.NoError(t, err)
}

// A run whose process crashed has its load count that, and leaves a quarantined message to a claim
// in isolation.
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
	const whatToDo = " (the log has the stack; fix the publisher and retry the message, or correct the message" +
		" and enqueue it again)"
	for name, c := range map[string]struct {
		panics func(payload []byte)
		says   string
	}{
		"with words": {func(payload []byte) { panic("can't read " + string(payload)) },
			"publishing: the publisher panicked: a string, not shown because it may quote the message" + whatToDo},
		"of Go's own": {func(payload []byte) { _ = payload[len(payload)] },
			"publishing: the publisher panicked: runtime error: index out of range [2] with length 2" + whatToDo},
		"ends its goroutine": {func([]byte) { runtime.Goexit() }, "the publish ended without an answer"},
	} {
		t.Run(name, func(t *testing.T) {
			f, a, ref := newFake()
			f.publish = func(_ context.Context, m outflow.Message) (string, error) {
				c.panics(m.Payload)
				return "",
					nil
			}
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

package activities

import (
	"context"
	"errors"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/worker"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/outbox"
)

type (
	activityInfo  = activity.Info
	encodedValues = converter.EncodedValues
)

// mark runs one of the Mark activities as a worker would.
func mark(t *testing.T, function func(context.Context, MarkInput) (outflow.Outcome, error),
	in MarkInput) (outflow.Outcome, error) {
	t.Helper()
	env, _ := environment()
	env.RegisterActivityWithOptions(function, activity.RegisterOptions{Name: "Mark"})
	value, err := env.ExecuteActivity("Mark", in)
	if err != nil {
		return outflow.Outcome{}, err
	}
	var outcome outflow.Outcome
	require.NoError(t, value.Get(&outcome))
	return outcome, nil
}

func TestMarksWriteTheirOwnEnd(t *testing.T) {
	f, a, ref := newFake()
	for state, function := range map[outflow.State]func(context.Context, MarkInput) (outflow.Outcome, error){
		outflow.Delivered: a.MarkDelivered, outflow.Dead: a.MarkDead,
		outflow.Expired: a.MarkExpired, outflow.Cancelled: a.MarkCancelled,
	} {
		f.endings = nil
		outcome, err := mark(t, function, MarkInput{MessageID: ref.ID, Generation: 1, BrokerMessageID: "b",
			Reason: "why", Attempts: 2})
		require.NoError(t, err)
		assert.Equal(t, state, outcome.State)
		assert.Equal(t, []outbox.Ending{{Ref: ref, State: state, BrokerMessageID: "b", LastError: "why", Attempts: 2}},
			f.endings)
		assert.Empty(t, f.madeWay)
	}
}

// An acknowledgement in this process beats whatever else the run decided.
func TestAckBeatsEveryOtherEnd(t *testing.T) {
	for name, of := range map[string]func(a *Activities) func(context.Context, MarkInput) (outflow.Outcome, error){
		"dead": func(a *Activities) func(context.Context, MarkInput) (outflow.Outcome,
			error) {
			return a.MarkDead
		},
		"expired": func(a *Activities) func(context.Context, MarkInput) (outflow.Outcome,
			error) {
			return a.MarkExpired
		},
		"cancelled": func(a *Activities) func(context.Context, MarkInput) (outflow.Outcome,
			error) {
			return a.MarkCancelled
		},
	} {
		for _, underWay := range []bool{false, true} {
			t.Run(name, func(t *testing.T) {
				f, a, ref := newFake()
				sending, answer := make(chan struct{}), make(chan struct{})
				f.publish = func(context.Context, outflow.Message) (string, error) {
					close(sending)
					<-answer
					return "broker-1", nil
				}
				sent := make(chan error, 1)
				go func() {
					_, _, err := a.flights.do(t.Context(), ref, func(ctx context.Context) (PublishResult, error) {
						return a.publishOnce(ctx, attempt{ref: ref, load: f.row})
					})
					sent <- err
				}()
				<-sending
				if underWay {
					go func() { close(answer) }() // before or after the mark asks: it waits
				} else {
					close(answer)
					require.NoError(t, <-sent)
				}
				outcome, err := mark(t, of(a),
					MarkInput{MessageID: ref.ID, Generation: 1, Reason: "given up", Attempts: 1})
				require.NoError(t, err)
				assert.Equal(t, outflow.Delivered, outcome.State)
				assert.Equal(t, []outbox.Ending{{Ref: ref, State: outflow.Delivered, BrokerMessageID: "broker-1",
					Attempts: 1}}, f.endings)
				assert.Empty(t, known(a.flights), "its end is written")
			})
		}
	}
}

// As long as a publish under way has no answer, nobody knows that the message is not
// out: a mark whose time is over first writes nothing.
func TestMarkWritesNothingBesideAPublishUnderWay(t *testing.T) {
	f, a, ref := newFake()
	a.flights.open[ref] = &flight{landed: make(chan struct{})}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	env, _ := environment()
	env.SetWorkerOptions(worker.Options{BackgroundActivityContext: over})
	env.RegisterActivity(a)
	_, err := env.ExecuteActivity(a.MarkDead, MarkInput{MessageID: ref.ID, Generation: 1, Reason: "given up"})
	require.ErrorContains(t, err, "waiting for the publish under way")
	assert.Empty(t, f.endings)
}

func TestMarkOfASupersededRun(t *testing.T) {
	f, a, ref := newFake()
	f.outcome = outflow.Outcome{ID: ref.ID, State: outflow.Pending, Generation: 2}
	outcome, err := mark(t, a.MarkDelivered, MarkInput{MessageID: ref.ID, Generation: 1})
	require.NoError(t, err)
	assert.Equal(t, 2, outcome.Generation)
	assert.Equal(t, []outbox.Ref{ref}, f.madeWay)

	f.makeWayErr = errors.New("no database")
	_, err = mark(t, a.MarkDelivered, MarkInput{MessageID: ref.ID, Generation: 1})
	require.ErrorContains(t, err, "no database")
}

func TestMarkKeepsTheAckUntilItIsWritten(t *testing.T) {
	f, a, ref := newFake()
	_, _, err := a.flights.do(t.Context(), ref, func(context.Context) (PublishResult, error) { return published, nil })
	require.NoError(t, err)

	f.endErr = errors.New("no database")
	_, err = mark(t, a.MarkDelivered, MarkInput{MessageID: ref.ID, Generation: 1})
	var application *temporal.ApplicationError
	require.ErrorAs(t, err, &application)
	assert.Equal(t, ErrTypeRetryable, application.Type())
	assert.Contains(t, known(a.flights), ref)

	f.endErr = outflow.ErrNotFound
	_, err = mark(t, a.MarkDelivered, MarkInput{MessageID: ref.ID, Generation: 1})
	require.ErrorAs(t, err, &application)
	assert.Equal(t, ErrTypeNotFound, application.Type())
	assert.Empty(t, known(a.flights), "nobody will come back for a row that is gone")
}

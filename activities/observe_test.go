package activities

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/publish"
)

// answering is a publisher that answers as the test last set it.
type answering struct {
	err    error
	panics bool
}

func (*answering) Scheme() string { return "sqs" }

func (a *answering) Publish(context.Context, outflow.Message) (string, error) {
	if a.panics {
		panic("boom")
	}
	return "id", a.err
}

// observed returns a log, and sends one message with the given answer.
func observed(t *testing.T) (log *lines, broker *answering, send func(err error)) {
	log, to := logged()
	broker = &answering{}
	f, _, _ := newFake()
	a := New(f, publish.NewRouter(broker), LogTo(to))
	return log, broker, func(err error) {
		broker.err = err
		_, got := a.publishOnce(t.Context(), attempt{ref: f.record.Ref(), load: f.row})
		if broker.panics {
			require.True(t, outflow.IsPermanent(got))
			return
		}
		if !outbox.IsMissing(err) { // such a message is left to its row
			require.ErrorIs(t, got, err)
		}
	}
}

func TestEachTurnIsLoggedOnce(t *testing.T) {
	log, _, send := observed(t)
	send(nil)
	send(outflow.Permanent(errors.New("too large")))
	require.Empty(t, log.String())

	down := outflow.Unavailable(errors.New("no route"))
	send(down)
	send(down)
	require.Equal(t, 1, strings.Count(log.String(), "publishing fails"))
	require.Contains(t, log.String(), "destination=sqs://orders")
	require.Contains(t, log.String(), "no route")
	send(nil)
	send(nil)
	require.Equal(t, 1, strings.Count(log.String(), "publishing works again"))
	send(down)
	require.Equal(t, 2, strings.Count(log.String(), "publishing fails"))
}

// The words of a panic may be read by whoever reads the log, and not by whoever reads rows.
func TestAPanicIsLoggedWhole(t *testing.T) {
	log, broker, send := observed(t)
	broker.panics = true
	send(nil)
	require.Contains(t, log.String(), `msg="publishing panicked"`)
	require.Contains(t, log.String(), "panic=boom")
	require.Contains(t, log.String(), "observe_test.go")
}

// Messages of a deleted queue wait for it, which only the log says as it happens. Of a queue that was
// never there a scanner's log says so, once a minute. An attempt that sent nothing says nothing about
// its destination.
func TestTheTurnOfAMissingDestinationIsLogged(t *testing.T) {
	log, _, send := observed(t)
	gone := outflow.Permanent(fmt.Errorf("looking up: %w", outflow.ErrNoDestination))
	for _, c := range []struct {
		err   error
		lines int
	}{
		{nil, 0},
		{outflow.Retryable(fmt.Errorf("queueing: %w", outflow.ErrNotAttempted)), 0},
		{gone, 0},
		{outflow.Unavailable(gone), 1},
		{outflow.Unavailable(gone), 1},
		{nil, 2},
	} {
		send(c.err)
		require.Equal(t, c.lines, strings.Count(log.String(), "\n"), log.String())
	}
}

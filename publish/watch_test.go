package publish_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/publish"
)

// answering is a publisher that answers what the test last said.
type answering struct{ err error }

func (*answering) Scheme() string { return "sqs" }

func (a *answering) Publish(context.Context, outflow.Message) (string, error) { return "id", a.err }

func TestWatchTellsEachTurnOnce(t *testing.T) {
	var log bytes.Buffer
	broker := &answering{}
	watched := publish.Watch(publish.NewRouter(broker), slog.New(slog.NewTextHandler(&log, nil)))
	send := func(err error) {
		broker.err = err
		_, got := watched.Publish(t.Context(), outflow.Message{Destination: "sqs://orders"})
		require.ErrorIs(t, got, err)
	}
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

// What a panic says may be read by who reads the log, and not by who reads rows.
func TestWatchTellsAPanicWhole(t *testing.T) {
	var log bytes.Buffer
	router := publish.NewRouter(plain{scheme: "sqs", do: func() error { panic("boom") }})
	_, err := publish.Watch(router, slog.New(slog.NewTextHandler(&log, nil))).Publish(t.Context(), to("sqs://orders"))
	require.True(t, outflow.IsPermanent(err))
	require.Contains(t, log.String(), `msg="publishing panicked"`)
	require.Contains(t, log.String(), "panic=boom")
	require.Contains(t, log.String(), "watch_test.go")
}

// A queue that was deleted is waited for, which nobody but the log tells as it
// happens. What was not attempted says nothing of its destination.
func TestWatchTellsWhatIsGone(t *testing.T) {
	var log bytes.Buffer
	broker := &answering{}
	watched := publish.Watch(publish.NewRouter(broker), slog.New(slog.NewTextHandler(&log, nil)))
	for _, c := range []struct {
		err   error
		lines int
	}{
		{nil, 0},
		{outflow.Retryable(fmt.Errorf("queueing: %w", outflow.ErrNotAttempted)), 0},
		{outflow.Permanent(fmt.Errorf("looking up: %w", outflow.ErrNoDestination)), 1},
		{outflow.Permanent(fmt.Errorf("looking up: %w", outflow.ErrNoDestination)), 1},
		{nil, 2},
	} {
		broker.err = c.err
		_, _ = watched.Publish(t.Context(), outflow.Message{Destination: "sqs://orders"})
		require.Equal(t, c.lines, strings.Count(log.String(), "\n"), log.String())
	}
}

package activities

import (
	"bytes"
	"context"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
)

// lines is a log that a test reads while it is written.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// logged is a log without times.
func logged() (*lines, *slog.Logger) {
	read := &lines{}
	return read, slog.New(slog.NewTextHandler(read,
		&slog.HandlerOptions{ReplaceAttr: func(_ []string, a slog.Attr) slog.Attr {
			if a.Key == slog.TimeKey {
				return slog.Attr{}
			}
			return a
		}}))
}

// The log says which message was given up, and why.
func TestMarksLogWhatWasGivenUp(t *testing.T) {
	for state, want := range map[outflow.State]string{
		outflow.Dead: `level=WARN msg="a message ended dead" message=ID generation=1` +
			` destination=https://shop.example/in type=order-placed reason=why` + "\n",
		outflow.Expired: `level=INFO msg="a message expired" message=ID generation=1` +
			` destination=https://shop.example/in type=order-placed reason=why` + "\n",
		outflow.Cancelled: "",
		outflow.Delivered: "",
	} {
		lines, to := logged()
		f, _, ref := newFake()
		f.record.Destination, f.record.Type = "https://shop.example/in?token=secret", "order-placed"
		a := New(f, f, LogTo(to))
		function := map[outflow.State]func(context.Context, MarkInput) (outflow.Outcome, error){
			outflow.Delivered: a.MarkDelivered, outflow.Dead: a.MarkDead,
			outflow.Expired: a.MarkExpired, outflow.Cancelled: a.MarkCancelled,
		}[state]
		_, err := mark(t, function, MarkInput{MessageID: ref.ID, Generation: 1, Reason: "why"})
		require.NoError(t, err)
		assert.Equal(t, want, strings.ReplaceAll(lines.String(), ref.ID.String(), "ID"), state)
	}
}

// A run does not log the end of another generation, or an end that it did not write.
func TestMarksLogTheirOwnEndAlone(t *testing.T) {
	lines, to := logged()
	f, _, ref := newFake()
	a := New(f, f, LogTo(to))
	f.outcome = outflow.Outcome{ID: ref.ID, Generation: 2, State: outflow.Dead}
	_, err := mark(t, a.MarkDead, MarkInput{MessageID: ref.ID, Generation: 1, Reason: "why"})
	require.NoError(t, err)
	f.outcome = outflow.Outcome{}
	f.endErr = fmt.Errorf("no database")
	_, err = mark(t, a.MarkDead, MarkInput{MessageID: ref.ID, Generation: 1, Reason: "why"})
	require.Error(t, err)
	assert.Empty(t, lines.String())
}

// A deleted queue ends many messages at once. The log names ten of them a second, and counts the
// others.
func TestManyEndsAreCounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		lines, to := logged()
		f, _, _ := newFake()
		a := New(f, f, LogTo(to))
		l := &a.ends
		end := func(n int, state outflow.State) {
			for range n {
				l.ended(a.logger(t.Context()), outflow.Outcome{ID: uuid.New(), State: state, Destination: "sqs://gone",
					LastError: "no such queue"})
			}
		}
		count := func(text string) int { return strings.Count(lines.String(), text) }
		end(441, outflow.Dead)
		end(1, outflow.Expired)
		assert.Equal(t, 10, count("a message ended dead"))
		assert.Equal(t, 1, count("a message expired"), "the dead use up no line of the expired")
		time.Sleep(endsWithin)
		synctest.Wait()
		assert.Equal(t, 1, count(`msg="more messages ended dead than the log names" more=431 within=1s`),
			lines.String())

		end(3, outflow.Dead)
		assert.Equal(t, 13, count("a message ended dead"))
		time.Sleep(time.Hour)
		synctest.Wait()
		assert.Equal(t, 1, count("more messages"), "all of these were named")

		for range 5 { // one every 400 ms never adds up to a burst
			end(1, outflow.Dead)
			time.Sleep(400 * time.Millisecond)
		}
		assert.Equal(t, 18, count("a message ended dead"))
	})
}

package metrics

import (
	"context"
	"errors"
	"log/slog"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow/outbox"
)

type fakeTable func(ctx context.Context) (outbox.Gauges, error)

func (f fakeTable) Gauges(ctx context.Context, _ int, _ string) (outbox.Gauges, error) { return f(ctx) }

// TestScrapeDuringAHangingDatabase: a scrape waits a moment, and many scrapes make one
// read.
func TestScrapeDuringAHangingDatabase(t *testing.T) {
	t.Parallel()
	var reads atomic.Int32
	hanging := make(chan struct{})
	defer close(hanging)
	r := &tableReader{ctx: t.Context(), log: slog.New(slog.DiscardHandler),
		table: fakeTable(func(context.Context) (outbox.Gauges, error) {
			reads.Add(1)
			<-hanging
			return outbox.Gauges{}, errors.New("too late")
		})}
	began := time.Now()
	answers := make(chan bool, 5)
	for range cap(answers) {
		go func() {
			_, ok := r.read(t.Context())
			answers <- ok
		}()
	}
	for range cap(answers) {
		assert.False(t, <-answers)
	}
	assert.Less(t, time.Since(began), scrapeWait+2*time.Second)
	assert.EqualValues(t, 1, reads.Load())
}

// TestReadsOfTheTable: one serves all scrapes of readEvery, and its figures stand in for a
// failed one, for a minute.
func TestReadsOfTheTable(t *testing.T) {
	t.Parallel()
	var reads atomic.Int32
	var fails atomic.Bool
	r := &tableReader{ctx: t.Context(), log: slog.New(slog.DiscardHandler),
		table: fakeTable(func(context.Context) (outbox.Gauges, error) {
			reads.Add(1)
			if fails.Load() {
				return outbox.Gauges{}, errors.New("connection refused")
			}
			return outbox.Gauges{CallbacksDue: 3}, nil
		})}
	for range 3 {
		found, ok := r.read(t.Context())
		require.True(t, ok)
		assert.EqualValues(t, 3, found.CallbacksDue)
	}
	assert.EqualValues(t, 1, reads.Load())

	fails.Store(true)
	r.began = r.began.Add(-readEvery) // as if that time were over
	_, ok := r.read(t.Context())
	assert.True(t, ok, "the figures are a moment old")
	assert.EqualValues(t, 2, reads.Load())
	r.readAt = r.readAt.Add(-staleAfter)
	_, ok = r.read(t.Context())
	assert.False(t, ok, "and too old after a minute")
	assert.EqualValues(t, 2, reads.Load(), "a database that fails is not asked more often")
}

// TestTargetsAreBounded: the first ones have a label each.
func TestTargetsAreBounded(t *testing.T) {
	t.Parallel()
	known := newTargets(2)
	for _, c := range []struct{ target, label string }{
		{"sqs://a", "sqs://a"}, {"sqs://b", "sqs://b"}, {"sqs://c", OtherTargets}, {"sqs://a", "sqs://a"}, {"sqs://d",
			OtherTargets},
	} {
		assert.Equal(t, c.label, known.label(c.target))
	}
}

// TestNilRecorder does nothing.
func TestNilRecorder(t *testing.T) {
	t.Parallel()
	var r *Recorder
	r.Claimed("poll", 1, 1, time.Second, nil)
	r.Taken(true)
	r.Freed()
	r.Started(ResultNew, time.Second)
	r.Published("sqs://orders", "fast", "acknowledged", 1, time.Second)
	r.Batch("sqs", 1, time.Second, nil)
	r.Callback(ResultSent)
	r.Purged("delivered", 1)
	r.PurgeEnded(false, nil)
}

package publishtest

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
)

// unavailable: a fault is unavailable, never permanent. Once it is over, the same message is
// published.
func unavailable(t *testing.T, h Harness, f Fault) {
	p, destination := h.Publisher(t), h.Destination(t)
	// With the connection and the address known, the fault meets the send.
	arrives(t, h, p, message(destination))
	h.Break(t, destination, f)
	m := message(destination)
	_, err := p.Publish(t.Context(), m)
	failsAs(t, outflow.ClassUnavailable, err)
	assert.ErrorContains(t, err, destination)
	assert.NotErrorIs(t, err, outflow.ErrNotAttempted)
	assert.NotErrorIs(t, err, outflow.ErrNoDestination)
	h.Restore(t, destination)
	if f == AnswerLost {
		got := h.Receive(t, destination, 1)
		require.Len(t, got, 1, "the broker has it, exactly once: no publisher sends it again unseen")
		assert.Equal(t, carried(m), got[0])
	}
	_, err = p.Publish(t.Context(), m)
	require.NoError(t, err)
	got := h.Receive(t, destination, 1)
	if f != AnswerLost || len(got) > 0 { // a broker may drop the duplicate
		require.Len(t, got, 1)
		assert.Equal(t, carried(m), got[0])
	}
}

func slowDestination(t *testing.T, h Harness) {
	p, slow, fast := h.Publisher(t), h.Destination(t), h.Destination(t)
	arrives(t, h, p, message(slow))
	arrives(t, h, p, message(fast))
	h.Break(t, slow, Slow)
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			_, err := p.Publish(t.Context(), message(slow))
			assert.NoError(t, err)
		})
	}
	start := time.Now()
	for range 5 {
		_, err := p.Publish(t.Context(), message(fast))
		assert.NoError(t, err)
	}
	assert.Less(t, time.Since(start), 5*SlowBy, "none of five sends after one another waited for a slow request")
	wg.Wait()
	h.Restore(t, slow)
}

func withoutTime(t *testing.T, h Harness) {
	p, destination := h.Publisher(t), h.Destination(t)
	done, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := p.Publish(done, message(destination))
	failsAs(t, outflow.ClassRetryable, err)
	assert.ErrorIs(t, err, outflow.ErrNotAttempted)
	assert.ErrorIs(t, err, context.Canceled)

	short, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	_, err = p.Publish(short, message(destination))
	failsAs(t, outflow.ClassRetryable, err)
	assert.ErrorIs(t, err, outflow.ErrNotAttempted)

	m := message(destination)
	assert.Equal(t, carried(m), arrives(t, h, p, m), "and nothing else arrived")
}

// cancelUnderWay: the broker has the request when its caller leaves. Only the broker's answer
// says what came of the message.
func cancelUnderWay(t *testing.T, h Harness) {
	p, destination := h.Publisher(t), h.Destination(t)
	arrives(t, h, p, message(destination))
	h.Break(t, destination, Slow)
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	m := message(destination)
	published := make(chan error, 1)
	go func() {
		_, err := p.Publish(ctx, m)
		published <- err
	}()
	time.Sleep(SlowBy / 2) // the broker has the request and has not answered
	leave()
	if err := <-published; err != nil { // a busy machine may not have sent it by then
		assert.ErrorIs(t, err, outflow.ErrNotAttempted, "the broker has the message, and its answer counts")
		t.Skip("the request was not under way in time")
	}
	h.Restore(t, destination)
	got := h.Receive(t, destination, 1)
	require.Len(t, got, 1)
	assert.Equal(t, m.ID, got[0].ID)
}

// closeUnderWay closes the publisher while a slow broker has its requests. Every message of a
// Publish without an error must be at the broker, and every Publish must return.
func closeUnderWay(t *testing.T, h Harness) {
	p, destination := h.Publisher(t), h.Destination(t)
	closer, ok := p.(interface{ Close() })
	require.True(t, ok, "a publisher that needs no closing skips this case")
	arrives(t, h, p, message(destination))
	h.Break(t, destination, Slow)
	const n = 20
	var acknowledged sync.Map
	var started atomic.Int64
	var wg sync.WaitGroup
	for range n {
		wg.Go(func() {
			m := message(destination)
			started.Add(1)
			if _, err := p.Publish(t.Context(), m); err == nil {
				acknowledged.Store(m.ID, true)
			} else {
				assert.False(t, outflow.IsPermanent(err), "%v", err)
			}
		})
	}
	require.Eventually(t, func() bool { return started.Load() == n }, 10*time.Second, time.Millisecond)
	time.Sleep(SlowBy / 2) // the broker has the requests and has answered none
	closer.Close()
	wg.Wait()
	h.Restore(t, destination)
	for _, m := range h.Receive(t, destination, n) {
		acknowledged.Delete(m.ID)
	}
	acknowledged.Range(func(id, _ any) bool {
		t.Errorf("message %s was acknowledged and is not at the broker", id.(uuid.UUID))
		return true
	})
}

package publishtest

import (
	"bytes"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
)

// testRefusals: what can never succeed is permanent, and hurts no neighbour.
func testRefusals(t *testing.T, h Harness) {
	p, destination := h.Publisher(t), h.Destination(t)
	large := func() outflow.Message {
		m := message(destination)
		m.Payload = append(m.Payload, bytes.Repeat([]byte("x"), h.MaxBytes())...)
		return m
	}
	t.Run("unparsable destination", func(t *testing.T) {
		_, err := p.Publish(t.Context(), message("no destination"))
		failsAs(t, outflow.ClassPermanent, err)
	})
	t.Run("another scheme", func(t *testing.T) {
		other := "sqs://orders"
		if p.Scheme() == outflow.SchemeSQS {
			other = "sns://orders"
		}
		_, err := p.Publish(t.Context(), message(other))
		failsAs(t, outflow.ClassPermanent, err)
		assert.ErrorContains(t, err, other)
	})
	t.Run("missing destination", func(t *testing.T) {
		missing := h.Missing(t)
		if missing == "" {
			t.Skip("this broker has no missing destinations")
		}
		_, err := p.Publish(t.Context(), message(missing))
		failsAs(t, outflow.ClassPermanent, err)
		assert.ErrorContains(t, err, missing)
		assert.ErrorIs(t, err, outflow.ErrNoDestination)
	})
	t.Run("too large", func(t *testing.T) {
		_, err := p.Publish(t.Context(), large())
		failsAs(t, outflow.ClassPermanent, err)
		assert.ErrorContains(t, err, destination)
	})
	t.Run("too large among nine others", func(t *testing.T) {
		var wg sync.WaitGroup
		wg.Go(func() {
			_, err := p.Publish(t.Context(), large())
			assert.True(t, outflow.IsPermanent(err), "%v", err)
		})
		for range 9 {
			wg.Go(func() {
				_, err := p.Publish(t.Context(), message(destination))
				assert.NoError(t, err)
			})
		}
		wg.Wait()
		assert.Len(t, h.Receive(t, destination, 9), 9)
	})
}

// testFaults: a fault has its class, is never permanent, and once it is over
// the same message is published.
func testFaults(t *testing.T, h Harness) {
	for f, class := range map[Fault]outflow.Class{
		Throttled:  outflow.ClassUnavailable,
		Denied:     outflow.ClassUnavailable,
		Broken:     outflow.ClassUnavailable,
		AnswerLost: outflow.ClassUnavailable,
	} {
		t.Run(string(f), func(t *testing.T) {
			p, destination := h.Publisher(t), h.Destination(t)
			// With the connection and the address known, the fault meets the send.
			arrives(t, h, p, message(destination))
			if !h.Inject(t, destination, f) {
				t.Skip("this broker knows no such fault")
			}
			m := message(destination)
			_, err := p.Publish(t.Context(), m)
			failsAs(t, class, err)
			assert.ErrorContains(t, err, destination)
			assert.NotErrorIs(t, err, outflow.ErrNotAttempted)
			assert.NotErrorIs(t, err, outflow.ErrNoDestination)
			h.Heal(t, destination)
			if f == AnswerLost {
				got := h.Receive(t, destination, 1)
				require.Len(t, got, 1, "the broker has it, exactly once: a lost answer is not sent again unseen")
				assert.Equal(t, carried(m), got[0])
			}
			_, err = p.Publish(t.Context(), m)
			require.NoError(t, err)
			got := h.Receive(t, destination, 1)
			if f != AnswerLost || len(got) > 0 { // a broker may drop the duplicate
				require.Len(t, got, 1)
				assert.Equal(t, carried(m), got[0])
			}
		})
	}
}

// testIsolation: a slow destination delays no other.
func testIsolation(t *testing.T, h Harness) {
	p, slow, fast := h.Publisher(t), h.Destination(t), h.Destination(t)
	arrives(t, h, p, message(slow))
	arrives(t, h, p, message(fast))
	if !h.Inject(t, slow, Slow) {
		t.Skip("this broker knows no such fault")
	}
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
	h.Heal(t, slow)
}

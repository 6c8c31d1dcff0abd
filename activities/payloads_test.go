package activities

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/timing"
	"github.com/outflowhq/outflow/outbox"
)

// However many attempts have large payloads, those in hand are bounded; the others wait for
// room, and what waits in vain was not attempted.
func TestLargePayloadsInHandAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := New(slowPayload{timeLeft: func(left time.Duration) {
			assert.Equal(t, timing.PayloadLoad, left, "the wait for room costs none of the load's time")
		}}, nil)
		var sending, most, sent, late atomic.Int64
		var attempts sync.WaitGroup
		for i := range 12 {
			record := outbox.Record{Message: outflow.Message{Destination: fmt.Sprintf("https://h%d.example/", i)},
				MissingBytes: 16 << 20}
			attempts.Go(func() {
				loadErr, err := a.withPayload(t.Context(), record, func(r outbox.Record) error {
					assert.Equal(t, "large", string(r.Payload))
					most.Store(max(most.Load(), sending.Add(1)))
					time.Sleep(3 * time.Second)
					sending.Add(-1)
					sent.Add(1)
					return errors.New("refused")
				})
				if loadErr != nil {
					late.Add(1)
				} else {
					assert.EqualError(t, err, "refused")
				}
			})
		}
		attempts.Wait()
		assert.EqualValues(t, maxPayloadBytes/(16<<20), most.Load())
		assert.EqualValues(t, 8, sent.Load(), "two rounds of four within timing.PayloadRoom")
		assert.EqualValues(t, 4, late.Load())
	})
}

// However much a slow host has in hand and waiting, on however many paths, others' payloads
// find room.
func TestASlowTargetLeavesRoomForOthersPayloads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := New(slowPayload{}, nil)
		var attempts sync.WaitGroup
		send := func(destination string, bytes int, took time.Duration) {
			attempts.Go(func() {
				record := outbox.Record{Message: outflow.Message{Destination: destination}, MissingBytes: bytes}
				loadErr, _ := a.withPayload(t.Context(), record,
					func(outbox.Record) error { time.Sleep(took); return nil })
				if took == 0 {
					assert.NoError(t, loadErr, destination)
				}
			})
		}
		for i := range 100 {
			send(fmt.Sprintf("https://slow.example/%d", i), 1<<20, time.Hour)
			send("https://slow-too.example/", 16<<20, time.Hour)
		}
		synctest.Wait()
		for i := range 10 {
			send(fmt.Sprintf("sqs://healthy-%d", i), 9000, 0)
		}
		send("sqs://healthy", 1<<20, 0)
		attempts.Wait()
		assert.Zero(t, a.payloads.held)
		assert.Empty(t, a.payloads.of)
	})
}

// slowPayload takes a while to load a payload.
type slowPayload struct {
	Store
	takes    time.Duration
	timeLeft func(time.Duration)
}

func (s slowPayload) LoadPayload(ctx context.Context, _ outbox.Record) ([]byte, error) {
	if s.timeLeft != nil {
		s.timeLeft(timeLeft(ctx))
	}
	time.Sleep(s.takes)
	return []byte("large"), nil
}

// A payload that took the attempt's time is not sent: the broker's answer would be cut off.
func TestAPayloadThatTookTheTimeIsNotSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), timing.LocalPublish)
		defer cancel()
		a := New(slowPayload{takes: timing.LocalPublish - timing.FastPathCall + time.Millisecond}, nil)
		loadErr, err := a.withPayload(ctx, outbox.Record{MissingBytes: 1 << 20}, func(outbox.Record) error {
			t.Error("sent")
			return nil
		})
		assert.ErrorIs(t, loadErr, outflow.ErrNotAttempted)
		assert.NoError(t, err)
	})
}

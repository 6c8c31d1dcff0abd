package activities

import (
	"errors"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/outflowhq/outflow"
)

// However many attempts have large payloads, those in hand are bounded; the others wait for
// room, and what waits in vain was not attempted.
func TestLargePayloadsInHandAreBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := New(&fake{}, nil)
		record := outflow.Record{Owed: 16 << 20}
		var sending, most, sent, late atomic.Int64
		var attempts sync.WaitGroup
		for range 12 {
			attempts.Go(func() {
				loadErr, err := a.withPayload(t.Context(), record, func(r outflow.Record) error {
					assert.Equal(t, "large", string(r.Payload))
					most.Store(max(most.Load(), sending.Add(1)))
					time.Sleep(15 * time.Second)
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
		assert.EqualValues(t, payloadBytes/(16<<20), most.Load())
		assert.EqualValues(t, 8, sent.Load(), "two rounds of four within the time for a payload")
		assert.EqualValues(t, 4, late.Load())
	})
}

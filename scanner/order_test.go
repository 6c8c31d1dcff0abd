package scanner_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow/scanner"
)

// A deferred release is tried again every 50 ms, from the claim on that has seen it.
func TestDeferredReleases(t *testing.T) {
	inWorld(t, scanner.Options{PollInterval: time.Second}, func(*world) {}, func(w *world) {
		pass(3 * time.Second)
		w.table.set(func(t *table) { t.deferredLooks, t.deferred = nil, 20 })
		pass(4 * time.Second)
		w.stop()
		require.GreaterOrEqual(t, len(w.table.deferredLooks), 20)
		first := w.table.deferredLooks[:20]
		assert.InDelta(t, 19*50, first[19].Sub(first[0]).Milliseconds(), 60)
		assert.LessOrEqual(t, len(w.table.deferredLooks), 21, "and then once in five seconds")
	})
}

// What this process has released is claimed at once.
func TestReleaseWakes(t *testing.T) {
	inWorld(t, scanner.Options{PollInterval: time.Minute}, func(*world) {}, func(w *world) {
		pass(2 * time.Minute)
		w.table.enqueue("sqs://orders", 1)
		w.table.onRelease()
		pass(time.Second)
		w.stop()
		assert.Equal(t, 1, w.table.claimed)
	})
}

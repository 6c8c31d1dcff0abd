package scanner_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow/scanner"
)

// The payloads and headers of what is in flight are bounded, whatever the number of slots.
func TestBytesInFlightAreBounded(t *testing.T) {
	inWorld(t, scanner.Options{BytesInFlight: 1000}, func(w *world) {
		w.engine.fastPath = 2 * time.Second
		w.table.payload = make([]byte, 300)
		for i := range 50 {
			w.table.enqueue(fmt.Sprintf("sqs://orders-%d", i), 1)
		}
		w.table.batch = 1 // as a claim whose bytes are bounded
	}, func(w *world) {
		pass(1500 * time.Millisecond)
		assert.Equal(t, 4, w.engine.count(), "three, and the one that crosses the bound")
		for _, c := range w.table.seen().claims {
			assert.LessOrEqual(t, c.request.MaxBytes, 1000)
		}
		pass(time.Second)
		assert.Greater(t, w.engine.count(), 4, "what has ended makes room")
	})
}

// Large payloads for a slow host leave room for others' messages.
func TestASlowTargetsBytesLeaveRoomForOthers(t *testing.T) {
	inWorld(t, scanner.Options{BytesInFlight: 1000, PerDestination: 50}, func(w *world) {
		w.engine.fastPath = 12 * time.Second
		w.table.payload = make([]byte, 100)
		w.table.enqueue("sqs://slow", 50)
		w.table.batch = 1
	}, func(w *world) {
		pass(5 * time.Second)
		require.Equal(t, 5, w.engine.count(), "half of the bytes")
		w.table.enqueue("sqs://healthy", 2)
		pass(5 * time.Second)
		assert.Equal(t, 7, w.engine.count())
	})
}

// New destinations have a quarter of the slots together, and no slot once that is in use.
func TestNewDestinationsAreClaimedWithinTheirShare(t *testing.T) {
	inWorld(t, scanner.Options{InFlight: 40}, func(w *world) {
		w.engine.fastPath = 10 * time.Second
		w.table.unknown, w.table.batch = "https://", 4
		for i := range 8 {
			w.table.enqueue(fmt.Sprintf("https://h%d.example/", i), 1)
		}
	}, func(w *world) {
		pass(5 * time.Second)
		w.table.enqueue("https://h8.example/", 4)
		pass(3 * time.Second)
		var left []int
		for _, c := range w.table.seen().claims {
			if left = append(left, c.request.NewDestinations); len(left) > 1 && left[len(left)-2] == left[len(left)-1] {
				left = left[:len(left)-1]
			}
		}
		assert.Equal(t, []int{10, 6, 2, -1}, left, "what is left of ten; -1 is none")
		pass(10 * time.Second)
		claims := w.table.seen().claims
		assert.Equal(t, 10, claims[len(claims)-1].request.NewDestinations, "what has ended makes room")
	})
}

// Destinations that can't be sent to from here are one line a minute, however many.
func TestRefusedDestinationsAreLoggedOnceAMinute(t *testing.T) {
	const line = "messages wait as rows: this process can't send to their destinations"
	inWorld(t, scanner.Options{}, func(w *world) {
		w.table.refused = map[string]error{"https://a.example/1": errors.New("not allowed"),
			"https://b.example/2": errors.New("no secret")}
	}, func(w *world) {
		pass(59 * time.Second)
		assert.Equal(t, 1, w.logs.count(line))
		pass(time.Minute)
		assert.Equal(t, 2, w.logs.count(line))
	})
}

package scanner_test

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"

	"github.com/outflowhq/outflow/internal/testmetrics"
	"github.com/outflowhq/outflow/scanner"
	"github.com/outflowhq/outflow/workflows"
)

const backlogged = "sqs://orders"

// A destination that gives a claim all that it may take is looked at. Where it is worth a stream, one is
// started, and starters leave the backlog to it.
func TestABacklogStartsAStream(t *testing.T) {
	inWorld(t, scanner.Options{Outbox: "shop", TaskQueue: "tasks", StreamAbove: 500}, func(w *world) {
		w.table.enqueue(backlogged, 3000)
		w.table.full = []string{backlogged, "https://shop.example/in", "temporal://tasks/Order"}
		w.table.streams = []string{backlogged}
	}, func(w *world) {
		pass(2500 * time.Millisecond)
		w.stop()
		require.NotEmpty(t, w.table.streamLooks)
		assert.Equal(t, streamLook{[]string{backlogged}, 500}, w.table.streamLooks[0], "no stream for the other two")
		require.NotEmpty(t, w.engine.streams)
		first := w.engine.streams[0]
		assert.Equal(t, workflows.StreamInput{Outbox: "shop", Database: theDatabase, Destination: backlogged}, first.input)
		assert.Equal(t, workflows.StreamID("shop", backlogged), first.options.ID)
		assert.Equal(t, "tasks-streams", first.options.TaskQueue)
		assert.Equal(t, enums.WORKFLOW_ID_CONFLICT_POLICY_FAIL, first.options.WorkflowIDConflictPolicy)
		assert.Equal(t, backlogged, w.table.streamed[0])
	})
}

// Looks for streams take one part in twenty of the time, and begin ten times a second at most.
func TestLooksForStreamsAreRare(t *testing.T) {
	for takes, most := range map[time.Duration]int{0: 101, 20 * time.Millisecond: 26, 200 * time.Millisecond: 3} {
		inWorld(t, scanner.Options{StreamAbove: 500}, func(w *world) {
			w.table.enqueue(backlogged, 100_000)
			w.table.full, w.table.streamLookTakes = []string{backlogged}, takes
		}, func(w *world) {
			pass(10 * time.Second)
			w.stop()
			assert.InDelta(t, most, len(w.table.streamLooks), float64(most)/4, "looks of %s", takes)
			assert.LessOrEqual(t, len(w.table.streamLooks), most, "looks of %s", takes)
		})
	}
}

// A stream that runs, or is paused, goes on as it is.
func TestAStreamThatRunsIsLeftAlone(t *testing.T) {
	inWorld(t, scanner.Options{}, func(w *world) {
		w.table.enqueue(backlogged, 100_000)
		w.table.full, w.table.streams = []string{backlogged}, []string{backlogged}
		w.engine.streamReply = serviceerror.NewWorkflowExecutionAlreadyStarted("running", "", "")
	}, func(w *world) {
		pass(30 * time.Second)
		w.stop()
		assert.Len(t, w.engine.streams, 1, "once a minute")
		assert.Empty(t, w.table.streamed)
		assert.Zero(t, w.logs.total())
	})
}

// A destination that has no streams, or has one, takes no other's look.
func TestOthersTakeNoLook(t *testing.T) {
	inWorld(t, scanner.Options{StreamAbove: 500}, func(w *world) {
		w.table.enqueue(backlogged, 100_000)
		w.table.full, w.table.streamLookTakes = []string{backlogged}, time.Second // the next look: 20 s later
	}, func(w *world) {
		pass(5 * time.Second)
		w.table.mu.Lock()
		w.table.full = []string{"https://shop.example/in"}
		w.table.mu.Unlock()
		pass(18 * time.Second)
		w.table.mu.Lock()
		w.table.full = []string{backlogged}
		w.table.mu.Unlock()
		pass(3 * time.Second)
		w.stop()
		assert.Len(t, w.table.streamLooks, 2)
	})
}

// A look that takes long holds up no start of a message for longer than a moment.
func TestASlowLookHoldsUpNoStarts(t *testing.T) {
	inWorld(t, scanner.Options{StreamAbove: 500}, func(w *world) {
		w.table.enqueue(backlogged, 1000)
		w.table.full, w.table.streamLookTakes = []string{backlogged}, 5*time.Second
	}, func(w *world) {
		pass(400 * time.Millisecond)
		assert.NotEmpty(t, w.engine.seen().starts)
		w.stop()
	})
}

func TestAStreamThatCantBeStarted(t *testing.T) {
	inWorld(t, scanner.Options{}, func(w *world) {
		w.table.enqueue(backlogged, 1000)
		w.table.full, w.table.streams = []string{backlogged}, []string{backlogged}
		w.engine.streamReply = errors.New("unavailable")
	}, func(w *world) {
		pass(time.Second)
		w.stop()
		assert.Empty(t, w.table.streamed)
		assert.Equal(t, 1, w.logs.count("starting a stream"), "once a second")
		assert.NotEmpty(t, w.engine.seen().starts, "its messages are delivered one by one")
	})
}

// Pages of streams that are gone are looked for, however idle the scanner is.
func TestLostPagesAreFreed(t *testing.T) {
	reader := metric.NewManualReader()
	opts := scanner.Options{MeterProvider: metric.NewMeterProvider(metric.WithReader(reader))}
	inWorld(t, opts, func(w *world) { w.table.lost = 700 }, func(w *world) {
		pass(5 * time.Minute)
		w.stop()
		assert.EqualValues(t, 700, testmetrics.Counted(t, reader, "outflow.lease.expiries", nil))
		assert.InDelta(t, 10, w.table.lostPageLooks, 1)
		assert.Empty(t, w.table.streamLooks)
	})
}

package scanner_test

import (
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"

	"github.com/outflowhq/outflow/internal/timing"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/scanner"
	"github.com/outflowhq/outflow/workflows"
)

func TestStartOptions(t *testing.T) {
	inWorld(t, scanner.Options{Outbox: "shop", TaskQueue: "queue"},
		func(w *world) { w.table.enqueue("sqs://orders", 1) }, func(w *world) {
			pass(time.Second)
			require.Len(t, w.engine.seen().starts, 1)
			s := w.engine.seen().starts[0]
			id := s.input.MessageID
			assert.Equal(t, workflows.DeliverInput{Outbox: "shop", Database: theDatabase, MessageID: id, Generation: 1},
				s.input)
			assert.Equal(t, workflows.WorkflowDeliver, s.name)
			o := s.options
			assert.Equal(t, "shop/"+id.String(), o.ID)
			assert.Equal(t, "queue", o.TaskQueue)
			assert.Equal(t, timing.WorkflowTask, o.WorkflowTaskTimeout)
			assert.Equal(t, enums.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE, o.WorkflowIDReusePolicy)
			assert.Equal(t, enums.WORKFLOW_ID_CONFLICT_POLICY_FAIL, o.WorkflowIDConflictPolicy)
			assert.True(t, o.WorkflowExecutionErrorWhenAlreadyStarted)
			assert.True(t, o.EnableEagerStart)
			assert.Zero(t, o.WorkflowRunTimeout+o.WorkflowExecutionTimeout, "a message is never given up by a clock")
			assert.Nil(t, o.RetryPolicy)
			assert.Equal(t, "`order-placed` to `sqs://orders`", o.StaticSummary)
			assert.Contains(t, o.StaticDetails, id.String())
			assert.Equal(t, workflows.StartAttributes("sqs://orders", "order-placed"), o.TypedSearchAttributes)
			assert.NotContains(t, fmt.Sprintf("%+v", s), "the payload")
		})
}

func TestDefaults(t *testing.T) {
	inWorld(t, scanner.Options{PollInterval: -1, InFlight: -1, PerDestination: -1, Lease: time.Second, ClaimBytes: -1},
		func(w *world) {
			w.table.enqueue("sqs://orders", 1)
		}, func(w *world) {
			pass(time.Second)
			require.NotEmpty(t, w.engine.seen().starts)
			assert.Equal(t, "outflow-outbox", w.engine.seen().starts[0].options.TaskQueue)
			assert.Contains(t, w.engine.seen().starts[0].options.ID, "outbox/")
			assert.InDelta(t, 4, len(w.table.seen().claims), 1, "every 250 ms")
			request := w.table.seen().claims[0].request
			assert.Equal(t, outbox.ClaimRequest{
				Lease: 30 * time.Second, MaxMessages: 200, MaxBytes: 16 << 20, Allowance: 100, Open: map[string]int{}, NewDestinations: 50, SlowStart: true,
				MissingGrace: 10 * time.Minute,
			}, request)
		})
	inWorld(t, scanner.Options{InFlight: 3, PerDestination: 9}, nil, func(w *world) {
		pass(time.Second)
		request := w.table.seen().claims[0].request
		assert.Equal(t, 3, request.MaxMessages)
		assert.Equal(t, 3, request.Allowance)
		assert.Equal(t, time.Minute, request.Lease)
	})
}

func TestBoundsHold(t *testing.T) {
	inWorld(t, scanner.Options{InFlight: 20, PerDestination: 8}, func(w *world) {
		w.table.enqueue("sqs://slow", 200)
		w.table.enqueue("sqs://orders", 200)
		w.table.enqueue("sqs://mails", 200)
		w.engine.fastPath = 50 * time.Millisecond
	}, func(w *world) {
		pass(30 * time.Second)
		assert.Equal(t, 600, w.engine.count())
		assert.Equal(t, 20, w.engine.seen().maxOpen, "the slots are used, and no more")
		for to, n := range w.engine.seen().maxTo {
			assert.Equal(t, 8, n, "%s", to)
		}
		for _, c := range w.table.seen().claims {
			sum := 0
			for _, n := range c.request.Open {
				sum += n
			}
			assert.LessOrEqual(t, sum+c.request.MaxMessages, 20)
		}
		claims := w.table.seen().claims
		assert.Empty(t, claims[len(claims)-1].request.Open, "destinations with nothing in flight are forgotten")
	})
}

// A destination whose publishes hang holds its own allowance, nobody else's.
func TestASlowDestinationHurtsOnlyItself(t *testing.T) {
	inWorld(t, scanner.Options{InFlight: 20, PerDestination: 10}, func(w *world) {
		w.engine.fastPath = 6 * time.Second
		w.table.enqueue("sqs://slow", 500)
	}, func(w *world) {
		pass(500 * time.Millisecond)
		w.engine.set(func(e *engine) { e.fastPath = 5 * time.Millisecond })
		before := w.engine.count()
		assert.Equal(t, 10, before)
		w.table.enqueue("sqs://orders", 300)
		pass(2 * time.Second)
		assert.Equal(t, 310, w.engine.count())
	})
}

func TestSlotsComeFreeWhenRunsSettle(t *testing.T) {
	inWorld(t, scanner.Options{PollInterval: time.Minute, InFlight: 2, PerDestination: 2}, func(w *world) {
		w.engine.fastPath = time.Second
		w.table.enqueue("sqs://orders", 4)
	}, func(w *world) {
		pass(900 * time.Millisecond)
		assert.Equal(t, 2, w.engine.count())
		pass(200 * time.Millisecond) // both have settled: no wait for the next poll
		assert.Equal(t, 4, w.engine.count())
	})
}

// A run whose end is never seen here gives its slot back after a workflow task.
func TestASlotIsNotHeldForever(t *testing.T) {
	inWorld(t, scanner.Options{InFlight: 1, PerDestination: 1}, func(w *world) {
		w.engine.fastPath = 40 * time.Second
		w.table.enqueue("sqs://orders", 2)
	}, func(w *world) {
		pass(9 * time.Second)
		assert.Equal(t, 1, w.engine.count())
		pass(2 * time.Second)
		assert.Equal(t, 2, w.engine.count())
	})
}

func TestRunsThatGoElsewhere(t *testing.T) {
	inWorld(t, scanner.Options{InFlight: 1, PerDestination: 1}, func(w *world) {
		w.engine.elsewhere = true
		w.table.enqueue("sqs://orders", 1)
	}, func(w *world) {
		pass(900 * time.Millisecond)
		assert.Empty(t, w.table.seen().forgotten, "an eager run has a second to take over")
		pass(300 * time.Millisecond)
		assert.Len(t, w.table.seen().forgotten, 1)

		// From now on it is not waited for as long, or one slot would make one
		// message a second; one in sixteen still shows whether that has changed.
		w.table.enqueue("sqs://orders", 60)
		w.scanner.Wake()
		pass(30 * time.Second)
		assert.Equal(t, 61, w.engine.count())
		assert.Len(t, w.table.seen().forgotten, 61)
		assert.Empty(t, w.table.seen().released, "it runs: nothing is given back")
		assert.Empty(t, w.table.seen().uncounted)
	})
}

// A process that was merely slow for a while finds its way back: its runs take
// over later than the short patience allows, but not than the long one.
func TestASlowProcessSeesItsRunsAgain(t *testing.T) {
	inWorld(t, scanner.Options{InFlight: 1, PerDestination: 1}, func(w *world) {
		w.engine.takeover = 1500 * time.Millisecond
		w.table.enqueue("sqs://orders", 1)
	}, func(w *world) {
		pass(3 * time.Second)
		require.Len(t, w.table.seen().forgotten, 1)
		w.engine.set(func(e *engine) { e.takeover = 100 * time.Millisecond })
		w.table.enqueue("sqs://orders", 500)
		pass(5 * time.Minute)
		assert.Equal(t, 501, w.engine.count())
		assert.Less(t, len(w.table.seen().forgotten), 250, "half of them at most before one of them showed it")
	})
}

func TestARunIsOpenAlready(t *testing.T) {
	inWorld(t, scanner.Options{}, func(w *world) {
		w.table.enqueue("sqs://orders", 3)
		w.engine.reply = func(start) error {
			return fmt.Errorf("starting: %w", serviceerror.NewWorkflowExecutionAlreadyStarted("running", "", ""))
		}
	}, func(w *world) {
		pass(2 * time.Second)
		assert.Len(t, w.table.seen().uncounted, 3)
		assert.Empty(t, w.table.seen().released)
		assert.Equal(t, 3, w.engine.count())
		assert.GreaterOrEqual(t, len(w.table.seen().claims), 7, "there is no backpressure")
		assert.Equal(t, 200, w.table.seen().claims[len(w.table.seen().claims)-1].request.MaxMessages)
		assert.Zero(t, w.logs.total())
	})
}

func TestSearchAttributesThatTheNamespaceLacks(t *testing.T) {
	refuse := func(s start) error {
		if s.options.TypedSearchAttributes.Size() > 0 {
			return serviceerror.NewInvalidArgument("Namespace default has no mapping defined for search attribute OutflowDestination")
		}
		return nil
	}
	inWorld(t, scanner.Options{InFlight: 1}, func(w *world) {
		w.table.enqueue("sqs://orders", 5)
		w.engine.reply = refuse
	}, func(w *world) {
		pass(2 * time.Second)
		assert.Equal(t, 6, w.engine.count(), "the first is repeated without; the others go without at once")
		assert.Equal(t, 1, w.logs.count("Temporal refused the search attributes; starting without them for a while"))
		assert.Empty(t, w.table.seen().released)

		w.engine.set(func(e *engine) { e.reply = nil })
		pass(time.Minute)
		w.table.enqueue("sqs://orders", 1)
		pass(time.Second)
		last := w.engine.seen().starts[len(w.engine.seen().starts)-1]
		assert.NotZero(t, last.options.TypedSearchAttributes.Size(), "it tries again after a while")
	})
}

// Another invalid argument is not the attributes' fault.
func TestAnotherInvalidArgument(t *testing.T) {
	inWorld(t, scanner.Options{}, func(w *world) {
		w.table.enqueue("sqs://orders", 1)
		w.engine.reply = func(start) error { return serviceerror.NewInvalidArgument("no") }
	}, func(w *world) {
		pass(time.Second)
		assert.NotEmpty(t, w.table.seen().released)
		assert.Zero(t, w.logs.count("Temporal refused the search attributes; starting without them for a while"))
		w.engine.set(func(e *engine) { e.reply = nil })
		pass(20 * time.Second)
		last := w.engine.seen().starts[len(w.engine.seen().starts)-1]
		assert.NotZero(t, last.options.TypedSearchAttributes.Size())
	})
}

func TestAFailedGiveBackIsLeftToItsLease(t *testing.T) {
	inWorld(t, scanner.Options{}, func(w *world) {
		w.table.enqueue("sqs://orders", 1)
		w.table.wrong = true
		w.engine.reply = func(start) error { return errors.New("unavailable") }
	}, func(w *world) {
		pass(time.Second)
		assert.Equal(t, 1, w.logs.count("giving a claim back; its lease will end by itself"))
		w.stop()
	})
}

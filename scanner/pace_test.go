package scanner_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"

	"github.com/outflowhq/outflow/scanner"
)

var errNo = errors.New("no answer")

func TestAnIdleScannerClaimsOncePerInterval(t *testing.T) {
	const poll = 250 * time.Millisecond
	inWorld(t, scanner.Options{PollInterval: poll}, nil, func(w *world) {
		pass(100 * poll)
		n := len(w.table.seen().claims)
		assert.LessOrEqual(t, n, 101)
		assert.GreaterOrEqual(t, n, 90)
		var gaps = map[time.Duration]bool{}
		for i := 1; i < n; i++ {
			gap := w.table.seen().claims[i].at.Sub(w.table.seen().claims[i-1].at)
			gaps[gap] = true
			assert.GreaterOrEqual(t, gap, poll)
			assert.LessOrEqual(t, gap, poll*11/10)
		}
		assert.Greater(t, len(gaps), 10, "scanners drift apart")
	})
}

// Under a steady load scanners that began together do not stay in step.
func TestClaimsThatFindMessagesAreSpread(t *testing.T) {
	const poll = 250 * time.Millisecond
	inWorld(t, scanner.Options{PollInterval: poll}, nil, func(w *world) {
		for range 400 {
			w.table.enqueue("sqs://orders", 1)
			pass(poll / 10)
		}
		var gaps []time.Duration
		claims := w.table.seen().claims
		for i := 1; i < len(claims); i++ {
			gaps = append(gaps, claims[i].at.Sub(claims[i-1].at))
		}
		slices.Sort(gaps)
		require.Greater(t, len(gaps), 20)
		middle := gaps[len(gaps)/10 : len(gaps)*9/10] // without the first, of an empty table
		assert.GreaterOrEqual(t, gaps[0], poll/2)
		assert.Greater(t, middle[len(middle)-1]-middle[0], poll/4)
		assert.Less(t, middle[len(middle)/2], poll*9/10)
	})
}

func TestWakeClaimsAtOnce(t *testing.T) {
	inWorld(t, scanner.Options{PollInterval: time.Minute}, nil, func(w *world) {
		pass(10 * time.Second)
		require.Len(t, w.table.seen().claims, 1)
		w.table.enqueue("sqs://orders", 1)
		for range 1000 {
			w.scanner.Wake() // never blocks
		}
		pass(30 * time.Millisecond)
		assert.Equal(t, 1, w.engine.count())
		pass(10 * time.Second)
		// One at the start, one at once; while the calls went on, the scanner may
		// have taken one more of them, and one more may have been left.
		assert.LessOrEqual(t, len(w.table.seen().claims), 4, "many calls make few claims")
	})
}

// A commit that a claim under way can't see any more is found by the next.
func TestWakeDuringAClaimIsNotLost(t *testing.T) {
	inWorld(t, scanner.Options{PollInterval: time.Minute}, func(w *world) { w.table.slow = time.Second },
		func(w *world) {
			pass(500 * time.Millisecond)
			w.scanner.Wake()
			pass(time.Second)
			assert.Len(t, w.table.seen().claims, 2)
		})
}

// A claim that does not look for new destinations has not answered the wake.
func TestWakeStaysUntilNewDestinationsAreSeen(t *testing.T) {
	inWorld(t, scanner.Options{PollInterval: time.Minute}, nil, func(w *world) {
		pass(10 * time.Second)
		w.table.set(func(t *table) { t.blind = time.Now().Add(2 * time.Second) })
		w.table.enqueue("sqs://new", 1)
		w.scanner.Wake()
		pass(time.Second)
		assert.Zero(t, w.engine.count())
		pass(1100 * time.Millisecond)
		assert.Equal(t, 1, w.engine.count())
		before := len(w.table.seen().claims)
		assert.LessOrEqual(t, before, 4, "it waits until a claim sees new destinations")
		pass(20 * time.Second) // the next poll comes 30 s after a claim that found messages, at the earliest
		assert.Len(t, w.table.seen().claims, before, "the wake is answered")
	})
}

// Claims that find messages of known destinations may follow each other without an end: the scanner
// looks for others all the same.
func TestClaimsOfKnownDestinationsDoNotHideOthers(t *testing.T) {
	inWorld(t, scanner.Options{PollInterval: time.Hour}, nil, func(w *world) {
		pass(10 * time.Second)
		full := func() (n int) {
			for _, c := range w.table.seen().claims {
				if !c.request.Hinted {
					n++
				}
			}
			return n
		}
		before := full()
		for range 100 { // ten seconds
			w.table.set(func(t *table) { t.more = time.Second })
			w.table.enqueue("sqs://orders", 1)
			w.scanner.Wake()
			pass(100 * time.Millisecond)
		}
		assert.GreaterOrEqual(t, full()-before, 20)
	})
}

// A slot that comes free, and destinations that a claim has not seen, are no reason to claim again
// where no message waits.
func TestAnIdleScannerDoesNotLookInVain(t *testing.T) {
	inWorld(t, scanner.Options{PollInterval: time.Minute}, func(w *world) { w.table.enqueue("sqs://orders", 1) },
		func(w *world) {
			pass(30 * time.Second)
			assert.Equal(t, 1, w.engine.count())
			assert.Len(t, w.table.seen().claims, 1)
		})
	inWorld(t, scanner.Options{PollInterval: time.Minute}, nil, func(w *world) {
		pass(10 * time.Second)
		w.scanner.Wake()
		pass(10 * time.Second)
		before := len(w.table.seen().claims)
		w.table.set(func(t *table) { t.blind = time.Now().Add(70 * time.Second) })
		pass(90 * time.Second)
		assert.Len(t, w.table.seen().claims, before+1, "the poll's; the wake was answered long ago")
	})
}

func TestWakesDoNotSpin(t *testing.T) {
	inWorld(t, scanner.Options{PollInterval: time.Minute}, nil, func(w *world) {
		for range 1000 {
			w.scanner.Wake()
			pass(time.Millisecond)
		}
		assert.LessOrEqual(t, len(w.table.seen().claims), 52, "20 ms lie between two claims")
	})
}

func TestABacklogIsClaimedAtOnce(t *testing.T) {
	inWorld(t, scanner.Options{PollInterval: time.Minute, InFlight: 10, PerDestination: 10}, func(w *world) {
		w.table.enqueue("sqs://orders", 500)
	}, func(w *world) {
		pass(3 * time.Second)
		assert.Equal(t, 500, w.engine.count())
		assert.Less(t, len(w.table.seen().claims), 160, "one claim fills many slots")
	})
}

// The backlog of one destination makes its own claims fuller, and nobody else wait.
func TestABacklogDoesNotSlowOthersClaims(t *testing.T) {
	inWorld(t, scanner.Options{PollInterval: time.Minute, InFlight: 80, PerDestination: 40}, func(w *world) {
		w.engine.fastPath = 200 * time.Millisecond
		w.table.enqueue("sqs://slow", 2000)
	}, func(w *world) {
		pass(time.Second)
		longest := time.Duration(0)
		for range 40 {
			began, before := time.Now(), w.startsOf("sqs://quick")
			w.table.enqueue("sqs://quick", 1)
			for w.startsOf("sqs://quick") == before {
				pass(time.Millisecond)
			}
			longest = max(longest, time.Since(began))
		}
		assert.Less(t, longest, 60*time.Millisecond)
	})
}

// A bound in bytes leaves slots free: the next claim does not wait for one.
func TestABacklogOfLargeMessages(t *testing.T) {
	inWorld(t, scanner.Options{PollInterval: time.Minute}, func(w *world) {
		w.table.batch = 5
		w.engine.fastPath = 5 * time.Second
		w.table.enqueue("sqs://orders", 50)
	}, func(w *world) {
		pass(time.Second)
		assert.Equal(t, 50, w.engine.count())
	})
}

// The only backlogged destination is at its allowance: there is nothing to
// claim until one of its messages settles.
func TestABacklogAtItsAllowanceDoesNotSpin(t *testing.T) {
	inWorld(t, scanner.Options{PollInterval: 250 * time.Millisecond, InFlight: 100, PerDestination: 5}, func(w *world) {
		w.engine.fastPath = 8 * time.Second
		w.table.enqueue("sqs://orders", 50)
	}, func(w *world) {
		pass(time.Second)
		began := time.Now()
		pass(6 * time.Second)
		assert.Equal(t, 5, w.engine.count())
		assert.LessOrEqual(t, w.table.claimsSince(began), 25)
		pass(1200 * time.Millisecond)
		assert.Equal(t, 10, w.engine.count(), "the slots that came free are used at once")
	})
}

// With every slot taken, the table is not asked at all.
func TestNoSlotNoClaim(t *testing.T) {
	inWorld(t, scanner.Options{PollInterval: 250 * time.Millisecond, InFlight: 5, PerDestination: 5}, func(w *world) {
		w.engine.fastPath = 8 * time.Second
		w.table.enqueue("sqs://orders", 50)
	}, func(w *world) {
		pass(time.Second)
		began := time.Now()
		pass(6 * time.Second)
		assert.Zero(t, w.table.claimsSince(began))
	})
}

func TestFailedStartsRaiseBackpressure(t *testing.T) {
	exhausted := serviceerror.NewResourceExhausted(enums.RESOURCE_EXHAUSTED_CAUSE_RPS_LIMIT, "rps limit exceeded")
	inWorld(t, scanner.Options{InFlight: 50, PerDestination: 50}, func(w *world) {
		w.table.enqueue("sqs://orders", 200)
		w.engine.reply = func(start) error { return exhausted }
	}, func(w *world) {
		pass(100 * time.Millisecond)
		assert.Equal(t, 50, w.engine.count(), "those that were under way")
		pass(2 * time.Minute)
		starts := w.engine.seen().starts
		probes := starts[50:]
		assert.LessOrEqual(t, len(probes), 16, "the pause doubles up to 15 s")
		assert.GreaterOrEqual(t, len(probes), 10)
		var longest time.Duration
		for i := 1; i < len(probes); i++ {
			gap := probes[i].at.Sub(probes[i-1].at)
			assert.Greater(t, gap, longest*9/10, "no probe comes sooner than the one before it did")
			longest = max(longest, gap)
		}
		assert.InDelta(t, 15, longest.Seconds(), 1)
		assert.Len(t, w.table.seen().released, len(starts), "every failed start is given back")
		for _, c := range w.table.seen().claims[1:] {
			assert.Equal(t, 1, c.request.MaxMessages, "a probe is one message")
		}

		// The first success ends it, without waiting for the end of a pause.
		w.engine.set(func(e *engine) { e.reply = nil })
		from := w.engine.count()
		var first time.Time
		for w.engine.count() < from+200 && time.Since(starts[len(starts)-1].at) < time.Minute {
			pass(10 * time.Millisecond)
			if first.IsZero() && w.engine.count() > from {
				first = time.Now()
			}
		}
		assert.Equal(t, from+200, w.engine.count())
		assert.Less(t, time.Since(first), 2*time.Second)
	})
}

// One of the starts under way failed, then another succeeded: no need to wait.
func TestASuccessEndsThePause(t *testing.T) {
	inWorld(t, scanner.Options{PollInterval: time.Minute, InFlight: 2, PerDestination: 2}, func(w *world) {
		w.table.enqueue("sqs://slow", 1)
		w.table.enqueue("sqs://refused", 1)
		w.table.enqueue("sqs://orders", 1)
		w.engine.reply = func(s start) error {
			switch s.options.StaticSummary {
			case "`order-placed` to `sqs://slow`":
				time.Sleep(100 * time.Millisecond)
			case "`order-placed` to `sqs://refused`":
				return errNo
			}
			return nil
		}
	}, func(w *world) {
		pass(90 * time.Millisecond)
		assert.Equal(t, 2, w.engine.count())
		pass(60 * time.Millisecond)
		assert.Greater(t, w.engine.count(), 2, "the pause would have lasted until 250 ms")
	})
}

// Starts that hang are probed one by one: pauses that are shorter than a start's
// timeout must not pile them up.
func TestOneProbeAtATime(t *testing.T) {
	inWorld(t, scanner.Options{InFlight: 50, PerDestination: 50}, func(w *world) {
		w.table.enqueue("sqs://orders", 200)
		w.engine.latency = time.Hour
	}, func(w *world) {
		pass(11 * time.Second)
		w.engine.set(func(e *engine) { e.peak = 0 })
		pass(2 * time.Minute)
		assert.Equal(t, 1, w.engine.seen().peak)
		assert.Less(t, w.engine.count(), 50+14)
		w.engine.set(func(e *engine) { e.latency = 0 })
	})
}

func TestFailedClaimsRaiseBackpressure(t *testing.T) {
	inWorld(t, scanner.Options{}, func(w *world) { w.table.err = errNo }, func(w *world) {
		pass(2 * time.Minute)
		assert.LessOrEqual(t, len(w.table.seen().claims), 15)
		assert.GreaterOrEqual(t, len(w.table.seen().claims), 10)
		assert.Equal(t, len(w.table.seen().claims), w.logs.count("claiming messages"))

		// A claim that works ends it, though there is nothing to start.
		w.table.set(func(t *table) { t.err = nil })
		pass(20 * time.Second)
		began := time.Now()
		pass(10 * time.Second)
		assert.GreaterOrEqual(t, w.table.claimsSince(began), 35)
		w.table.enqueue("sqs://orders", 1)
		pass(300 * time.Millisecond)
		assert.Equal(t, 1, w.engine.count())

		// The next failure begins with a short pause again.
		w.table.set(func(t *table) { t.err = errNo })
		began = time.Now()
		pass(1500 * time.Millisecond)
		assert.GreaterOrEqual(t, w.table.claimsSince(began), 3)
	})
}

// An idle scanner still claims under Temporal's backpressure: the next message is the probe.
func TestBackpressureOfAnIdleScanner(t *testing.T) {
	inWorld(t, scanner.Options{}, func(w *world) {
		w.table.enqueue("sqs://orders", 1)
		w.engine.reply = func(start) error { return errNo }
	}, func(w *world) {
		pass(90 * time.Second)
		w.table.set(func(t *table) { t.due = nil }) // another scanner took it
		w.engine.set(func(e *engine) { e.reply = nil })
		pass(20 * time.Second)
		from := w.engine.count()
		w.table.enqueue("sqs://orders", 1)
		pass(300 * time.Millisecond)
		assert.Equal(t, from+1, w.engine.count())
	})
}

func TestShutdownWaitsForStartsAndFastPaths(t *testing.T) {
	inWorld(t, scanner.Options{}, func(w *world) {
		w.engine.latency, w.engine.fastPath = 2*time.Second, 5*time.Second
		w.table.enqueue("sqs://orders", 10)
	}, func(w *world) {
		pass(time.Second)
		claims := len(w.table.seen().claims)
		took := w.stop()
		assert.Greater(t, took, 5900*time.Millisecond, "a second of the start, then the fast path")
		assert.Less(t, took, 6100*time.Millisecond)
		assert.Zero(t, w.engine.seen().open)
		assert.Empty(t, w.table.seen().released)
		assert.Len(t, w.table.seen().claims, claims, "nothing is claimed any more")
	})
}

// Starts that Temporal does not answer are given up and given back.
func TestShutdownReleasesWhatIsNotStarted(t *testing.T) {
	inWorld(t, scanner.Options{}, func(w *world) {
		w.engine.latency = time.Hour
		w.table.enqueue("sqs://orders", 10)
	}, func(w *world) {
		pass(time.Second)
		took := w.stop()
		assert.LessOrEqual(t, took, 6*time.Second)
		assert.Len(t, w.table.seen().released, 10)
	})
}

// The worst case: a start that just makes it, whose run hangs.
func TestShutdownIsBounded(t *testing.T) {
	inWorld(t, scanner.Options{}, func(w *world) {
		w.engine.latency, w.engine.takeover, w.engine.fastPath = 5*time.Second, 900*time.Millisecond, 40*time.Second
		w.table.enqueue("sqs://orders", 10)
	}, func(w *world) {
		pass(100 * time.Millisecond)
		took := w.stop()
		assert.Greater(t, took, 15*time.Second)
		assert.Less(t, took, 20*time.Second)
	})
}

func TestShutdownOfAnIdleScannerIsQuick(t *testing.T) {
	inWorld(t, scanner.Options{PollInterval: time.Minute}, nil, func(w *world) {
		pass(time.Second)
		assert.Zero(t, w.stop())
	})
	inWorld(t, scanner.Options{}, func(w *world) { w.table.err = errNo }, func(w *world) {
		pass(time.Minute) // in the middle of a pause
		assert.Zero(t, w.stop())
	})
	inWorld(t, scanner.Options{}, func(w *world) { w.table.slow = time.Minute }, func(w *world) {
		pass(time.Second) // in the middle of a claim that hangs
		assert.Equal(t, 2*time.Second, w.stop())
		assert.Zero(t, w.logs.count("claiming messages"), "a claim that was called off is no failure")
	})
}

// A claim that is under way when the scanner is to stop ends first: what it took
// is delivered, and not left to its lease.
func TestShutdownDuringAClaim(t *testing.T) {
	inWorld(t, scanner.Options{}, func(w *world) {
		w.table.slow = time.Second
		w.table.enqueue("sqs://orders", 10)
	}, func(w *world) {
		pass(500 * time.Millisecond)
		w.stop()
		assert.Equal(t, 10, w.table.seen().claimed)
		assert.Equal(t, 10, w.engine.count())
		assert.Zero(t, w.engine.seen().open)
	})
}

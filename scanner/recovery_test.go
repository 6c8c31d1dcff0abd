package scanner_test

import (
	"bytes"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"go.temporal.io/api/serviceerror"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/timing"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/scanner"
	"github.com/outflowhq/outflow/workflows"
)

// newLeased are n messages in the order of their IDs.
func newLeased(n int) []outbox.Leased {
	var leased []outbox.Leased
	for i := range n {
		leased = append(leased, outbox.Leased{Ref: outbox.Ref{ID: uuid.New(), Generation: 1},
			LeasedUntil: time.Unix(int64(i), 0)})
	}
	slices.SortFunc(leased, func(a, b outbox.Leased) int { return bytes.Compare(a.ID[:], b.ID[:]) })
	return leased
}

func deliverIDs(leased []outbox.Leased) []string {
	var ids []string
	for _, r := range leased {
		ids = append(ids, workflows.DeliverID(outflow.DefaultOutbox, r.ID))
	}
	return ids
}

func TestProbesAreSignalled(t *testing.T) {
	refs := newLeased(3)
	lost := workflows.DeliverID(outflow.DefaultOutbox, refs[1].ID)
	inWorld(t, scanner.Options{}, func(w *world) {
		w.engine.signalled = func(id string) error {
			if id == lost {
				return serviceerror.NewNotFound("no such run")
			}
			return nil
		}
		w.table.breakerActive = true
		w.table.probes = []outbox.Probe{
			{Leased: refs[0], Destination: "sqs://a", Running: true},
			{Leased: refs[1], Destination: "sqs://b", Running: true},
			{Leased: refs[2], Destination: "sqs://c"},
		}
	}, func(w *world) {
		pass(10 * time.Second)
		w.stop()
		assert.Equal(t, deliverIDs(refs[:2]), w.engine.seen().signals, "a new message is claimed as any other")
		assert.Equal(t, []outbox.Leased{refs[1]}, w.table.freed, "a lost run's message is freed for another")
		assert.InDelta(t, 9, w.table.recoveries, 2, "once a second, however often the scanner looks")
	})
}

// A new message that was chosen is claimed at once, not at the next poll.
func TestAProbeWakesTheScanner(t *testing.T) {
	for name, probes := range map[string][]outbox.Probe{"one": {{Leased: newLeased(1)[0], Destination: "sqs://a"}},
		"none": nil} {
		inWorld(t, scanner.Options{PollInterval: time.Minute}, func(w *world) {
			w.table.breakerActive, w.table.probes = true, probes
		}, func(w *world) {
			pass(30 * time.Second)
			assert.Len(t, w.table.seen().claims, 1+len(probes), name)
		})
	}
}

func TestNoRecoveryWithoutAnOpenBreaker(t *testing.T) {
	inWorld(t, scanner.Options{}, nil, func(w *world) {
		pass(time.Minute)
		w.stop()
		assert.Zero(t, w.table.recoveries)
	})
}

// Slow destinations hold every slot for as long as a fast path may take. Destinations that wait for
// a probe, and runs that wait for a signal, must not wait for that.
func TestRecoveryNeedsNoSlot(t *testing.T) {
	inWorld(t, scanner.Options{InFlight: 2, PerDestination: 2}, func(w *world) {
		w.table.breakerActive = true
		w.table.enqueue("sqs://slow", 100)
		w.engine.fastPath = 9 * time.Second
	}, func(w *world) {
		pass(time.Minute)
		w.stop()
		assert.Less(t, w.engine.count(), 20, "every slot is taken")
		assert.InDelta(t, 55, w.table.recoveries, 6)
	})
	// Without an active breaker there is nothing to do.
	inWorld(t, scanner.Options{InFlight: 2, PerDestination: 2}, func(w *world) {
		w.table.enqueue("sqs://slow", 100)
		w.engine.fastPath = 9 * time.Second
	}, func(w *world) {
		pass(time.Minute)
		w.stop()
		assert.Zero(t, w.table.recoveries)
	})
	// A Temporal that does not answer takes no signals either.
	inWorld(t, scanner.Options{InFlight: 2, PerDestination: 2}, func(w *world) {
		w.table.breakerActive = true
		w.table.enqueue("sqs://slow", 100)
		w.engine.latency = time.Hour
	}, func(w *world) {
		pass(11 * time.Second)
		before := 0
		w.table.set(func(t *table) { before = t.recoveries })
		pass(time.Minute)
		w.stop()
		assert.Less(t, w.table.recoveries-before, 10)
		w.engine.set(func(e *engine) { e.latency = 0 })
	})
}

func TestEveryRunOfARecoveredDestinationIsSignalled(t *testing.T) {
	inWorld(t, scanner.Options{}, func(w *world) {
		w.table.breakerActive, w.table.retrying = true, newLeased(450)
		w.table.recovered = []outbox.Recovered{{Destination: "sqs://a", At: time.Now()}}
	}, func(w *world) {
		pass(10 * time.Second)
		w.stop()
		signalled := w.engine.seen().signals
		slices.Sort(signalled)
		assert.Equal(t, deliverIDs(w.table.retrying), signalled)
		assert.Empty(t, w.table.recovered)
	})
}

// The first runs show whether the destination accepts more: it is not sent all at once.
func TestSignallingBeginsWithAFew(t *testing.T) {
	inWorld(t, scanner.Options{}, func(w *world) {
		w.table.breakerActive, w.table.retrying = true, newLeased(450)
		w.table.recovered = []outbox.Recovered{{Destination: "sqs://a", At: time.Now()}}
	}, func(w *world) {
		pass(200 * time.Millisecond)
		assert.Len(t, w.engine.seen().signals, 10)
		w.table.set(func(table *table) { table.retrying = nil }) // it failed again
		pass(10 * time.Second)
		w.stop()
		assert.Len(t, w.engine.seen().signals, 10)
	})
}

// Signalling that Temporal interrupts goes on later.
func TestSignallingIsRepeatedUntilItIsDone(t *testing.T) {
	inWorld(t, scanner.Options{}, func(w *world) {
		w.table.breakerActive, w.table.retrying = true, newLeased(300)
		w.table.recovered = []outbox.Recovered{{Destination: "sqs://a", At: time.Now()}}
		away := time.Now().Add(5 * time.Second)
		w.engine.signalled = func(string) error {
			if time.Now().Before(away) {
				return errors.New("unavailable")
			}
			return nil
		}
	}, func(w *world) {
		pass(4500 * time.Millisecond)
		tried := w.engine.seen().signals
		assert.LessOrEqual(t, len(tried), 50, "each try ends with the first few")
		pass(10 * time.Second)
		w.stop()
		after := w.engine.seen().signals[len(tried):]
		assert.Subset(t, after, deliverIDs(w.table.retrying), "those that were tried in vain, too")
		assert.Empty(t, w.table.recovered)
		assert.InDelta(t, 5, w.logs.count("probing destinations and signalling runs"), 1)
	})
}

// Runs that can't be signalled, whether Temporal refuses or never answers, hold up none of
// those behind them, nor do they keep the destination's cap on.
func TestSignallingPassesOverRunsThatCannotBeSignalled(t *testing.T) {
	refused := serviceerror.NewInvalidArgument("exceeded workflow execution limit for signal events")
	for name, c := range map[string]struct {
		runs int
		bad  []int
		err  error
	}{
		"the first":                 {450, []int{0}, errors.New("no answer")},
		"one in the middle":         {450, []int{123}, errors.New("no answer")},
		"some of the last page":     {36, []int{33, 34}, errors.New("no answer")},
		"the last page":             {31, []int{30}, errors.New("no answer")},
		"a page that is refused":    {450, []int{0, 1, 2, 3, 4, 5, 6, 7, 8, 9}, refused},
		"the only one, and refused": {1, []int{0}, refused},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, scanner.Options{}, func(w *world) {
				w.table.breakerActive, w.table.retrying = true, newLeased(c.runs)
				w.table.recovered = []outbox.Recovered{{Destination: "sqs://a", At: time.Now()}}
				ids := deliverIDs(w.table.retrying)
				w.engine.signalled = func(id string) error {
					if slices.Contains(c.bad, slices.Index(ids, id)) {
						return c.err
					}
					return nil
				}
			}, func(w *world) {
				pass(20 * time.Second)
				w.table.set(func(table *table) { assert.Empty(t, table.recovered) })
				signalled := map[string]int{}
				for _, id := range w.engine.seen().signals {
					signalled[id]++
				}
				assert.Len(t, signalled, c.runs)
				for i, id := range deliverIDs(w.table.retrying) {
					if c.err != refused && slices.Contains(c.bad, i) {
						assert.Greater(t, signalled[id], 5, "it is signalled once Temporal has time for it")
					} else {
						assert.Equal(t, 1, signalled[id])
					}
				}
				pass(3 * time.Minute)
				before := len(w.engine.seen().signals)
				pass(time.Minute)
				w.stop()
				assert.Len(t, w.engine.seen().signals, before, "no longer than it takes to retry by itself")
				assert.Equal(t, 1, w.logs.count("some runs of a recovered destination could not be signalled; they retry by themselves"))
			})
		})
	}
}

// A run that does not answer takes its own few seconds and no more.
func TestSignallingWaitsForNoAnswerLong(t *testing.T) {
	inWorld(t, scanner.Options{}, func(w *world) {
		w.table.breakerActive, w.table.retrying = true, newLeased(100)
		w.table.recovered = []outbox.Recovered{{Destination: "sqs://a", At: time.Now()}}
		w.engine.silent = deliverIDs(w.table.retrying)[0]
	}, func(w *world) {
		pass(12 * time.Second)
		w.stop()
		assert.Subset(t, w.engine.seen().signals, deliverIDs(w.table.retrying)[1:])
		assert.Empty(t, w.table.recovered)
	})
}

// A destination whose runs can't be signalled holds up no other one.
func TestSignallingGoesOnWithTheOthers(t *testing.T) {
	inWorld(t, scanner.Options{}, func(w *world) {
		w.table.breakerActive, w.table.retrying = true, newLeased(1)
		w.table.recovered = []outbox.Recovered{{Destination: "sqs://a"}, {Destination: "sqs://b"}}
		calls := 0
		w.engine.signalled = func(string) error {
			if calls++; calls%2 == 1 { // sqs://a's, as it comes first
				return errors.New("it accepts no more signals")
			}
			return nil
		}
	}, func(w *world) {
		pass(500 * time.Millisecond)
		w.stop()
		assert.Equal(t, []outbox.Recovered{{Destination: "sqs://a"}}, w.table.recovered)
		assert.Equal(t, 1, w.logs.count("a destination has recovered: its retrying runs were signalled"),
			"only sqs://b has")
	})
}

// A quarantined message has its process for itself, and the others go on after it.
func TestQuarantinedMessagesAreDeliveredInIsolation(t *testing.T) {
	inFlight := map[uuid.UUID]int{}
	var quarantined []uuid.UUID
	inWorld(t, scanner.Options{}, func(w *world) {
		w.table.enqueue("sqs://a", 500)
		w.table.enqueue("sqs://quarantined", 2)
		w.table.quarantined, w.table.due = w.table.due[500:], w.table.due[:500:500]
		quarantined = []uuid.UUID{w.table.quarantined[0].ID, w.table.quarantined[1].ID}
		w.engine.fastPath = 300 * time.Millisecond
		w.engine.reply = func(s start) error {
			if slices.Contains(quarantined, s.input.MessageID) {
				w.engine.set(func(e *engine) { inFlight[s.input.MessageID] = e.open + e.starting })
			}
			return nil
		}
	}, func(w *world) {
		pass(time.Minute)
		w.stop()
		assert.Equal(t, map[uuid.UUID]int{quarantined[0]: 1, quarantined[1]: 1}, inFlight,
			"nothing was in flight beside it")
		starts := w.engine.seen().starts
		assert.Len(t, starts, 502)
		at := func(id uuid.UUID) time.Time {
			return starts[slices.IndexFunc(starts, func(s start) bool { return s.input.MessageID == id })].at
		}
		assert.GreaterOrEqual(t, at(quarantined[1]).Sub(at(quarantined[0])), 5*time.Second,
			"meanwhile the others go on")
		assert.Equal(t, 2, w.logs.total(), "each is logged")
	})
}

// A scanner that is to stop while it waits for its fast paths claims no quarantined message.
func TestNoQuarantinedMessageAtShutdown(t *testing.T) {
	inWorld(t, scanner.Options{}, func(w *world) {
		w.table.enqueue("sqs://a", 2)
		w.table.quarantined, w.table.due = w.table.due[1:], w.table.due[:1:1]
		w.engine.fastPath = 5 * time.Second
	}, func(w *world) {
		pass(time.Second)
		w.stop()
		assert.Empty(t, w.table.isolated)
	})
}

// A shutdown has the same bounds while a quarantined message is delivered, or waits for the
// messages in flight.
func TestShutdownIsBoundedInIsolation(t *testing.T) {
	for name, prepare := range map[string]func(w *world){
		"its start has no answer": func(w *world) { w.table.quarantined, w.table.due = w.table.due[1:], nil },
		"it waits for a start": func(w *world) {
			w.table.quarantined, w.table.due = w.table.due[1:],
				w.table.due[:1:1]
		},
	} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, scanner.Options{}, func(w *world) {
				w.table.enqueue("sqs://a", 2)
				prepare(w)
				w.engine.latency = time.Hour
			}, func(w *world) {
				pass(time.Second)
				assert.Equal(t, timing.StopStarts, w.stop())
				assert.Len(t, w.table.seen().released, 1)
			})
		})
	}
}

func TestQuarantinedMessagesThatCantBeClaimed(t *testing.T) {
	inWorld(t, scanner.Options{}, func(w *world) {
		w.table.enqueue("sqs://a", 1)
		w.table.quarantined, w.table.due = w.table.due, nil
		w.table.isolatedErr = errNo
	}, func(w *world) {
		pass(30 * time.Second)
		w.stop()
		assert.InDelta(t, 6, w.logs.count("claiming a quarantined message"), 1,
			"it is logged, and tried again after a while")
		assert.Zero(t, w.engine.count())
	})
}

// Signalling twenty thousand runs takes longer than one round. The next round goes on where it
// stopped, and no run is signalled again and again.
func TestALongSignallingGoesOn(t *testing.T) {
	retrying := newLeased(20_000)
	inWorld(t, scanner.Options{}, func(w *world) {
		w.engine.signalled = func(string) error { time.Sleep(20 * time.Millisecond); return nil }
		w.table.breakerActive, w.table.retrying = true, retrying
		w.table.recovered = []outbox.Recovered{{Destination: "sqs://orders", At: time.Now()}}
	}, func(w *world) {
		pass(5 * time.Minute)
		w.stop()
		signalled := map[string]int{}
		for _, id := range w.engine.seen().signals {
			signalled[id]++
		}
		assert.Len(t, signalled, len(retrying))
		for id, n := range signalled {
			assert.LessOrEqual(t, n, 2, id)
		}
		assert.Empty(t, w.table.recovered)
	})
}

// A quarantined message waits for the messages that its process could take with it, and not for the
// starts of a hundred thousand callbacks: nothing else would be claimed meanwhile.
func TestAQuarantinedMessageWaitsForNoCallbacks(t *testing.T) {
	inWorld(t, scanner.Options{}, func(w *world) {
		w.engine.answered = func(string) error { time.Sleep(100 * time.Millisecond); return nil }
		w.table.callbacks = dueCallbacks(5000)
		w.table.enqueue("sqs://orders", 1)
		w.table.quarantined, w.table.due = w.table.due, nil
	}, func(w *world) {
		pass(4 * time.Second)
		assert.Less(t, len(w.engine.seen().callbacks), 1000, "callbacks are being started")
		w.table.set(func(table *table) { assert.Len(t, table.isolated, 1, "the quarantined message had its turn") })
		assert.Greater(t, len(w.table.seen().claims), 10)
		w.table.enqueue("sqs://orders", 1)
		pass(time.Second)
		assert.Equal(t, 2, w.engine.count())
	})
}

// There are more destinations than one claim finds: an idle scanner goes on.
func TestTheRestOfManyDestinationsIsFound(t *testing.T) {
	inWorld(t, scanner.Options{PollInterval: time.Minute}, func(w *world) { w.table.more = 100 * time.Millisecond },
		func(w *world) {
			pass(10 * time.Second)
			assert.InDelta(t, 100, len(w.table.seen().claims), 20)
		})
}

// One run that can't be signalled, for minutes, holds up neither probes nor the signals of others.
// No other run's signal is lost with it.
func TestUnsignalledRunsHoldUpNobody(t *testing.T) {
	retrying := newLeased(900)
	probe := newLeased(1)[0]
	var away time.Time
	var took sync.Map // the runs that were signalled, by ID
	inWorld(t, scanner.Options{}, func(w *world) {
		w.table.breakerActive, w.table.retrying = true, retrying
		w.table.recovered = []outbox.Recovered{{Destination: "sqs://a", At: time.Now()}}
		ids := deliverIDs(retrying)
		away = time.Now().Add(20 * time.Second)
		w.engine.signalled = func(id string) error {
			at := slices.Index(ids, id)
			if at == 0 || at%2 == 1 && time.Now().Before(away) {
				return errors.New("no answer")
			}
			took.Store(id, true)
			return nil
		}
	}, func(w *world) {
		pass(30 * time.Second)
		w.table.set(func(table *table) {
			assert.Empty(t, table.recovered)
			table.breakerActive, table.probes = true, []outbox.Probe{{Leased: probe, Destination: "sqs://b",
				Running: true}}
		})
		pass(3 * time.Second)
		_, probed := took.Load(deliverIDs([]outbox.Leased{probe})[0])
		assert.True(t, probed, "the probe is signalled beside it")
		signalled := 0
		took.Range(func(any, any) bool { signalled++; return true })
		assert.Equal(t, len(retrying), signalled, "all but the one, and the probe")
		before := len(w.engine.seen().signals)
		pass(10 * time.Second)
		w.stop()
		assert.LessOrEqual(t, len(w.engine.seen().signals)-before, 12,
			"only the one that can't be signalled is retried")
		assert.Equal(t, 0, w.logs.count("some runs of a recovered destination could not be signalled; they retry by themselves"))
	})
}

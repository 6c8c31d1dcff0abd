package activities

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/temporal"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/timing"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/publish"
)

// outage has each statement of the given kinds hang and fail until it is over.
func (s *stage) outage(lasts time.Duration, statements ...string) {
	over := time.Now().Add(lasts)
	s.table.mu.Lock()
	defer s.table.mu.Unlock()
	s.table.before = func(statement string) error {
		for _, kind := range statements {
			if kind == statement && time.Now().Before(over) {
				time.Sleep(min(time.Until(over), 14*time.Second))
				return errors.New("connection reset by peer")
			}
		}
		return nil
	}
}

var everyStatement = []string{"claim", "finish", "leave", "hand over", "end page", "note", "free"}

// watch notes each second how many acknowledgements a heartbeat of the moment would carry.
func (s *stage) watch(from time.Duration, seconds int) (noted func() []int) {
	var all []int
	for i := range seconds {
		s.after(from+time.Duration(i)*time.Second, func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			all = append(all, len(s.stream.note.Load().Unmarked))
		})
	}
	return func() []int {
		s.mu.Lock()
		defer s.mu.Unlock()
		return all
	}
}

// Postgres is away for minutes: what was acknowledged is held, in this process and in each heartbeat,
// until it is written. Nothing is sent twice, and nothing more is claimed.
func TestStreamHoldsAcknowledgements(t *testing.T) {
	onStage(t, func(s *stage) {
		s.watched = true
		s.table.due(9000)
		s.broker.takes = 100 * time.Millisecond
		s.after(500*time.Millisecond, func() { s.outage(8*time.Minute, everyStatement...) })
		noted := s.watch(40*time.Second, 430)
		result, err := s.execute()
		require.NoError(t, err)
		require.Equal(t, outbox.StreamDrained, result.Ended)
		s.requireAll(delivered, 9000)
		require.Zero(t, s.broker.twice())
		all := noted()
		require.Len(t, all, 430)
		require.Greater(t, all[0], 2*pageMessages)
		require.Equal(t, all[0], slices.Min(all), "also while a statement is under way")
		require.Empty(t, s.stream.note.Load().Unmarked)
	})
}

// A worker stops while Postgres is away, after statements have failed or while the first one hangs. The
// next attempt has its acknowledgements from the last heartbeat, and writes their ends first; until they
// are written its own heartbeats carry them.
func TestStreamIsTakenOverInAnOutage(t *testing.T) {
	for _, stopsAfter := range []time.Duration{time.Second, 5 * time.Second, 40 * time.Second} {
		t.Run(stopsAfter.String(), func(t *testing.T) {
			onStage(t, func(s *stage) {
				s.watched = true
				s.table.due(1000)
				s.broker.takes = 100 * time.Millisecond
				s.after(20*time.Millisecond, func() { s.outage(100*time.Second, everyStatement...) })
				s.after(stopsAfter, func() { close(s.stop) })
				began := time.Now()
				_, err := s.execute()
				require.Error(t, err, "a result would drop the heartbeat")
				require.False(t, temporal.IsCanceledError(err))
				require.Less(t, time.Since(began), stopsAfter+timing.StopCalls)
				acknowledged := s.stream.note.Load()
				require.NotEmpty(t, acknowledged.Unmarked)
				sent := len(s.broker.sent)
				require.Len(t, acknowledged.Unmarked, sent)

				s.stop = make(chan struct{})
				s.newAttempt()
				s.env.SetHeartbeatDetails(acknowledged)
				noted := s.watch(0, 40)
				s.after(time.Minute, func() { s.table.due(3) })
				result, err := s.execute()
				require.NoError(t, err)
				require.Equal(t, sent, slices.Min(noted()), "no heartbeat is without them")
				require.EqualValues(t, sent+3, result.Delivered)
				s.requireAll(delivered, sent+3)
				require.Zero(t, s.broker.twice())
			})
		})
	}
}

// A statement that takes long may be lost with its process: heartbeats tell of its acknowledgements before
// it has failed.
func TestStreamTellsOfSlowMarks(t *testing.T) {
	onStage(t, func(s *stage) {
		s.watched = true
		s.table.due(100)
		s.after(time.Millisecond, func() { s.outage(10*time.Second, "finish") })
		noted := s.watch(3*time.Second, 5)
		_, err := s.execute()
		require.NoError(t, err)
		require.Equal(t, 100, slices.Min(noted()))
		s.requireAll(delivered, 100)
	})
}

// An end that is not written, because another session has locked its row, is tried again alone.
func TestStreamWritesEndsAgain(t *testing.T) {
	onStage(t, func(s *stage) {
		s.table.due(100)
		s.table.lock(1200*time.Millisecond, 4)
		_, err := s.execute()
		require.NoError(t, err)
		s.requireAll(delivered, 100)
		require.Zero(t, s.broker.twice())
		s.requireAll(func(m *paged) bool { return m.ends == 1 }, 100)
	})
}

// lock has another session lock each nth row.
func (p *pages) lock(lasts time.Duration, n int) {
	for i, m := range p.messages {
		if i%n == 0 {
			m.lockedUntil = time.Now().Add(lasts)
		}
	}
}

// A row that another session keeps locked holds up nothing but its own end: neither the ends of others,
// nor the next pages. Heartbeats tell of its acknowledgement.
func TestStreamGoesOnBesideLockedRows(t *testing.T) {
	deliver := func(locked int) (took time.Duration) {
		onStage(t, func(s *stage) {
			s.watched = true
			s.table.due(40_000)
			if locked > 0 {
				s.table.lock(2*time.Minute, 40_000/locked)
			}
			s.after(20*time.Second, func() { s.table.due(5) })
			began := time.Now()
			s.after(10*time.Second, func() {
				s.requireAll(delivered, 40_000-locked)
				require.Len(t, s.stream.note.Load().Unmarked, locked)
			})
			s.after(21*time.Second, func() { s.requireAll(delivered, 40_005-locked) })
			_, err := s.execute()
			require.NoError(t, err)
			s.requireAll(delivered, 40_005)
			require.Zero(t, s.broker.twice())
			for _, m := range s.table.messages {
				if m.lockedUntil.IsZero() {
					took = max(took, m.ended.Sub(began))
				}
			}
		})
		return took
	}
	require.InDelta(t, deliver(0).Seconds(), deliver(20).Seconds(), 2)
}

// The same for a row of a page that a lost process has had: once it is sent, others may be.
func TestStreamGoesOnBesideALockedSuspect(t *testing.T) {
	onStage(t, func(s *stage) {
		s.table.due(150, func(_ int, m *paged) { m.Claims = 1 })
		s.table.lock(2*time.Minute, 150)
		s.table.due(3000)
		s.after(10*time.Second, func() { s.requireAll(delivered, 3149) })
		_, err := s.execute()
		require.NoError(t, err)
		s.requireAll(delivered, 3150)
		require.Zero(t, s.broker.twice())
	})
}

// A message is given back, or handed over, when its row is locked no more, with what was tried. No process
// was lost: its page is not left to be freed.
func TestStreamWaitsForLockedRowsThatItLeaves(t *testing.T) {
	t.Run("given back", func(t *testing.T) {
		onStage(t, func(s *stage) {
			s.table.due(2000)
			s.table.lock(12*time.Second, 100)
			s.broker.takes = time.Second
			s.after(500*time.Millisecond, func() { s.cancelWith(temporal.NewCanceledError()) })
			result, err := s.execute()
			require.NoError(t, err)
			require.Equal(t, outbox.StreamCancelled, result.Ended)
			s.requireAll(delivered, 10*streamRequests)
			s.requireAll(func(m *paged) bool { return waits(m) && m.left > 0 }, 2000-10*streamRequests)
		})
	})
	t.Run("not for ever", func(t *testing.T) {
		onStage(t, func(s *stage) {
			s.table.due(2000)
			s.table.lock(time.Hour, 1999) // the first row, which is sent, and the last
			s.table.messages[0].lockedUntil = time.Time{}
			s.broker.takes = time.Second
			s.after(500*time.Millisecond, func() { s.cancelWith(temporal.NewCanceledError()) })
			began := time.Now()
			_, err := s.execute()
			require.NoError(t, err)
			require.Less(t, time.Since(began), 20*time.Second)
			s.requireAll(inPage, 1)
		})
	})
	t.Run("handed over", func(t *testing.T) {
		onStage(t, func(s *stage) {
			s.table.due(60)
			s.table.lock(12*time.Second, 20)
			s.broker.answer = func(m outflow.Message, _ int) error {
				if !s.table.byID[m.ID].lockedUntil.IsZero() {
					return throttled
				}
				return nil
			}
			s.after(11*time.Second, func() { s.table.due(10_000) })
			_, err := s.execute()
			require.NoError(t, err)
			s.requireAll(delivered, 10_057)
			s.requireAll(func(m *paged) bool { return m.handed == maxStreamTries && m.lastError == "throttled" }, 3)
			require.Zero(t, s.table.count(inPage))
		})
	})
	t.Run("handed over after an outage", func(t *testing.T) {
		onStage(t, func(s *stage) {
			s.table.due(3)
			s.broker.answer = func(outflow.Message, int) error { return throttled }
			s.after(time.Second, func() { s.outage(time.Minute, "hand over") })
			_, err := s.execute()
			require.NoError(t, err)
			s.requireAll(func(m *paged) bool { return m.handed == maxStreamTries }, 3)
		})
	})
}

// A few messages that fail alone are handed over. They say nothing of the destination, which takes all
// others: neither at the end of a backlog, where they are sent without others, nor to its breaker.
func TestStreamHandsOverFewBadMessages(t *testing.T) {
	onStage(t, func(s *stage) {
		s.table.due(6000, func(i int, m *paged) {
			if i%60 == 0 {
				m.Type = "bad"
			}
		})
		s.broker.answer = func(m outflow.Message, _ int) error {
			if m.Type == "bad" {
				return throttled
			}
			return nil
		}
		result, err := s.execute()
		require.NoError(t, err)
		require.Equal(t, outbox.StreamDrained, result.Ended)
		s.requireAll(delivered, 5900)
		s.requireAll(func(m *paged) bool { return m.handed == maxStreamTries }, 100)
		require.NotContains(t, strings.Join(s.fake.observations, "\n"), "throttled")
	})
}

// A stream that can't write ends, or has locked rows of many pages, says nothing in the table: starters
// deliver without it.
func TestStuckStreamIsSilent(t *testing.T) {
	for name, prepare := range map[string]func(s *stage){
		"no end can be written":        func(s *stage) { s.outage(2*time.Minute, "finish") },
		"rows of each page are locked": func(s *stage) { s.table.lock(2*time.Minute, 2000) },
	} {
		t.Run(name, func(t *testing.T) {
			onStage(t, func(s *stage) {
				s.table.due(maxPages*pageMessages + 1)
				prepare(s)
				var before, after int
				s.after(70*time.Second, func() { before = len(s.table.notes) })
				s.after(100*time.Second, func() { after = len(s.table.notes) })
				_, err := s.execute()
				require.NoError(t, err)
				require.Equal(t, before, after, "silent")
				s.requireAll(delivered, maxPages*pageMessages+1)
				require.Greater(t, len(s.table.notes), after)
			})
		})
	}
}

// A broker that throttles three of ten entries gets half as many requests at once, and all of the
// messages in the end. Its breaker learns of no failure that would open it.
func TestStreamOfAThrottledDestination(t *testing.T) {
	onStage(t, func(s *stage) {
		s.table.due(20_000)
		s.broker.takes = 20 * time.Millisecond
		random := rand.New(rand.NewPCG(1, 2))
		s.broker.answer = func(outflow.Message, int) error {
			if random.IntN(10) < 3 {
				return throttled
			}
			return nil
		}
		var most int
		s.after(time.Second, func() { s.broker.set(func() { s.broker.most = 0 }) })
		s.after(2*time.Second, func() { s.broker.set(func() { most = s.broker.most }) })
		result, err := s.execute()
		require.NoError(t, err)
		require.Equal(t, outbox.StreamDrained, result.Ended)
		s.requireAll(func(m *paged) bool { return delivered(m) || m.handed == maxStreamTries }, 20_000)
		require.Less(t, result.HandedOver, int64(150), "three of a thousand fail five times")
		require.Equal(t, 20_000-result.HandedOver, result.Delivered)
		require.LessOrEqual(t, most, streamRequests/2)
		require.Positive(t, most)
		failures, inARow := 0, 0
		for _, o := range s.fake.observations {
			if inARow++; o == "sqs://orders acknowledged" {
				inARow = 0
			}
			failures = max(failures, inARow)
		}
		require.Less(t, failures, 5, "that many open the breaker")
	})
}

// One message that fails again and again leaves the stream for a run of its own, and holds up no other. A
// few failures in a row, of the last messages, say nothing of the destination.
func TestStreamHandsOver(t *testing.T) {
	onStage(t, func(s *stage) {
		s.table.due(100, func(i int, m *paged) {
			if i == 42 {
				m.Type = "hopeless"
			}
		})
		s.broker.answer = func(m outflow.Message, tries int) error {
			if m.Type == "hopeless" {
				return throttled
			}
			return nil
		}
		result, err := s.execute()
		require.NoError(t, err)
		require.Equal(t, outbox.StreamDrained, result.Ended)
		require.EqualValues(t, 1, result.HandedOver)
		s.requireAll(delivered, 99)
		s.requireAll(func(m *paged) bool { return m.handed == maxStreamTries && m.Type == "hopeless" }, 1)
		for _, o := range s.fake.observations {
			require.Equal(t, "sqs://orders acknowledged", o)
		}
	})
}

// A destination that is down ends the stream. Some of its messages are handed over, none is lost, and
// what was not sent is given back.
func TestStreamOfAFailingDestination(t *testing.T) {
	onStage(t, func(s *stage) {
		s.table.due(3000)
		s.broker.answer = func(outflow.Message, int) error { return throttled }
		result, err := s.execute()
		require.NoError(t, err)
		require.Equal(t, outbox.StreamFailing, result.Ended)
		require.Equal(t, outbox.StreamFailing, s.table.lastNote().Ended)
		require.Zero(t, result.Delivered)
		require.Zero(t, s.table.count(inPage))
		require.Positive(t, s.table.count(waits))
		require.Equal(t, 3000, s.table.count(waits)+s.table.count(func(m *paged) bool { return m.handed > 0 }))
		require.LessOrEqual(t, len(s.broker.requests), streamRequests+maxFailedRequests)
		require.Greater(t, len(s.fake.observations), 5, "that many open its breaker")
	})
	onStage(t, func(s *stage) { // 200 have runs already
		s.table.due(3000)
		s.table.crowded = true
		s.broker.answer = func(m outflow.Message, tries int) error {
			if m.ID[0]%8 == 0 {
				return throttled
			}
			return nil
		}
		result, err := s.execute()
		require.NoError(t, err)
		require.Equal(t, outbox.StreamFailing, result.Ended)
		require.Zero(t, s.table.count(inPage))
	})
}

// A queue that does not exist ends the stream, and no message: they wait as rows for as long as messages
// do. Those of the request that were acknowledged are delivered.
func TestStreamOfAMissingDestination(t *testing.T) {
	for _, taken := range []int{0, 7} {
		t.Run(fmt.Sprintf("%d are taken", taken), func(t *testing.T) {
			onStage(t, func(s *stage) {
				s.table.due(30)
				acknowledged := 0
				s.broker.answer = func(outflow.Message, int) error {
					if acknowledged < taken {
						acknowledged++
						return nil
					}
					return outflow.Permanent(fmt.Errorf("no such queue: %w", outflow.ErrNoDestination))
				}
				result, err := s.execute()
				require.NoError(t, err)
				require.Equal(t, outbox.StreamFailing, result.Ended)
				s.requireAll(delivered, taken)
				s.requireAll(waits, 30-taken)
			})
		})
	}
}

// What a publisher did not attempt costs no attempt. It is tried again a moment later, and given back
// when its time is over.
func TestStreamOfUnattemptedMessages(t *testing.T) {
	onStage(t, func(s *stage) {
		s.table.due(30)
		ready := time.Now().Add(2 * time.Second)
		s.broker.answer = func(outflow.Message, int) error {
			if time.Now().Before(ready) {
				return fmt.Errorf("connecting: %w", outflow.ErrNotAttempted)
			}
			return nil
		}
		_, err := s.execute()
		require.NoError(t, err)
		s.requireAll(func(m *paged) bool { return delivered(m) && m.end.Attempts == 1 }, 30)
		require.LessOrEqual(t, len(s.broker.requests), 3*25, "it does not spin")
	})
	onStage(t, func(s *stage) {
		s.table.due(30)
		s.broker.answer = func(outflow.Message, int) error { return outflow.ErrNotAttempted }
		s.after(21*time.Second, func() { close(s.stop) })
		_, err := s.execute()
		require.NoError(t, err)
		s.requireAll(func(m *paged) bool { return waits(m) && m.left > 0 }, 30)
	})
}

// A call that makes several requests, one after the other, begins none after the page's time to send.
// One that has begun is waited for.
func TestNoLateRequestWithinACall(t *testing.T) {
	onStage(t, func(s *stage) {
		s.table.due(10)
		began := time.Now()
		three := &threeRequests{}
		s.all.publisher = three
		s.after(19*time.Second, func() { s.table.mu.Lock(); s.table.late = time.Hour; s.table.mu.Unlock() })
		s.after(30*time.Second, func() { close(s.stop) })
		_, err := s.execute()
		require.NoError(t, err)
		require.Less(t, three.last.Sub(began), timing.StreamSends)
		require.EqualValues(t, 2, three.made.Load())
		require.False(t, three.hasDeadline, "its calls have all of their own time")
		s.requireAll(delivered, 6)
		s.requireAll(func(m *paged) bool { return waits(m) && m.left > 0 }, 4)
	})
}

// threeRequests takes 10 s for each of a call's three requests.
type threeRequests struct {
	made        atomic.Int64
	last        time.Time
	hasDeadline bool
}

func (r *threeRequests) PublishBatch(ctx context.Context, _ string, messages []outflow.Message) []publish.Result {
	results := make([]publish.Result, len(messages))
	if _, ok := ctx.Deadline(); ok {
		r.hasDeadline = true
	}
	for i := range messages {
		if i%3 != 0 {
			results[i] = results[i-1]
			continue
		}
		if ctx.Err() != nil {
			results[i].Err = outflow.ErrNotAttempted
			continue
		}
		r.made.Add(1)
		r.last = time.Now()
		time.Sleep(timing.StreamSends/2 + time.Second/2)
	}
	return results
}

// The payloads in hand are bounded, whatever their size, and the streams of a process share the bound
// and its requests.
func TestStreamsShareTheirBounds(t *testing.T) {
	const size = 256 << 10
	payload := make([]byte, size)
	for _, streams := range []int{1, 2, 3} {
		t.Run(fmt.Sprintf("%d streams", streams), func(t *testing.T) {
			onStage(t, func(s *stage) {
				s.table.due(2000, func(_ int, m *paged) { m.Payload = payload })
				s.broker.takes = 200 * time.Millisecond
				s.all.active.Add(int64(streams - 1)) // the others
				var most int
				s.broker.onSend = func([]outflow.Message) {
					sent := len(s.broker.sent)
					claimed := s.table.count(func(m *paged) bool { return len(m.holders) > 0 })
					most = max(most, (claimed-sent)*size)
				}
				_, err := s.execute()
				require.NoError(t, err)
				s.requireAll(delivered, 2000)
				require.LessOrEqual(t, most, streamBytes/streams+size)
				require.Greater(t, most, streamBytes/streams/2)
			})
			onStage(t, func(s *stage) {
				s.table.due(6000)
				s.broker.takes = 100 * time.Millisecond
				s.all.active.Add(int64(streams - 1))
				_, err := s.execute()
				require.NoError(t, err)
				require.Equal(t, streamRequests/streams, s.broker.most)
			})
		})
	}
}

// A claim that fails is made again. The stream goes on for as long as its database is away.
func TestStreamClaimsAgain(t *testing.T) {
	onStage(t, func(s *stage) {
		s.table.due(10)
		s.outage(2*time.Minute, "claim")
		result, err := s.execute()
		require.NoError(t, err)
		require.EqualValues(t, 10, result.Delivered)
		require.Equal(t, outbox.StreamDrained, result.Ended)
	})
}

// A stream whose claims fail asks for less each time, and leaves the destination to the starters: it notes
// nothing meanwhile. When they work again it goes on.
func TestStreamThatCannotClaim(t *testing.T) {
	onStage(t, func(s *stage) {
		s.table.due(5000)
		healed := time.Now().Add(time.Minute)
		var notes []time.Time
		s.table.before = func(statement string) error {
			switch {
			case statement == "note" && time.Now().Before(healed):
				notes = append(notes, time.Now())
			case statement == "claim" && time.Now().Before(healed):
				return errors.New("canceling statement due to statement timeout")
			}
			return nil
		}
		began := time.Now()
		_, err := s.execute()
		require.NoError(t, err)
		s.requireAll(delivered, 5000)
		require.NotEmpty(t, notes)
		require.Less(t, notes[len(notes)-1].Sub(began), 5*time.Second)
		sizes := []int{}
		for _, c := range s.table.claims {
			sizes = append(sizes, c.MaxMessages)
		}
		require.Equal(t, leastMessages, slices.Min(sizes))
	})
}

// Ends that a statement can't write in time are written by smaller ones.
func TestStreamMarksInSmallerStatements(t *testing.T) {
	onStage(t, func(s *stage) {
		s.table.due(3000)
		s.table.mostEnds = 300
		_, err := s.execute()
		require.NoError(t, err)
		s.requireAll(delivered, 3000)
		require.Zero(t, s.broker.twice())
	})
}

// Behind an open breaker nothing is due for a stream: starters ask for the destination's recovery.
func TestStreamBehindAnOpenBreaker(t *testing.T) {
	onStage(t, func(s *stage) {
		s.table.heldBack = true
		result, err := s.execute()
		require.NoError(t, err)
		require.Equal(t, outbox.StreamFailing, result.Ended)
	})
}

package activities

import (
	"errors"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/temporal"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/testmetrics"
	"github.com/outflowhq/outflow/internal/timing"
	"github.com/outflowhq/outflow/outbox"
)

// onStage runs a test on a clock of its own.
func onStage(t *testing.T, test func(s *stage), options ...Option) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { test(newStage(t, options...)) })
}

// A backlog is delivered, each message once, and the stream ends some time after the last one.
func TestStreamDrainsABacklog(t *testing.T) {
	onStage(t, func(s *stage) {
		s.table.due(5300)
		began := time.Now()
		s.after(5*time.Second, func() { s.table.due(7) })
		result, err := s.execute()
		require.NoError(t, err)
		require.Equal(t, outbox.StreamDrained, result.Ended)
		require.EqualValues(t, 5307, result.Delivered)
		s.requireAll(delivered, 5307)
		require.Zero(t, s.broker.twice())
		require.GreaterOrEqual(t, time.Since(began), streamIdle+5*time.Second)
		require.Equal(t, 4, s.table.ended, "each of its pages")
		require.Equal(t, outbox.StreamDrained, s.table.lastNote().Ended)
		for _, r := range s.broker.requests {
			require.LessOrEqual(t, len(r), requestMessages)
		}
	})
}

// A transaction that was open for long commits messages that were due before those that a busy stream
// has reached.
func TestStreamFindsLateCommits(t *testing.T) {
	onStage(t, func(s *stage) {
		long := time.Now()
		more := func() { s.table.due(1000) }
		for i := range 20 {
			s.after(time.Duration(i)*time.Second, more)
		}
		var committed, done time.Time
		s.after(7*time.Second, func() {
			committed = time.Now()
			s.table.due(1, func(_ int, m *paged) { m.DueAt = long.Add(-time.Hour); m.Type = "late" })
		})
		s.broker.onSend = func(messages []outflow.Message) {
			if slices.ContainsFunc(messages, func(m outflow.Message) bool { return m.Type == "late" }) {
				done = time.Now()
			}
		}
		_, err := s.execute()
		require.NoError(t, err)
		s.requireAll(delivered, 20_001)
		require.False(t, done.IsZero())
		require.Less(t, done.Sub(committed), fromStart+2*time.Second)
	})
}

// A transaction that took a moment commits a message that was due before those of the last page. The
// next page has it.
func TestStreamFindsWhatCommitsAMomentLater(t *testing.T) {
	onStage(t, func(s *stage) {
		more := func() { s.table.due(10) }
		for i := range 80 {
			s.after(time.Duration(i)*50*time.Millisecond, more)
		}
		var committed, done time.Time
		s.after(2*time.Second, func() {
			committed = time.Now()
			s.table.due(1, func(_ int, m *paged) { m.DueAt = committed.Add(-300 * time.Millisecond); m.Type = "late" })
		})
		s.broker.onSend = func(messages []outflow.Message) {
			if slices.ContainsFunc(messages, func(m outflow.Message) bool { return m.Type == "late" }) {
				done = time.Now()
			}
		}
		_, err := s.execute()
		require.NoError(t, err)
		s.requireAll(delivered, 801)
		require.False(t, done.IsZero())
		require.Less(t, done.Sub(committed), time.Second)
	})
}

// A process that was stopped for longer than a page's time to send begins no request of it: others may
// have the page by then. It gives back what it has not sent.
func TestStreamBeginsNoRequestTooLate(t *testing.T) {
	onStage(t, func(s *stage) {
		s.table.due(100)
		s.table.late = timing.StreamSends
		s.after(time.Second, func() { s.table.due(0); close(s.stop) })
		result, err := s.execute()
		require.NoError(t, err)
		require.Equal(t, outbox.StreamStopped, result.Ended)
		require.Empty(t, s.broker.requests)
		s.requireAll(waits, 100)
	})
}

// The same for what waits for its turn while others are sent.
func TestStreamGivesBackWhatWaitsForTooLong(t *testing.T) {
	onStage(t, func(s *stage) {
		s.table.due(2000) // 200 requests, of which streamRequests are under way
		s.broker.takes = 8 * time.Second
		late := time.Time{}
		began := time.Now()
		s.broker.onSend = func([]outflow.Message) { late = time.Now() }
		s.after(19*time.Second, func() { s.table.mu.Lock(); s.table.late = time.Hour; s.table.mu.Unlock() })
		s.after(30*time.Second, func() { close(s.stop) })
		_, err := s.execute()
		require.NoError(t, err)
		require.Less(t, late.Sub(began), timing.StreamSends)
		s.requireAll(delivered, 3*10*streamRequests)
		s.requireAll(waits, 2000-3*10*streamRequests)
		require.Zero(t, s.broker.twice())
	})
}

// A worker that stops waits for the requests under way, however long they take, and for their ends. It
// begins no other, and gives back the rest at once.
func TestStreamStopsWithItsWorker(t *testing.T) {
	onStage(t, func(s *stage) {
		s.table.due(2000)
		s.broker.takes = outflow.MaxCallTime
		began := time.Now()
		left := make(chan int, 1)
		s.after(time.Second, func() { close(s.stop) })
		s.after(2*time.Second, func() { left <- s.table.count(waits) })
		result, err := s.execute()
		require.NoError(t, err)
		require.Equal(t, outbox.StreamStopped, result.Ended)
		require.Equal(t, 2000-10*streamRequests, <-left, "they wait for no answer")
		s.requireAll(delivered, 10*streamRequests)
		require.Zero(t, s.broker.twice())
		require.Less(t, time.Since(began), outflow.MaxCallTime+time.Second, "and it does not stay longer")
	})
}

// An operator stops a stream whose turn is over already, and which waits for an answer: the run learns of
// it, and the table too.
func TestStreamIsCancelledAtTheEndOfItsTurn(t *testing.T) {
	for cause, ended := range map[error]outbox.StreamEnd{
		temporal.NewCanceledError(): outbox.StreamCancelled, activity.ErrActivityPaused: outbox.StreamPaused,
	} {
		onStage(t, func(s *stage) {
			s.turn = 5 * time.Second
			s.table.due(10)
			s.broker.takes = 10 * time.Second
			s.after(7*time.Second, func() { s.cancelWith(cause) })
			result, err := s.execute()
			require.Equal(t, ended == outbox.StreamPaused, err != nil)
			if err == nil {
				require.Equal(t, ended, result.Ended)
			}
			require.Equal(t, ended, s.table.lastNote().Ended)
			s.requireAll(delivered, 10)
		})
	}
}

// The SDK ends a stream's context for several reasons. A stream always writes the ends of what it has
// sent and gives back the rest.
func TestStreamIsEndedFromOutside(t *testing.T) {
	for _, c := range []struct {
		name  string
		cause error
		ended outbox.StreamEnd
	}{
		{"its run is cancelled", temporal.NewCanceledError(), outbox.StreamCancelled},
		{"somebody pauses the activity", activity.ErrActivityPaused, outbox.StreamPaused},
		{"somebody resets it", activity.ErrActivityReset, outbox.StreamStopped},
		{"its run was terminated, or reset", errors.New("workflow execution already completed"), outbox.StreamStopped},
	} {
		t.Run(c.name, func(t *testing.T) {
			onStage(t, func(s *stage) {
				s.table.due(2000)
				s.broker.takes = 3 * time.Second
				s.after(time.Second, func() { s.cancelWith(c.cause) })
				result, err := s.execute()
				if c.ended == outbox.StreamCancelled {
					require.NoError(t, err)
					require.Equal(t, c.ended, result.Ended)
				} else {
					require.Error(t, err)
				}
				var application *temporal.ApplicationError
				if errors.As(err, &application) {
					require.False(t, application.NonRetryable(), "it goes on when it is unpaused")
				}
				require.Equal(t, c.ended, s.table.lastNote().Ended)
				s.requireAll(delivered, 10*streamRequests)
				s.requireAll(waits, 2000-10*streamRequests)
				require.Zero(t, s.broker.twice())
			})
		})
	}
}

// An activity goes on for its turn, and not beyond: the run has the next one.
func TestStreamTakesTurns(t *testing.T) {
	onStage(t, func(s *stage) {
		s.turn = time.Minute // an activity has ten minutes, here and in the test environment
		for i := range 200 {
			s.after(time.Duration(i)*10*time.Second, func() { s.table.due(1) })
		}
		began := time.Now()
		result, err := s.execute()
		require.NoError(t, err)
		require.Equal(t, outbox.StreamTurn, result.Ended)
		require.InDelta(t, time.Minute.Seconds(), time.Since(began).Seconds(), 1)
		require.Equal(t, outbox.StreamTurn, s.table.lastNote().Ended)
		require.Zero(t, s.table.count(inPage))
	})
}

// Calls of a message may take so long that its tries do not fit in the time of a page. It is handed over
// all the same, and does not go round in a busy stream.
func TestStreamHandsOverWhatIsTriedForLong(t *testing.T) {
	onStage(t, func(s *stage) {
		s.turn = 3 * time.Minute
		for i := range 150 {
			s.after(time.Duration(i)*time.Second, func() {
				s.table.due(3, func(_ int, m *paged) {
					if i == 10 {
						m.Type = "no answer"
					}
				})
			})
		}
		s.broker.slow = func(messages []outflow.Message) time.Duration {
			if messages[0].Type == "no answer" {
				return 10 * time.Second
			}
			return 5 * time.Millisecond
		}
		s.broker.answer = func(m outflow.Message, _ int) error {
			if m.Type == "no answer" {
				return throttled
			}
			return nil
		}
		_, err := s.execute()
		require.NoError(t, err)
		s.requireAll(delivered, 447)
		s.requireAll(func(m *paged) bool { return m.handed == 2 && m.lastError == "throttled" && m.left == 0 }, 3)
	})
}

// A worker stops while messages wait for another try. The broker may have them: their rows have the
// attempts and the error. It takes one statement for a page to give them back, with those that were not
// sent.
func TestStreamGivesBackWhatItHasTried(t *testing.T) {
	onStage(t, func(s *stage) {
		s.table.due(4000)
		s.broker.takes = 50 * time.Millisecond
		s.broker.answer = func(m outflow.Message, _ int) error {
			if m.ID[0]%2 == 0 {
				return throttled
			}
			return nil
		}
		gives := 0
		s.table.before = func(statement string) error {
			if statement == "leave" {
				s.table.mu.Lock()
				defer s.table.mu.Unlock()
				gives++
			}
			return nil
		}
		s.after(230*time.Millisecond, func() { close(s.stop) })
		result, err := s.execute()
		require.NoError(t, err)
		require.Equal(t, outbox.StreamStopped, result.Ended)
		tried := func(m *paged) bool { return s.broker.sent[m.ID] > 0 && !delivered(m) }
		require.Positive(t, s.table.count(tried))
		s.requireAll(func(m *paged) bool {
			return waits(m) && m.attempts > 0 && m.attempts == s.broker.sent[m.ID] && m.lastError != ""
		}, s.table.count(tried))
		s.requireAll(func(m *paged) bool { return waits(m) && m.attempts == 0 && m.lastError == "" },
			s.table.count(func(m *paged) bool { return s.broker.sent[m.ID] == 0 }))
		require.LessOrEqual(t, gives, 2*streamRequests, "two pages, and the answers that came after")
	})
}

// The table has what the stream has done in all, and the result what this activity has.
func TestStreamNotesTheSumOfItsActivities(t *testing.T) {
	onStage(t, func(s *stage) {
		s.before = outbox.Progress{Delivered: 1000, Dead: 2, HandedOver: 3, PerSecond: 9}
		s.table.due(50)
		result, err := s.execute()
		require.NoError(t, err)
		require.EqualValues(t, 50, result.Delivered)
		last := s.table.lastNote()
		require.EqualValues(t, 1050, last.Delivered)
		require.EqualValues(t, 2, last.Dead)
		require.EqualValues(t, 3, last.HandedOver)
		require.Equal(t, result.PerSecond, last.PerSecond)
		for _, n := range s.table.notes {
			require.GreaterOrEqual(t, n.Delivered, int64(1000), "in each note")
		}
	})
}

// What expires in a page ends expired and is not sent.
func TestStreamSendsNothingExpired(t *testing.T) {
	onStage(t, func(s *stage) {
		s.table.due(30, func(i int, m *paged) {
			m.Expires, m.ExpiresIn = i < 20, 2*time.Second
			if i < 10 {
				m.ExpiresIn = 0
			}
		})
		s.table.late = time.Second
		s.broker.answer = func(m outflow.Message, tries int) error { return nil }
		_, err := s.execute()
		require.NoError(t, err)
		s.requireAll(delivered, 20)
		s.requireAll(func(m *paged) bool { return m.end.State == outflow.Expired && m.end.LastError == ReasonExpired }, 10)
		require.Len(t, s.broker.sent, 20)
	})
	onStage(t, func(s *stage) { // between two tries
		s.table.due(1, func(_ int, m *paged) { m.Expires, m.ExpiresIn = true, 250*time.Millisecond })
		s.broker.answer = func(outflow.Message, int) error { return throttled }
		_, err := s.execute()
		require.NoError(t, err)
		s.requireAll(func(m *paged) bool { return m.end.State == outflow.Expired }, 1)
	})
}

// A message whose cancel was requested before the claim ends cancelled and is not sent.
func TestStreamEndsCancelledMessages(t *testing.T) {
	onStage(t, func(s *stage) {
		s.table.due(25, func(i int, m *paged) { m.CancelRequested = i%5 == 0 })
		_, err := s.execute()
		require.NoError(t, err)
		s.requireAll(delivered, 20)
		s.requireAll(func(m *paged) bool {
			return m.end.State == outflow.Cancelled && m.end.LastError == ReasonCancelled && m.end.Attempts == 0
		}, 5)
		require.Len(t, s.broker.sent, 20)
	})
}

// What the broker refuses for good ends dead, beside others of its request.
func TestStreamEndsDeadMessages(t *testing.T) {
	onStage(t, func(s *stage) {
		s.table.due(100, func(i int, m *paged) { m.Payload = []byte{'0' + byte(i%10)} })
		s.broker.answer = func(m outflow.Message, _ int) error {
			if m.Payload[0] == '7' {
				return outflow.Permanent(errors.New("too large"))
			}
			return nil
		}
		result, err := s.execute()
		require.NoError(t, err)
		require.EqualValues(t, 10, result.Dead)
		s.requireAll(delivered, 90)
		s.requireAll(func(m *paged) bool { return m.end.State == outflow.Dead && m.end.LastError == "too large" }, 10)
	})
}

// A suspect may crash its process. It is sent with nothing else in hand, so that nothing else is lost.
func TestStreamSendsSuspectsAlone(t *testing.T) {
	onStage(t, func(s *stage) {
		s.table.due(90, func(i int, m *paged) {
			if m.Claims = 0; i >= 30 && i < 60 {
				m.Claims, m.Type = 1, "suspect"
			}
		})
		s.broker.takes = time.Second
		s.table.before = func(string) error { time.Sleep(100 * time.Millisecond); return nil }
		var mixed bool
		s.broker.onSend = func(messages []outflow.Message) {
			others := s.table.count(inPage)
			mixed = mixed || messages[0].Type == "suspect" && others > 30
		}
		_, err := s.execute()
		require.NoError(t, err)
		require.False(t, mixed)
		s.requireAll(delivered, 90)
	})
}

// Suspects wait for what is in hand, and not for what comes after them.
func TestSuspectsHaveTheirTurn(t *testing.T) {
	onStage(t, func(s *stage) {
		s.table.due(200)
		s.table.due(30, func(_ int, m *paged) { m.Claims = 1 })
		s.broker.takes = 200 * time.Millisecond
		for i := range 300 {
			s.after(time.Duration(i)*50*time.Millisecond, func() { s.table.due(200) })
		}
		waiting := make(chan int, 1)
		s.after(5*time.Second, func() {
			waiting <- s.table.count(func(m *paged) bool { return m.Claims == 1 && !delivered(m) })
		})
		_, err := s.execute()
		require.NoError(t, err)
		require.Zero(t, <-waiting)
		s.requireAll(delivered, 200+30+300*200)
	})
}

// Temporal gives a task only to a worker that can do it: streams of https would save nothing.
func TestNoStreamForOneMessageACall(t *testing.T) {
	onStage(t, func(s *stage) {
		for _, destination := range []string{"https://example.com/a", "temporal://queue/Type"} {
			_, err := s.env.ExecuteActivity("Stream", StreamInput{Destination: destination})
			var application *temporal.ApplicationError
			require.ErrorAs(t, err, &application)
			require.True(t, application.NonRetryable())
			require.ErrorContains(t, err, "takes one message a call")
		}
		close(s.stop)
	})
}

// A page whose claim had no answer is not in hand. Its messages are freed like those of a lost holder.
func TestStreamWhoseClaimHadNoAnswer(t *testing.T) {
	onStage(t, func(s *stage) {
		s.table.due(10)
		s.table.lose = true
		s.after(time.Second, func() { s.table.due(5) })
		_, err := s.execute()
		require.NoError(t, err)
		s.requireAll(delivered, 5)
		holders := func(is func(*paged) bool) (all []uuid.UUID) {
			s.table.count(func(m *paged) bool {
				if is(m) {
					all = append(all, m.holders[0])
				}
				return false
			})
			return all
		}
		last := s.table.frees[len(s.table.frees)-1]
		require.NotContains(t, last, holders(inPage)[0], "it does not hold them")
	})
}

// What a lost process left behind counts as leases that ran out.
func TestStreamCountsWhatWasLost(t *testing.T) {
	reader := metric.NewManualReader()
	onStage(t, func(s *stage) {
		s.table.lost = 700
		_, err := s.execute()
		require.NoError(t, err)
	}, WithMeterProvider(metric.NewMeterProvider(metric.WithReader(reader))))
	require.EqualValues(t, 700, testmetrics.Counted(t, reader, "outflow.lease.expiries", nil))
}

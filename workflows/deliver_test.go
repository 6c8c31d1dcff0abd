package workflows_test

import (
	"context"
	"errors"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/mock"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/temporal"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/activities"
	"github.com/outflowhq/outflow/internal/timing"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/workflows"
)

func TestFastPath(t *testing.T) {
	r := newRun(t, acks)
	outcome, err := r.execute()
	require.NoError(t, err)
	assert.Equal(t, outflow.Delivered, outcome.State)
	assert.Equal(t, "broker-1", outcome.BrokerMessageID)
	assert.Equal(t, 1, outcome.Attempts)
	assert.Equal(t, []string{"local Publish", "local MarkDelivered"}, r.spy.names)
	require.Equal(t, 1, r.broker.count())
	assert.Equal(t, payload, string(r.broker.calls[0].Payload), "the broker gets the row's message")
	assert.Equal(t, outflow.Delivered, r.table.row.State)
	assert.Empty(t, r.table.renewals, "nothing is written between the claim and the end")
}

func TestRetryThenDelivered(t *testing.T) {
	script := append(times(3, fails(outflow.Retryable(errReset))), acks)
	r := newRun(t, script...)
	outcome, err := r.execute()
	require.NoError(t, err)
	assert.Equal(t, outflow.Delivered, outcome.State)
	assert.Equal(t, 4, r.broker.count())
	assert.Equal(t, 4, outcome.Attempts, "one local and three durable attempts, each counted once")
	assert.Equal(t, []string{"local Publish", "Publish", "local MarkDelivered"}, r.spy.names)

	require.Len(t, r.table.renewals, 4)
	first := r.table.renewals[0]
	assert.True(t, first.Waits, "nothing is sent again at once")
	assert.Equal(t, 1, first.Attempts, "the fast path's")
	assert.Equal(t, errReset.Error(), first.LastError)
	for _, later := range r.table.renewals[1:] {
		assert.False(t, later.Waits)
		assert.Zero(t, later.Attempts, "each counts its own")
	}
}

// What the fast path was asked to wait, the first durable attempt to send waits, and a
// failure that names no time waits about a second: whatever the broker may have.
func TestTheFirstRetryWaits(t *testing.T) {
	asks := func(d time.Duration) error {
		return &outflow.Failure{Class: outflow.ClassUnavailable, RetryAfter: d, Err: errReset}
	}
	for name, c := range map[string]struct {
		err         error
		least, most time.Duration
	}{
		"throttled for ten minutes": {asks(10 * time.Minute), 10 * time.Minute, 11 * time.Minute},
		"throttled for a day":       {asks(24 * time.Hour), time.Hour, 66 * time.Minute},
		"unavailable":               {outflow.Unavailable(errReset), 800 * time.Millisecond, 1200 * time.Millisecond},
		"retryable":                 {outflow.Retryable(errReset), 800 * time.Millisecond, 1200 * time.Millisecond},
		"of no class":               {errReset, 800 * time.Millisecond, 1200 * time.Millisecond},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRun(t)
			var at []time.Time
			r.broker.script = []answer{
				func(context.Context, outflow.Message) (string, error) {
					at = append(at, r.env.Now())
					return "", c.err
				},
				func(context.Context, outflow.Message) (string, error) {
					at = append(at, r.env.Now())
					assert.True(t, r.table.now().Before(r.table.leased))
					return "broker-1", nil
				},
			}
			r.env.RegisterDelayedCallback(func() {
				r.table.mu.Lock()
				defer r.table.mu.Unlock()
				assert.Equal(t, errReset.Error(), r.table.row.LastError, "the row says why it waits")
				assert.Equal(t, 1, r.table.row.Attempts)
				assert.True(t, r.table.leased.After(r.env.Now().Add(c.least-time.Second/2)),
					"no claim meets the run meanwhile")
			}, 500*time.Millisecond)
			outcome, err := r.execute()
			require.NoError(t, err)
			assert.Equal(t, 2, outcome.Attempts)
			require.Len(t, at, 2)
			assert.GreaterOrEqual(t, at[1].Sub(at[0]), c.least)
			assert.LessOrEqual(t, at[1].Sub(at[0]), c.most)
		})
	}
}

// A long wait ends when the message expires, on the fast path's word and on a durable
// attempt's.
func TestAWaitEndsWithTheExpiry(t *testing.T) {
	asksForAnHour := fails(&outflow.Failure{Class: outflow.ClassUnavailable, RetryAfter: time.Hour, Err: errReset})
	for name, script := range map[string][]answer{
		"asked for on the fast path": {asksForAnHour}, "asked for durably": {fails(errReset), asksForAnHour},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRun(t, script...)
			r.table.row.ExpiresAt = r.env.Now().Add(10 * time.Minute)
			_, err := r.execute()
			outcome := failedAs(t, err, workflows.ErrTypeExpired)
			assert.Equal(t, len(script), outcome.Attempts)
			assert.Less(t, r.env.Now().Sub(r.began), 11*time.Minute)
		})
	}
}

// Somebody knows better than the wait that was asked for: an operator, or a probe's
// success.
func TestTryNowDuringTheFirstWait(t *testing.T) {
	r := newRun(t, fails(&outflow.Failure{Class: outflow.ClassUnavailable, RetryAfter: time.Hour, Err: errReset}), acks)
	r.env.RegisterDelayedCallback(func() { r.env.SignalWorkflow(workflows.SignalTryNow, nil) }, time.Minute)
	outcome, err := r.execute()
	require.NoError(t, err)
	assert.Equal(t, outflow.Delivered, outcome.State)
	assert.Equal(t, 2, outcome.Attempts)
	assert.Equal(t, errReset.Error(), outcome.LastError)
	assert.Less(t, r.env.Now().Sub(r.began), 2*time.Minute)
}

// The wait's lease can't be written: the wait is kept all the same, and the attempts
// are counted later.
func TestFirstWaitWithoutADatabase(t *testing.T) {
	r := newRun(t, fails(&outflow.Failure{Class: outflow.ClassUnavailable, RetryAfter: time.Hour, Err: errReset}), acks)
	r.table.before = failsFirst("renew", 1)
	outcome, err := r.execute()
	require.NoError(t, err)
	assert.GreaterOrEqual(t, r.env.Now().Sub(r.began), time.Hour)
	assert.Equal(t, 2, outcome.Attempts)
	assert.Equal(t, errReset.Error(), outcome.LastError)
}

// Each attempt notes the failure of the one before, which it learns from the
// heartbeat details.
func TestEachAttemptNotesTheLastError(t *testing.T) {
	script := []answer{acks}
	for n := 4; n > 0; n-- {
		script = append([]answer{fails(fmt.Errorf("failure %d", n))}, script...)
	}
	r := newRun(t, script...)
	_, err := r.execute()
	require.NoError(t, err)
	var noted []string
	for _, renewal := range r.table.renewals[1:] { // the first one waits
		noted = append(noted, renewal.LastError)
	}
	assert.Equal(t, []string{"failure 1", "failure 2", "failure 3", "failure 4"}, noted)
	assert.Equal(t, "failure 4", r.table.row.LastError, "a delivery keeps the last failure on the row")
}

// Two weeks of outage end nothing.
func TestRetryIsEndless(t *testing.T) {
	script := append(times(4_200, fails(outflow.Unavailable(errReset))), acks)
	r := newRun(t, script...)
	began := r.env.Now()
	outcome, err := r.execute()
	require.NoError(t, err)
	assert.Equal(t, outflow.Delivered, outcome.State)
	assert.Equal(t, 4_201, outcome.Attempts)
	assert.Greater(t, r.env.Now().Sub(began), 14*24*time.Hour)
	require.NotEmpty(t, r.spy.regular)
	assert.Zero(t, r.spy.regular[0].RetryPolicy.MaximumAttempts)
	assert.Zero(t, r.spy.regular[0].ScheduleToCloseTimeout)
}

// The lease of each durable attempt is still open when the next one renews it.
func TestLeaseReachesTheNextAttempt(t *testing.T) {
	script := append(times(40, fails(&outflow.Failure{Class: outflow.ClassUnavailable, RetryAfter: time.Hour,
		Err: errReset})), acks)
	r := newRun(t, script...)
	r.table.before = func(statement string) error {
		r.table.mu.Lock()
		defer r.table.mu.Unlock()
		if statement == "renew" && len(r.table.renewals) > 0 {
			assert.True(t, r.table.now().Before(r.table.leased), "attempt %d found its lease run out",
				len(r.table.renewals)+1)
		}
		return nil
	}
	_, err := r.execute()
	require.NoError(t, err)
	assert.Len(t, r.table.renewals, 1+2*39+1, "a wait, attempts that each lead to one, the last attempt")
}

func TestUnavailableHonoursRetryAfter(t *testing.T) {
	asked := 40 * time.Second
	busy := fails(&outflow.Failure{Class: outflow.ClassUnavailable, RetryAfter: asked, Err: errReset})
	var at []time.Time
	r := newRun(t)
	note := func(a answer) answer {
		return func(ctx context.Context, m outflow.Message) (string, error) {
			at = append(at, r.env.Now())
			return a(ctx, m)
		}
	}
	r.broker.script = []answer{note(busy), note(busy), note(busy), note(acks)}
	_, err := r.execute()
	require.NoError(t, err)
	require.Len(t, at, 4)
	for i := 1; i < 4; i++ {
		waited := at[i].Sub(at[i-1])
		assert.GreaterOrEqual(t, waited, asked)
		assert.LessOrEqual(t, waited, asked*11/10)
	}
}

func TestPermanentFailure(t *testing.T) {
	for name, script := range map[string][]answer{
		"on the fast path": {fails(outflow.Permanent(errors.New("the queue is gone")))},
		"durably":          {fails(errReset), fails(outflow.Permanent(errors.New("the queue is gone")))},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRun(t, script...)
			_, err := r.execute()
			outcome := failedAs(t, err, workflows.ErrTypeDead)
			assert.Equal(t, outflow.Dead, outcome.State)
			assert.Equal(t, "the queue is gone", outcome.LastError)
			assert.Equal(t, len(script), outcome.Attempts)
			assert.Equal(t, outflow.Dead, r.table.row.State)
			status := r.status()
			assert.Equal(t, "ended", status.Phase)
			assert.Equal(t, "the queue is gone", status.LastError)
			require.NotNil(t, status.Outcome)
			assert.Equal(t, outflow.Dead, status.Outcome.State)
		})
	}
}

func TestExpiry(t *testing.T) {
	t.Run("before the first look", func(t *testing.T) {
		r := newRun(t, acks)
		r.table.row.ExpiresAt = r.env.Now().Add(-time.Second)
		_, err := r.execute()
		outcome := failedAs(t, err, workflows.ErrTypeExpired)
		assert.Equal(t, outflow.Expired, outcome.State)
		assert.Zero(t, outcome.Attempts)
		assert.Zero(t, r.broker.count())
		assert.Equal(t, outflow.Expired, r.table.row.State)
	})
	t.Run("during backoff", func(t *testing.T) {
		r := newRun(t, fails(errReset))
		r.table.row.ExpiresAt = r.env.Now().Add(20 * time.Second)
		_, err := r.execute()
		outcome := failedAs(t, err, workflows.ErrTypeExpired)
		assert.Equal(t, outflow.Expired, outcome.State)
		assert.Greater(t, r.broker.count(), 1)
		assert.Contains(t, outcome.LastError, "expired")
	})
}

func TestWithdrawnByAnOperator(t *testing.T) {
	t.Run("before the first look", func(t *testing.T) {
		r := newRun(t, acks)
		r.table.row.CancelRequested = true
		_, err := r.execute()
		assert.Equal(t, outflow.Cancelled, canceledAs(t, err).State)
		assert.Zero(t, r.broker.count())
		assert.Contains(t, r.table.row.LastError, "operator")
	})
	t.Run("during backoff", func(t *testing.T) {
		r := newRun(t, fails(errReset))
		r.env.RegisterDelayedCallback(func() {
			r.table.change(func(row *outbox.Record) { row.CancelRequested = true })
		}, 10*time.Second)
		_, err := r.execute()
		assert.Equal(t, outflow.Cancelled, canceledAs(t, err).State)
		assert.Equal(t, outflow.Cancelled, r.table.row.State)
	})
}

func TestCancelledBeforeTheFirstTask(t *testing.T) {
	r := newRun(t, acks)
	r.env.RegisterDelayedCallback(r.env.CancelWorkflow, 0)
	// The environment starts the local activity in the task before the cancel.
	loading := make(chan struct{})
	r.table.before = func(statement string) error {
		if statement == "load" {
			<-loading
		}
		return nil
	}
	r.env.SetOnLocalActivityCanceledListener(func(*activityInfo) { close(loading) })
	r.broker.script = []answer{fails(outflow.Permanent(errors.New("the run was cancelled before it was read")))}
	_, err := r.execute()
	assert.Equal(t, outflow.Cancelled, canceledAs(t, err).State)
	assert.Equal(t, outflow.Cancelled, r.table.row.State)
	assert.Zero(t, r.table.row.Attempts)
}

func TestCancelledDuringBackoff(t *testing.T) {
	r := newRun(t, fails(errReset))
	r.env.RegisterDelayedCallback(r.env.CancelWorkflow, 30*time.Second)
	_, err := r.execute()
	outcome := canceledAs(t, err)
	assert.Equal(t, outflow.Cancelled, outcome.State)
	assert.Equal(t, r.broker.count(), outcome.Attempts)
	assert.Equal(t, "cancelled: the workflow was asked to cancel", r.table.row.LastError)
	sent := r.broker.count()
	assert.Greater(t, sent, 1)
}

// The broker has the message although somebody cancelled: that decides.
func TestCancelledBesideAPublishThatSucceeds(t *testing.T) {
	for name, before := range map[string][]answer{"local": nil, "durable": {fails(errReset)}} {
		t.Run(name, func(t *testing.T) {
			r := newRun(t)
			late := func(context.Context, outflow.Message) (string, error) {
				r.env.CancelWorkflow()
				// The mark is asked for while this publish is still under way.
				assert.Eventually(t, func() bool {
					r.spy.mu.Lock()
					defer r.spy.mu.Unlock()
					return r.spy.names[len(r.spy.names)-1] == "local MarkCancelled"
				}, 5*time.Second, time.Millisecond)
				return "late", nil
			}
			r.broker.script = append(before, late)
			outcome, err := r.execute()
			require.NoError(t, err)
			assert.Equal(t, outflow.Delivered, outcome.State)
			assert.Equal(t, "late", outcome.BrokerMessageID)
			assert.Equal(t, len(before)+1, r.broker.count())
			require.Len(t, r.table.endings, 1)
			assert.Equal(t, outflow.Delivered, r.table.endings[0].State)
		})
	}
}

func TestCancelledBesideAMark(t *testing.T) {
	for name, broken := range map[string]int{"local mark": 0, "durable mark": 2} {
		t.Run(name, func(t *testing.T) {
			r := newRun(t, acks)
			fail := failsFirst("finish", broken)
			r.table.before = func(statement string) error {
				if statement == "finish" {
					r.env.CancelWorkflow()
				}
				return fail(statement)
			}
			outcome, err := r.execute()
			require.NoError(t, err)
			assert.Equal(t, outflow.Delivered, outcome.State)
			assert.Equal(t, outflow.Delivered, r.table.row.State)
		})
	}
}

func TestSuperseded(t *testing.T) {
	t.Run("at the first look", func(t *testing.T) {
		r := newRun(t, acks)
		r.table.row.Generation = 2
		outcome, err := r.execute()
		require.NoError(t, err)
		assert.Equal(t, 2, outcome.Generation)
		assert.Zero(t, r.broker.count())
		assert.Empty(t, r.table.endings)
		assert.Equal(t, []outbox.Ref{{ID: r.in.MessageID, Generation: 1}}, r.table.madeWay)
	})
	t.Run("by a start that has ended", func(t *testing.T) {
		r := newRun(t, acks)
		r.table.row.Generation, r.table.row.State = 2, outflow.Dead
		outcome, err := r.execute()
		require.NoError(t, err, "that start's end is not this run's")
		assert.Equal(t, 2, outcome.Generation)
		assert.Zero(t, r.broker.count())
	})
	t.Run("during backoff", func(t *testing.T) {
		r := newRun(t, fails(errReset))
		r.env.RegisterDelayedCallback(func() {
			r.table.change(func(row *outbox.Record) { row.Generation, row.Attempts, row.LastError = 2, 0, "" })
		}, 10*time.Second)
		outcome, err := r.execute()
		require.NoError(t, err)
		assert.Equal(t, 2, outcome.Generation)
		assert.Empty(t, r.table.endings)
		assert.Len(t, r.table.madeWay, 1)
		assert.Zero(t, r.table.row.Attempts, "a superseded run notes nothing")
	})
	for name, script := range map[string]answer{"while publishing": acks,
		"while failing": fails(outflow.Permanent(errReset))} {
		t.Run(name, func(t *testing.T) {
			r := newRun(t)
			r.broker.script = []answer{func(ctx context.Context, m outflow.Message) (string, error) {
				r.table.change(func(row *outbox.Record) { row.Generation = 2 })
				return script(ctx, m)
			}}
			outcome, err := r.execute()
			require.NoError(t, err)
			assert.Equal(t, 2, outcome.Generation)
			assert.Equal(t, outflow.Pending, r.table.row.State)
			assert.Empty(t, r.table.row.BrokerMessageID)
			assert.Empty(t, r.table.row.LastError)
			assert.Len(t, r.table.madeWay, 1)
			assert.Equal(t, 1, r.broker.count())
		})
	}
}

func TestRowThatEndedAlready(t *testing.T) {
	for state, check := range map[outflow.State]func(t *testing.T, got outflow.Outcome, err error) outflow.Outcome{
		outflow.Delivered: func(t *testing.T, got outflow.Outcome, err error) outflow.Outcome {
			require.NoError(t, err)
			return got
		},
		outflow.Dead: func(t *testing.T, _ outflow.Outcome, err error) outflow.Outcome {
			return failedAs(t, err, workflows.ErrTypeDead)
		},
		outflow.Expired: func(t *testing.T, _ outflow.Outcome, err error) outflow.Outcome {
			return failedAs(t, err, workflows.ErrTypeExpired)
		},
		outflow.Cancelled: func(t *testing.T, _ outflow.Outcome,
			err error) outflow.Outcome {
			return canceledAs(t, err)
		},
	} {
		t.Run(string(state), func(t *testing.T) {
			r := newRun(t, acks)
			r.table.row.State, r.table.row.LastError, r.table.row.Attempts = state, "as it was", 7
			got, err := r.execute()
			outcome := check(t, got, err)
			assert.Equal(t, state, outcome.State)
			assert.Equal(t, 7, outcome.Attempts)
			assert.Equal(t, "as it was", outcome.LastError)
			assert.Zero(t, r.broker.count())
			assert.Empty(t, r.table.endings)
			require.NotNil(t, r.status().Outcome)
			assert.Equal(t, state, r.status().Outcome.State)
		})
	}
}

func TestRowIsGone(t *testing.T) {
	t.Run("at the first look", func(t *testing.T) {
		r := newRun(t, acks)
		r.table.gone = true
		_, err := r.execute()
		failedAs(t, err, activities.ErrTypeNotFound)
		assert.Zero(t, r.broker.count())
		assert.Equal(t, []string{"local Publish"}, r.spy.names)
	})
	t.Run("at the mark", func(t *testing.T) {
		r := newRun(t)
		r.broker.script = []answer{func(context.Context, outflow.Message) (string, error) {
			r.table.mu.Lock()
			defer r.table.mu.Unlock()
			r.table.gone = true
			return "broker-1", nil
		}}
		_, err := r.execute()
		failedAs(t, err, activities.ErrTypeNotFound)
		assert.Equal(t, 1, r.broker.count())
	})
}

func TestMarkThatFailsGoesOnDurably(t *testing.T) {
	r := newRun(t, acks)
	r.table.before = failsFirst("finish", 20)
	outcome, err := r.execute()
	require.NoError(t, err)
	assert.Equal(t, outflow.Delivered, outcome.State)
	assert.Equal(t, 1, outcome.Attempts)
	assert.Equal(t, 1, r.broker.count(), "a mark's failure publishes nothing again")
	assert.Equal(t, []string{"local Publish", "local MarkDelivered", "MarkDelivered"}, r.spy.names)
	require.Len(t, r.spy.regular, 1)
	assert.Equal(t, "mark", r.spy.regular[0].ActivityID)
}

// The fast path gives up while the broker is about to acknowledge. The durable
// attempt of the same process meets the acknowledgement.
func TestLocalPublishTimesOutAndTheAckComesLate(t *testing.T) {
	t.Parallel()
	r := newRun(t)
	release := make(chan struct{})
	r.broker.script = []answer{func(context.Context, outflow.Message) (string, error) {
		<-release
		return "late", nil
	}}
	r.env.SetOnActivityStartedListener(func(info *activityInfo, _ context.Context, _ encodedValues) {
		if info.ActivityID == workflows.ActivityIDPublish {
			close(release)
		}
	})
	outcome, err := r.execute()
	require.NoError(t, err)
	assert.Equal(t, outflow.Delivered, outcome.State)
	assert.Equal(t, "late", outcome.BrokerMessageID)
	assert.Equal(t, 1, r.broker.count())
	assert.Equal(t, 1, outcome.Attempts, "one publish is one attempt")
	assert.Equal(t, []string{"local Publish", "Publish", "local MarkDelivered"}, r.spy.names)
}

// A fast path that sent nothing is no attempt, and leaves no error on the row of a message that is
// delivered afterwards.
func TestNotAttemptedIsNoAttempt(t *testing.T) {
	for name, prepare := range map[string]func(r *run){
		"too little time": func(r *run) { r.spy.localTimeout = timing.FastPathCall - time.Second },
		"a slow target":   func(r *run) { r.table.row.SlowTarget = true },
		"not loaded":      func(r *run) { r.table.before = failsFirst("load", 1) },
	} {
		t.Run(name, func(t *testing.T) {
			r := newRun(t, acks)
			prepare(r)
			outcome, err := r.execute()
			require.NoError(t, err)
			assert.Equal(t, outflow.Delivered, outcome.State)
			assert.Equal(t, 1, r.broker.count())
			assert.Equal(t, 1, outcome.Attempts)
			require.Len(t, r.table.renewals, 1)
			assert.Empty(t, r.table.renewals[0].LastError)
			assert.Empty(t, r.table.row.LastError)
		})
	}
}

func TestLoadThatFailsGoesOnDurably(t *testing.T) {
	r := newRun(t, acks)
	r.table.before = failsFirst("load", 1)
	outcome, err := r.execute()
	require.NoError(t, err)
	assert.Equal(t, outflow.Delivered, outcome.State)
	assert.Equal(t, 1, r.broker.count())
}

// By itself the durable publish never gives up, but operators can end it:
// "temporal activity update-options --retry-maximum-attempts", "… fail" and
// "… complete". None of these is a cancel, and none may leave the row open.
func TestPublishEndedByHand(t *testing.T) {
	const byHand = " (an operator failed the activity or limited its attempts: fix the cause, then retry or" +
		" redirect the message)"
	t.Run("its attempts limited", func(t *testing.T) {
		r := newRun(t, fails(errReset))
		r.spy.attempts = 3
		_, err := r.execute()
		outcome := failedAs(t, err, workflows.ErrTypeDead)
		assert.Equal(t, outflow.Dead, outcome.State)
		assert.Equal(t, errReset.Error()+byHand, outcome.LastError)
		assert.Equal(t, 3, outcome.Attempts, "the first one only waits")
	})
	t.Run("failed", func(t *testing.T) {
		r := newRun(t, fails(errReset))
		r.env.OnActivity(workflows.ActivityPublish, anything, anything).Return(activities.PublishResult{},
			errReset).Once()
		r.env.OnActivity(workflows.ActivityPublish, anything, anything).
			Return(activities.PublishResult{}, temporal.NewNonRetryableApplicationError("not today", "CLI", nil))
		_, err := r.execute()
		assert.Equal(t, "not today"+byHand, failedAs(t, err, workflows.ErrTypeDead).LastError)
	})
	t.Run("completed with something else", func(t *testing.T) {
		r := newRun(t, fails(errReset))
		r.env.OnActivity(workflows.ActivityPublish, anything, anything).Return(activities.PublishResult{},
			errReset).Once()
		r.env.OnActivity(workflows.ActivityPublish, anything, anything).Return(activities.PublishResult{}, nil)
		_, err := r.execute()
		assert.Equal(t, outflow.Dead, failedAs(t, err, workflows.ErrTypeDead).State)
		assert.Equal(t, outflow.Dead, r.table.row.State)
	})
}

// An attempt that is under way when the run is signalled ends first: it may publish.
func TestTryNowDuringAnAttempt(t *testing.T) {
	var r *run
	r = newRun(t, fails(outflow.Unavailable(errReset)), func(context.Context, outflow.Message) (string, error) {
		r.env.SignalWorkflow(workflows.SignalTryNow, nil)
		return "broker-1", nil
	})
	outcome, err := r.execute()
	require.NoError(t, err)
	assert.Equal(t, outflow.Delivered, outcome.State)
	assert.Equal(t, 2, r.broker.count())
}

// A cancel request beats a signal: the run begins no new activity.
func TestCancelAfterTryNow(t *testing.T) {
	r := newRun(t, fails(outflow.Unavailable(errReset)))
	r.env.RegisterDelayedCallback(func() {
		r.env.SignalWorkflow(workflows.SignalTryNow, nil)
		r.env.CancelWorkflow()
	}, time.Hour)
	_, err := r.execute()
	assert.Equal(t, outflow.Cancelled, canceledAs(t, err).State)
}

// A quarantined message that a crashed attempt leaves is another run's: this run ends, and writes
// no end.
func TestSetAside(t *testing.T) {
	r := newRun(t, fails(outflow.Unavailable(errReset)))
	r.env.OnActivity(workflows.ActivityPublish, mock.Anything,
		mock.Anything).Return(func(ctx context.Context, in activities.PublishInput) (activities.PublishResult, error) {
		return activities.PublishResult{Verdict: activities.SetAside, Outcome: r.table.row.Outcome()}, nil
	})
	outcome, err := r.execute()
	require.NoError(t, err)
	assert.Equal(t, outflow.Pending, outcome.State)
	assert.Empty(t, r.table.endings)
}

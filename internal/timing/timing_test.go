package timing_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/timing"
	"github.com/outflowhq/outflow/publish/awssqs"
	"github.com/outflowhq/outflow/publish/webhook"
)

func TestTimeoutsFitIntoEachOther(t *testing.T) {
	assert.Less(t, timing.LocalPublish+timing.LocalMark, 7*time.Second)
	// The SDK asks for more time at 80 % of the workflow task: a fast path ends before.
	assert.Less(t, timing.LocalPublish+timing.LocalMark, timing.WorkflowTask*8/10)
	assert.Less(t, timing.FastPathCall, timing.LocalPublish)
	assert.GreaterOrEqual(t, timing.LocalPublish-timing.FastPathCall, time.Second,
		"room for a load of the row and a slot")
	assert.Less(t, timing.LocalPublish, timing.DurablePublish-timing.AnswerMargin,
		"a durable attempt has more time than a local one")
	assert.Greater(t, timing.KeepAcknowledgement, 10*(timing.PublishBackoff.First+timing.DurableMark),
		"an acknowledgement outlives the mark's first retries")
	assert.LessOrEqual(t, timing.MinHeldBackDelay, timing.PublishBackoff.Max)
	// A durable attempt: its renewal, a large payload, the longest call, its answer.
	assert.GreaterOrEqual(t, timing.DurablePublish-timing.AnswerMargin,
		2*time.Second+timing.PayloadRoom+timing.PayloadLoad+outflow.MaxCallTime)
	assert.Greater(t, timing.HeartbeatTimeout*2/10, timing.HeartbeatInterval,
		"the SDK may keep a heartbeat for 80 % of the time")
	assert.Greater(t, timing.CallbackAttempt-timing.AnswerMargin, timing.CallbackCall+10*time.Second)
	assert.GreaterOrEqual(t, timing.CallbackCall, outflow.MaxCallTime+2*time.Second,
		"publish.CallTime wants a second beside the call")
}

// The sums that docs/running.md and docker-compose.yml give to an orchestrator.
func TestShutdownFitsIntoTheGracePeriod(t *testing.T) {
	longest := max(awssqs.DefaultTimeout, webhook.DefaultTimeout)
	assert.Equal(t, 43*time.Second, timing.StopStarter(longest))
	assert.Equal(t, 32*time.Second, timing.StopWorker(longest))
	assert.Equal(t, 58*time.Second, timing.StopStarter(outflow.MaxCallTime))
	assert.Equal(t, 47*time.Second, timing.StopWorker(outflow.MaxCallTime))
}

func TestBackoff(t *testing.T) {
	for name, c := range map[string]struct {
		attempt    int32
		retryAfter time.Duration
		from, to   time.Duration
	}{
		"first":                              {1, 0, 800 * time.Millisecond, 1200 * time.Millisecond},
		"doubles":                            {4, 0, 6400 * time.Millisecond, 9600 * time.Millisecond},
		"up to the last":                     {100, 0, 4 * time.Minute, 6 * time.Minute},
		"never overflows":                    {1 << 30, 0, 4 * time.Minute, 6 * time.Minute},
		"asked for more":                     {1, 10 * time.Minute, 10 * time.Minute, 11 * time.Minute},
		"asked for more than the last":       {100, 30 * time.Minute, 30 * time.Minute, 33 * time.Minute},
		"asked for too much":                 {1, 24 * time.Hour, time.Hour, 66 * time.Minute},
		"asked for less than the backoff is": {8, time.Second, 102 * time.Second, 154 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			seen := map[time.Duration]bool{}
			for range 200 {
				got := timing.PublishBackoff.Delay(c.attempt, c.retryAfter)
				assert.GreaterOrEqual(t, got, c.from, "a wait that a destination asks for is not cut short")
				assert.LessOrEqual(t, got, c.to)
				seen[got] = true
			}
			assert.Greater(t, len(seen), 100, "jitter keeps runs apart")
		})
	}
}

// The waits for another worker are short, and of many lengths: else the same wrong worker could have each
// attempt.
func TestForeignDelay(t *testing.T) {
	t.Parallel()
	lengths := map[time.Duration]bool{}
	for range 20 {
		delay := timing.ForeignDelay(timing.PublishBackoff.Max)
		assert.GreaterOrEqual(t, delay, timing.MaxForeignDelay/5)
		assert.LessOrEqual(t, delay, timing.MaxForeignDelay)
		lengths[delay.Round(100*time.Millisecond)] = true
	}
	assert.Greater(t, len(lengths), 3)
	assert.Equal(t, time.Millisecond, timing.ForeignDelay(time.Millisecond))
}

package activities

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/outflowhq/outflow"
)

func TestTimeoutsFitIntoEachOther(t *testing.T) {
	assert.Less(t, LocalPublish+LocalMark, 7*time.Second)
	// The SDK asks for more time at 80 % of the workflow task: a fast path ends before.
	assert.Less(t, LocalPublish+LocalMark, WorkflowTask*8/10)
	assert.Less(t, BrokerCall, LocalPublish)
	assert.GreaterOrEqual(t, LocalPublish-BrokerCall, time.Second, "room for a look at the row and a slot")
	assert.Less(t, LocalPublish, Durable-answerMargin, "a durable attempt has more time than a local one")
	assert.Greater(t, rememberAck, 10*(FirstRetry+DurableMark), "an acknowledgement outlives the mark's first retries")
	assert.LessOrEqual(t, heldBackRetry, LastRetry)
	// A durable attempt: its renewal, a large payload, the longest call, its answer.
	assert.GreaterOrEqual(t, Durable-answerMargin, 2*time.Second+PayloadRoom+PayloadLoad+outflow.MaxCallTime)
	assert.Greater(t, Silence*2/10, Beat, "the SDK may keep a beat for 80 % of the time")
	assert.Greater(t, CallbackAttempt-answerMargin, CallbackCall+10*time.Second)
	assert.GreaterOrEqual(t, CallbackCall, outflow.MaxCallTime+2*time.Second, "publish.CallTime wants a second beside the call")
}

// Whatever the attempt and whatever the destination asks for: the lease that an
// attempt takes, or the one for a longer wait, is still open when the next one comes.
func TestLeaseIsAlwaysPastTheNextAttempt(t *testing.T) {
	for attempt := int32(1); attempt <= 1000; attempt++ {
		lease := leaseFor(attempt)
		for _, asked := range []time.Duration{-time.Hour, 0, time.Millisecond, time.Second, 59 * time.Second, time.Minute, time.Hour, 1 << 62} {
			delay := retryDelay(attempt, asked)
			if delay <= 0 || delay > outflow.MaxRetryAfter*11/10 {
				t.Fatalf("attempt %d, asked %s: waits %s", attempt, asked, delay)
			}
			spare := lease - Durable - delay
			if delay > covered(attempt) {
				spare = waitLease(delay) - delay
			}
			if spare < renewMargin {
				t.Fatalf("attempt %d, asked %s: the lease of %s leaves %s", attempt, asked, lease, spare)
			}
		}
		if lease > LastRetry*2 {
			t.Fatalf("attempt %d: a lost run is noticed only after %s", attempt, lease)
		}
	}
}

func TestRetryDelay(t *testing.T) {
	for name, c := range map[string]struct {
		attempt     int32
		asked       time.Duration
		least, most time.Duration
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
				got := retryDelay(c.attempt, c.asked)
				assert.GreaterOrEqual(t, got, c.least, "what a destination asks for is not cut short")
				assert.LessOrEqual(t, got, c.most)
				seen[got] = true
			}
			assert.Greater(t, len(seen), 100, "jitter keeps runs apart")
		})
	}
}

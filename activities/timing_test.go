package activities

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
)

func TestTimeoutsFitIntoEachOther(t *testing.T) {
	assert.Less(t, LocalPublish+LocalMark, 7*time.Second)
	// The SDK asks for more time at 80 % of the workflow task: a fast path ends before.
	assert.Less(t, LocalPublish+LocalMark, WorkflowTask*8/10)
	assert.Less(t, BrokerCall, LocalPublish)
	assert.GreaterOrEqual(t, LocalPublish-BrokerCall, time.Second, "room for a look at the row and a slot")
	assert.Less(t, LocalPublish, Durable-answerMargin, "a durable attempt has more time than a local one")
	assert.Greater(t, rememberAck, 10*(FirstRetry+Durable), "an acknowledgement outlives the mark's first retries")
	assert.LessOrEqual(t, AskedRetry, LastRetry)
}

// Whatever the attempt and whatever the destination asks for: the lease that an
// attempt takes is still open when the next one comes, with time to spare.
func TestLeaseIsAlwaysPastTheNextAttempt(t *testing.T) {
	for attempt := int32(1); attempt <= 1000; attempt++ {
		lease := leaseFor(attempt)
		for _, asked := range []time.Duration{-time.Hour, 0, time.Millisecond, time.Second, 59 * time.Second, time.Minute, time.Hour, 1 << 62} {
			delay := retryDelay(attempt, asked)
			if delay <= 0 {
				t.Fatalf("attempt %d, asked %s: waits %s", attempt, asked, delay)
			}
			if spare := lease - Durable - delay; spare < renewMargin {
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
		attempt int32
		asked   time.Duration
		about   time.Duration
	}{
		"first":                              {1, 0, time.Second},
		"doubles":                            {4, 0, 8 * time.Second},
		"up to the last":                     {100, 0, 5 * time.Minute},
		"never overflows":                    {1 << 30, 0, 5 * time.Minute},
		"asked for more":                     {1, 30 * time.Second, 30 * time.Second},
		"asked for too much":                 {1, time.Hour, time.Minute},
		"asked for less than the backoff is": {8, time.Second, 128 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			seen := map[time.Duration]bool{}
			for range 200 {
				got := retryDelay(c.attempt, c.asked)
				assert.GreaterOrEqual(t, got, c.about*8/10)
				assert.LessOrEqual(t, got, c.about*12/10)
				seen[got] = true
			}
			assert.Greater(t, len(seen), 100, "jitter keeps runs apart")
		})
	}
}

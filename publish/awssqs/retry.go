package awssqs

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
)

const (
	// maxAttempts of one request, the first included.
	maxAttempts = 4
	// firstDelay doubles with each retry, and half of it is random.
	firstDelay = 50 * time.Millisecond
)

// retryer is the SDK's retry rule for one request. It retries only where SQS
// accepted nothing: no connection was made, or the answer was a throttle. The
// SDK's standard one also retries lost answers and 5xx, and each such retry can
// be a duplicate that nobody counts. It is set for each request, whatever the
// client's own is, and belongs to that request alone.
type retryer struct {
	// least is how much time an attempt must have left to be worth making: one
	// that is cut off by the deadline may have been accepted.
	least time.Duration
	// until ends the retries, where it comes before the context's deadline.
	until time.Time
	tries int
	delay time.Duration
}

var _ aws.RetryerV2 = (*retryer)(nil)

var errNoTimeLeft = errors.New("no time is left for a retry")

func (*retryer) IsErrorRetryable(err error) bool {
	if noIdentity(err) {
		return false // the credentials' own client has retried
	}
	v, _ := verdictOf(err, true)
	return neverSent(err) || v.throttle
}

func (*retryer) MaxAttempts() int { return maxAttempts }

// GetRetryToken decides whether there is time for one more attempt. It is
// called before RetryDelay, and a refusal keeps the original error.
func (r *retryer) GetRetryToken(ctx context.Context, err error) (func(error) error, error) {
	backoff := firstDelay << r.tries
	r.tries++
	r.delay = max(backoff/2+rand.N(backoff/2), retryAfter(err))
	if !enoughTime(ctx, r.delay+r.least) || !r.until.IsZero() && time.Until(r.until) < r.delay+r.least {
		return nil, errNoTimeLeft
	}
	return released, nil
}

func (r *retryer) RetryDelay(int, error) (time.Duration, error) { return r.delay, nil }

func (*retryer) GetInitialToken() func(error) error { return released }

func (*retryer) GetAttemptToken(context.Context) (func(error) error, error) { return released, nil }

func released(error) error { return nil }

func enoughTime(ctx context.Context, want time.Duration) bool {
	deadline, ok := ctx.Deadline()
	return ctx.Err() == nil && (!ok || time.Until(deadline) >= want)
}

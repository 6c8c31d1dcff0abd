package aws

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/outflowhq/outflow/publish"
)

const (
	// maxAttempts of one request, the first included.
	maxAttempts = 4
	// firstDelay doubles with each retry, and half of it is random.
	firstDelay = 50 * time.Millisecond
)

// Retryer is the SDK's retry policy for one request, whatever the client's own is. It retries
// only where the service accepted nothing: no connection was made, or the answer was a
// throttle. The SDK's standard policy also retries lost answers and 5xx, and each such retry
// can be a duplicate that nobody counts. A Retryer belongs to one request alone.
type Retryer struct {
	Service *Service
	// MinTime is how much time an attempt must have left: the service may have accepted an
	// attempt that the deadline cuts off.
	MinTime time.Duration
	// Until ends the retries, where it comes before the context's deadline.
	Until time.Time

	tries int
	delay time.Duration
}

var _ aws.RetryerV2 = (*Retryer)(nil)

var errNoTimeLeft = errors.New("no time is left for a retry")

// IsErrorRetryable is the SDK's question after a failure.
func (r *Retryer) IsErrorRetryable(err error) bool {
	if r.Service.noIdentity(err) {
		return false // the credentials' own client has retried
	}
	kind, _ := r.Service.kindOf(err, true)
	return neverSent(err) || kind == Throttled
}

// MaxAttempts counts the first one.
func (*Retryer) MaxAttempts() int { return maxAttempts }

// GetRetryToken decides whether there is time for one more attempt. The SDK calls it before
// RetryDelay, and a refusal keeps the original error.
func (r *Retryer) GetRetryToken(ctx context.Context, err error) (func(error) error, error) {
	backoff := firstDelay << r.tries
	r.tries++
	r.delay = max(backoff/2+rand.N(backoff/2), retryAfter(err))
	want := r.delay + r.MinTime
	if !publish.EnoughTime(ctx, want) || !r.Until.IsZero() && time.Until(r.Until) < want {
		return nil, errNoTimeLeft
	}
	return released, nil
}

// RetryDelay is the wait that GetRetryToken chose.
func (r *Retryer) RetryDelay(int, error) (time.Duration, error) { return r.delay, nil }

// GetInitialToken limits nothing.
func (*Retryer) GetInitialToken() func(error) error { return released }

// GetAttemptToken limits nothing.
func (*Retryer) GetAttemptToken(context.Context) (func(error) error, error) { return released, nil }

func released(error) error { return nil }

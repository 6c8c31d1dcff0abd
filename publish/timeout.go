package publish

import (
	"context"
	"time"

	"github.com/outflowhq/outflow"
)

// answerTime is what a call leaves of its caller's time, for the answer's way back.
const answerTime = time.Second

// CallTime is how long a publisher's call to its broker may take, retries included: the
// publisher's own timeout, outflow.MaxCallTime at most, where ctx leaves time for it and
// a second more. Otherwise, as on the fast path, it is outflow.FastPathCallTime at most.
// A call that ends so before the publisher's own timeout is outflow.Failure.CutShort.
func CallTime(ctx context.Context, own time.Duration) time.Duration {
	own = min(own, outflow.MaxCallTime)
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) < own+answerTime {
		return min(own, outflow.FastPathCallTime)
	}
	return own
}

package publish

import (
	"context"
	"time"

	"github.com/outflowhq/outflow"
)

// replyTime is what a call leaves of its caller's time, so that the result gets back in time.
const replyTime = time.Second

// CallTime is how long a publisher's call to its broker may take, retries included:
//
//   - the publisher's own timeout, outflow.MaxCallTime at most, where ctx leaves time for it and
//     a second more;
//   - otherwise, as on the fast path, outflow.FastPathCallTime at most. A call that ends so before
//     the publisher's own timeout is outflow.Failure.CutShort.
func CallTime(ctx context.Context, own time.Duration) time.Duration {
	own = min(own, outflow.MaxCallTime)
	if deadline, ok := ctx.Deadline(); ok && time.Until(deadline) < own+replyTime {
		return min(own, outflow.FastPathCallTime)
	}
	return own
}

// EnoughTime reports whether ctx goes on and leaves at least want. A publisher that has less sends
// nothing: its error wraps outflow.ErrNotAttempted.
func EnoughTime(ctx context.Context, want time.Duration) bool {
	deadline, ok := ctx.Deadline()
	return ctx.Err() == nil && (!ok || time.Until(deadline) >= want)
}

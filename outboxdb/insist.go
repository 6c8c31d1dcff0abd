package outboxdb

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/coalesce"
)

// Most locks on a message's row are held for some milliseconds, by another statement
// of ours. A longer one, such as that of an open psql, is left to the next attempt.
const (
	firstLockPause = 5 * time.Millisecond
	lastLockPause  = 100 * time.Millisecond
	lockPatience   = time.Second
)

// insist is c.Do, once more after a while where the message's row was locked.
func insist[In, Out any](ctx context.Context, c *coalesce.Coalescer[In, Out], in In) (Out, error) {
	began, locked := time.Now(), false
	for pause := firstLockPause; ; pause = min(2*pause, lastLockPause) {
		out, err := c.Do(ctx, in)
		switch {
		case errors.Is(err, outflow.ErrNotAttempted) && locked:
			return out, errLocked // ctx leaves no time for another try
		case !errors.Is(err, errLocked):
			return out, err
		case time.Since(began) >= lockPatience:
			return out, fmt.Errorf("%w for %s", err, time.Since(began).Round(time.Millisecond))
		}
		locked = true
		select {
		case <-ctx.Done():
			return out, fmt.Errorf("%w: %w", err, ctx.Err())
		case <-time.After(pause):
		}
	}
}

package outboxdb

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/coalesce"
	"github.com/outflowhq/outflow/outbox"
)

// Another of our statements holds the lock on a message's row for some milliseconds. A lock
// that lasts longer, such as that of an open psql, is an error: the activity tries again.
const (
	minLockPause = 5 * time.Millisecond // doubled after each try
	maxLockPause = 100 * time.Millisecond
	maxLockWait  = time.Second
)

// retryLocked calls c.Do, again and again while the message's row is locked.
func retryLocked[In, Out any](ctx context.Context, c *coalesce.Coalescer[In, Out], in In) (Out, error) {
	began, locked := time.Now(), false
	for pause := minLockPause; ; pause = min(2*pause, maxLockPause) {
		out, err := c.Do(ctx, in)
		switch {
		case errors.Is(err, outflow.ErrNotAttempted) && locked:
			return out, outbox.ErrLocked // ctx leaves no time for another try
		case !errors.Is(err, outbox.ErrLocked):
			return out, err
		case time.Since(began) >= maxLockWait:
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

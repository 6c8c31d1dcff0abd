package coalesce

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/outflowhq/outflow/internal/panics"
)

// ErrNoResult is the error of an entry for which the shared call returned no result.
var ErrNoResult = errors.New("the shared call returned no result for this entry")

// run makes one shared call and settles its entries. A deferred function settles them, so that
// neither a panic nor runtime.Goexit (a test's FailNow) in the call leaves a caller waiting or a
// slot taken.
func (c *Coalescer[In, Out]) run(batch []*entry[In, Out], sealed time.Time) {
	var results []Result[Out]
	failure := ErrNoResult
	defer func() {
		c.mu.Lock()
		c.calls--
		c.pump()
		c.mu.Unlock()
		for i, e := range batch {
			if i < len(results) {
				e.answer <- results[i]
			} else {
				e.answer <- Result[Out]{Err: failure}
			}
		}
	}()
	defer panics.Catch(func(p *panics.Error) { failure = fmt.Errorf("the shared call %w", p) })
	ctx := context.Background()
	if c.opts.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithDeadline(ctx, sealed.Add(c.opts.Timeout))
		defer cancel()
	}
	in := make([]In, 0, len(batch))
	for _, e := range batch {
		in = append(in, e.in)
	}
	results = c.call(ctx, in)
}

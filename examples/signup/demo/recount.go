package main

import (
	"context"
	"fmt"
	"time"
)

// recount shows after each restart that nothing was lost: every message that was
// committed by then is delivered, and the consumer has handled it once.
func (d *demo) recount(ctx context.Context) {
	for {
		select {
		case <-d.recounts:
		case <-ctx.Done():
			return
		}
		if n, err := d.awaitAll(ctx); err == nil {
			d.family.print("demo",
				fmt.Sprintf("nothing was lost: the first %d messages are all delivered, and handled once each", n))
		} else if ctx.Err() == nil {
			d.family.print("demo", err.Error())
		}
	}
}

// awaitAll waits for the messages that are in the table now; it returns their number.
func (d *demo) awaitAll(ctx context.Context) (int, error) {
	now, err := d.tally(ctx)
	for t := now; err == nil; t, err = d.tally(ctx) {
		switch {
		case t.complete(now.Enqueued):
			return now.Enqueued, nil
		case t.Dead > 0:
			return 0, fmt.Errorf("%d messages are dead:\n%s", t.Dead, t.report())
		}
		select {
		case <-time.After(countEvery):
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		}
	}
	return 0, err
}

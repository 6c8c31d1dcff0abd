package main

import (
	"context"
	"errors"
	"slices"

	"github.com/jackc/pgx/v5"
)

// slow are the variants that run a workflow of Temporal for each message.
var slow = []string{floor, floorTwo, naive, naiveEager, tracked}

// pace multiplies the backlogs of fast variants that are much slower or faster than the others.
var pace = map[string]float64{dbosPeer: 0.5, stream: 3, queueAlone: 5}

// backlog is how many messages a variant's backlog has: so many that a run takes some seconds.
func (s settings) backlog(variant string) int {
	if slices.Contains(slow, variant) {
		return s.messages
	}
	if by, ok := pace[variant]; ok {
		return max(int(float64(s.fastMessages)*by), 1)
	}
	return s.fastMessages
}

// awaitArrivals waits until all messages of a drain have arrived and no row is left. The queue service is
// asked rather than the database, which is busy.
func (w *world) awaitArrivals(
	ctx context.Context, conn *pgx.Conn, source source, dispatchers []*child, messages int,
) error {
	for {
		counts, err := w.queues.counts(ctx)
		if err != nil {
			return errors.Join(err, context.Cause(ctx))
		}
		if counts.Different >= messages {
			return await(ctx, conn, source, dispatchers)
		}
		if err := alive(dispatchers); err != nil {
			return err
		}
		if err := pause(ctx, lookEvery); err != nil {
			return err
		}
	}
}

// alive is an error where a dispatcher has ended.
func alive(dispatchers []*child) error {
	for _, c := range dispatchers {
		select {
		case <-c.Done():
			return c.died()
		default:
		}
	}
	return nil
}

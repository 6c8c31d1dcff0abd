package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

const (
	stoppedQueue = "backlog"
	// stoppedBacklog lasts for most of a minute at the pace of slowBy.
	stoppedBacklog = 100_000
	// stopsInTurn stops each of two workers twice.
	stopsInTurn = 4
	// backAfter is how long a stopped worker is given to be back before the next one stops.
	backAfter = 5 * time.Second
	// longestStop bounds the time in which nothing of a backlog is sent, beside orderly stops.
	longestStop = 10 * time.Second
)

// streamStops stops the workers of a stream in turn, as a deployment does, while messages go through
// it. None comes twice, and the stream goes on elsewhere within seconds.
func streamStops(ctx context.Context, c *chaos) error {
	f, err := c.deployStreams(ctx, "streamstops", 2, streamAbove)
	if err != nil {
		return err
	}
	return errors.Join(c.stopInTurn(ctx, f), f.close(c.stack.Logs()))
}

func (c *chaos) stopInTurn(ctx context.Context, f *fleet) error {
	load := f.StartLoad(besideRate, toQueues(besideStreams...)...)
	defer load.Stop()
	flow := f.slowFlow(stoppedQueue)
	if err := f.enqueueBacklog(ctx, stoppedBacklog, stoppedQueue); err != nil {
		return err
	}
	for range stopsInTurn {
		holder, err := flow.more(ctx, stoppedBacklog/(5*stopsInTurn), streamDrain)
		if err != nil {
			return err
		}
		m, err := f.worker(holder)
		if err != nil {
			return err
		}
		began := time.Now()
		if err := m.Terminate(); err != nil {
			return fmt.Errorf("stopping %s: %w", holder, err)
		}
		c.say("stopped %s, which took %.1f s; longest time without a request so far %.1f s", holder,
			time.Since(began).Seconds(), flow.longestPause().Seconds())
		pause(ctx, backAfter)
		if sent, _, _ := flow.now(); sent >= stoppedBacklog {
			return errors.New("the backlog was sent before all stops: this shows too little")
		}
	}
	err := f.drainBacklog(ctx, c)
	load.Stop()
	longest := flow.longestPause()
	c.result("stops %d; longest time without a request of the stream %.1f s (bound %s)", stopsInTurn, longest.Seconds(),
		longestStop)
	if longest > longestStop {
		c.broken = append(c.broken, fmt.Sprintf("stream-stops: nothing was sent for %s (at most %s)", longest, longestStop))
	}
	errs := []error{err, f.awaitStreamsEnd(ctx, c), f.holdStreamed(ctx, c, "backlog", f.Arrivals(stoppedQueue)),
		f.holdBeside(ctx, c, load), f.holdEnds()}
	_, err = c.judge(ctx, f, nil)
	return errors.Join(append(errs, err)...)
}

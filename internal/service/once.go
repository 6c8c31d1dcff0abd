package service

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/config"
	"github.com/outflowhq/outflow/outboxdb"
)

const (
	// lookEvery is the wait between two counts of what is left. Counting reads
	// every pending row.
	lookEvery = 500 * time.Millisecond
	// lastLook bounds the last count, which a signal does not end.
	lastLook = 10 * time.Second
)

// Once delivers what is due, durable attempts included, and makes an attempt at each
// callback that is due, until nothing is left but delayed messages, those that these
// settings keep from being sent, and callbacks in backoff, or limit is over, or ctx ends.
// It writes what is left to out. What is due and could not even be started is an error,
// unless its destination takes nothing. A schedule that is missing is written, one that
// is there is left as it is.
func Once(ctx context.Context, c config.Config, limit time.Duration, out io.Writer, log *slog.Logger) error {
	p, err := open(ctx, c, nameStarter, log)
	if err != nil {
		if ctx.Err() != nil {
			return errors.New("the pass was stopped before it began")
		}
		return err
	}
	defer p.close()
	defer p.scheduleOnce(ctx, c)()
	since, err := p.store.TriedCallbacks(ctx)
	if err != nil {
		return err
	}
	scanning, stop := context.WithCancel(ctx)
	defer stop()
	scanned := p.scan(scanning)
	err = p.drained(ctx, limit, since)
	stop()
	<-scanned
	if err != nil {
		return err
	}
	last, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastLook)
	defer cancel()
	counts, callbacks, err := p.left(last, since)
	if err != nil {
		return err
	}
	return report(out, counts, callbacks, ctx.Err() != nil)
}

// left counts what is not final, and the callbacks that are not told.
func (p *parts) left(ctx context.Context, since outboxdb.TriedCallbacks) ([]outboxdb.PendingCounts, outboxdb.CallbackCounts, error) {
	counts, err := p.store.Pending(ctx)
	if err != nil {
		return nil, outboxdb.CallbackCounts{}, err
	}
	callbacks, err := p.store.PendingCallbacks(ctx, since)
	return counts, callbacks, err
}

// drained waits until neither due nor started messages are left, nor callbacks
// without an attempt. Those that this process can't send are not waited for.
func (p *parts) drained(ctx context.Context, limit time.Duration, since outboxdb.TriedCallbacks) error {
	over := time.After(limit)
	for {
		counts, callbacks, err := p.left(ctx, since)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		for i, c := range counts {
			if p.opts.Refuse(c.Destination) != nil {
				counts[i].Waiting = 0
			}
		}
		if t := total(counts); t.Due+t.Leased+t.Retrying+t.Waiting+callbacks.Untried == 0 {
			return nil
		}
		select {
		case <-time.After(lookEvery):
		case <-over:
			return nil
		case <-ctx.Done():
			return nil
		case err := <-p.fatal:
			return fmt.Errorf("running the worker: %w", err)
		}
	}
}

// total sums counts over all destinations.
func total(counts []outboxdb.PendingCounts) outboxdb.PendingCounts {
	var t outboxdb.PendingCounts
	for _, c := range counts {
		t.Due += c.Due
		t.Delayed += c.Delayed
		t.Leased += c.Leased
		t.Retrying += c.Retrying
		t.Waiting += c.Waiting
	}
	return t
}

// report says what a single pass has left: at its end, or where it was stopped.
func report(out io.Writer, counts []outboxdb.PendingCounts, callbacks outboxdb.CallbackCounts, stopped bool) error {
	t := total(counts)
	fmt.Fprintf(out, "once: left %d in backoff, %d delayed, %d not started\n", t.Retrying+t.Waiting, t.Delayed, t.Due+t.Leased)
	for _, c := range counts {
		if n := c.Retrying + c.Waiting; n > 0 {
			fmt.Fprintf(out, "  %s: %d in backoff; last error: %s\n", outflow.DisplayDestination(c.Destination), n, c.LastError)
		}
	}
	if callbacks.Backoff+callbacks.Untried > 0 {
		fmt.Fprintf(out, "once: left %d callbacks in backoff, %d not tried\n", callbacks.Backoff, callbacks.Untried)
	}
	if callbacks.Backoff > 0 {
		fmt.Fprintf(out, "  last error of a callback: %s\n", callbacks.LastError)
	}
	until := "within the time limit"
	if stopped {
		until = "before the pass was stopped"
	}
	var errs []error
	if t.Due+t.Leased > 0 {
		errs = append(errs, fmt.Errorf("%d messages are due and were not delivered %s", t.Due+t.Leased, until))
	}
	if n := t.Retrying + t.Waiting; stopped && n > 0 {
		errs = append(errs, fmt.Errorf("%d messages are in backoff and were not delivered %s", n, until))
	}
	if callbacks.Untried > 0 {
		errs = append(errs, fmt.Errorf("%d callbacks are due and were not tried %s", callbacks.Untried, until))
	}
	return errors.Join(errs...)
}

package service

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/outflowhq/outflow/internal/config"
	"github.com/outflowhq/outflow/outboxdb"
)

const (
	// countInterval lies between two counts of the pending rows. A count reads them all.
	countInterval = 500 * time.Millisecond
	// lastCountTimeout bounds the last count, which a signal does not end.
	lastCountTimeout = 10 * time.Second
)

// Once makes a single pass. It delivers due messages, durable attempts included, and makes an
// attempt at each due callback. It ends when limit is over, when ctx ends, or when only these are
// left:
//   - delayed messages;
//   - messages that these settings can't send;
//   - messages whose destination is missing, and whose grace is not over;
//   - messages behind one of these, or behind a dead one, of their ordering key;
//   - callbacks in backoff.
//
// It writes the rest to out. Due messages that were not started are an error, unless their
// destination's breaker is open. A missing schedule is written; one that is there stays as it is.
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
	inTime, cancel := context.WithTimeout(context.WithoutCancel(ctx), lastCountTimeout)
	defer cancel()
	counts, callbacks, err := p.pending(inTime, since)
	if err != nil {
		return err
	}
	return report(out, counts, callbacks, ctx.Err() != nil)
}

// pending counts the pending messages, and the callbacks that are not sent.
func (p *parts) pending(
	ctx context.Context, since outboxdb.TriedCallbacks,
) ([]outboxdb.PendingCounts, outboxdb.CallbackCounts, error) {
	counts, err := p.store.Pending(ctx)
	if err != nil {
		return nil, outboxdb.CallbackCounts{}, err
	}
	callbacks, err := p.store.PendingCallbacks(ctx, since)
	return counts, callbacks, err
}

// drained waits until no due or started messages are left, and no callbacks without an attempt. It
// does not wait for messages that this process can't send.
func (p *parts) drained(ctx context.Context, limit time.Duration, since outboxdb.TriedCallbacks) error {
	over := time.After(limit)
	for {
		counts, callbacks, err := p.pending(ctx, since)
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		for i, c := range counts {
			if p.waitsElsewhere(c) {
				counts[i].Waiting = 0
			}
		}
		if t := total(counts); t.Due+t.Leased+t.Retrying+t.Waiting+callbacks.Untried == 0 {
			return nil
		}
		select {
		case <-time.After(countInterval):
		case <-over:
			return nil
		case <-ctx.Done():
			return nil
		case err := <-p.fatal:
			return fmt.Errorf("running the worker: %w", err)
		}
	}
}

// waitsElsewhere reports whether nothing in this pass ends the waiting of a destination's messages. A
// missing destination is no reason to stay: the scanner ends messages whose grace is over.
func (p *parts) waitsElsewhere(c outboxdb.PendingCounts) bool {
	if c.Missing {
		return c.MissedSeconds < missingGrace(p.opts.MissingGrace).Seconds()
	}
	return p.opts.Refuse(c.Destination) != nil
}

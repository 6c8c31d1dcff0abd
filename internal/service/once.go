package service

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/config"
	"github.com/outflowhq/outflow/outboxdb"
)

// lookEvery is the wait between two counts of what is left. Counting reads
// every pending row.
const lookEvery = 500 * time.Millisecond

// Once delivers what is due, durable attempts included, until nothing is left
// but delayed messages, or limit is over. It writes what is left in backoff to
// out. What is due and could not even be started is an error.
func Once(ctx context.Context, c config.Config, limit time.Duration, out io.Writer, log *slog.Logger) error {
	p, err := open(ctx, c, nameStarter, log)
	if err != nil {
		return err
	}
	defer p.close()
	scanning, stop := context.WithCancel(ctx)
	defer stop()
	scanned := p.scan(scanning)
	err = p.drained(ctx, limit)
	stop()
	<-scanned
	if err != nil {
		return err
	}
	counts, err := p.store.Pending(ctx)
	if err != nil {
		return err
	}
	return report(out, counts)
}

// drained waits until neither due nor started messages are left.
func (p *parts) drained(ctx context.Context, limit time.Duration) error {
	over := time.After(limit)
	for {
		counts, err := p.store.Pending(ctx)
		if err != nil {
			return err
		}
		if t := total(counts); t.Due+t.Leased+t.Retrying == 0 {
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
	}
	return t
}

// report says what a single pass has left.
func report(out io.Writer, counts []outboxdb.PendingCounts) error {
	t := total(counts)
	fmt.Fprintf(out, "once: left %d in backoff, %d delayed, %d not started\n", t.Retrying, t.Delayed, t.Due+t.Leased)
	for _, c := range counts {
		if c.Retrying > 0 {
			fmt.Fprintf(out, "  %s: %d in backoff; last error: %s\n", outflow.DisplayDestination(c.Destination), c.Retrying, c.LastError)
		}
	}
	if t.Due+t.Leased > 0 {
		return fmt.Errorf("%d messages are due and were not delivered within the time limit", t.Due+t.Leased)
	}
	return nil
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/jackc/pgx/v5"
)

// pacedCommits is how many commits a second producers make at most: at a higher rate each has more
// messages.
const pacedCommits = 100

// pacedWithin is how long messages may take after the last commit.
const pacedWithin = 2 * time.Minute

// paced is what was seen of a variant at one rate.
type paced struct {
	variant   string
	rate      float64 // asked for, in messages a second
	latencies []time.Duration
}

// measurePaces measures how long messages take from their commit to the queue service, at
// latencyRate and at half of each variant's own median rate.
func (w *world) measurePaces(ctx context.Context, s settings, results map[string][]result) ([]paced, error) {
	var all []paced
	for _, variant := range s.only {
		if !hasRows(variant) {
			continue
		}
		var rates []float64
		for _, r := range results[variant] {
			rates = append(rates, r.rate())
		}
		for _, rate := range []float64{latencyRate, median(rates) / 2} {
			fmt.Fprintf(w.stderr, "latency of %s at %.0f messages/s, for %s\n", variant, rate, s.paced)
			found, err := w.pace(ctx, variant, rate, s.paced)
			if err != nil {
				return nil, fmt.Errorf("measuring the latency of %s at %.0f messages/s: %w", variant, rate, err)
			}
			all = append(all, paced{variant, rate, found})
		}
	}
	return all, nil
}

// hasRows reports whether the variant has a table.
func hasRows(variant string) bool {
	return !slices.Contains([]string{floor, floorTwo, queueAlone}, variant)
}

func (w *world) pace(
	ctx context.Context, variant string, rate float64, during time.Duration,
) (_ []time.Duration, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, during+pacedWithin, errors.New("the messages were not delivered in time"))
	defer cancel()
	if err := w.cleanUp(ctx); err != nil {
		return nil, err
	}
	queue := fmt.Sprintf("bench-pace-%s-%.0f", variant, rate)
	r, err := w.startRows(ctx, variant, queue)
	defer func() { err = errors.Join(err, r.stop(ctx)) }()
	if err != nil {
		return nil, err
	}
	committed, err := commitAt(ctx, r.conn, r.source, queue, rate, during)
	if err != nil {
		return nil, err
	}
	if err := w.awaitArrivals(ctx, r.conn, r.source, r.dispatchers, len(committed)); err != nil {
		return nil, err
	}
	stats, err := w.queues.stats(ctx)
	if err != nil {
		return nil, err
	}
	return latencies(committed, stats.Arrived)
}

// commitAt commits as many messages as the rate and the time since the beginning ask for, and
// returns when each was committed.
func commitAt(
	ctx context.Context, conn *pgx.Conn, source source, queue string, rate float64, during time.Duration,
) (map[string]time.Time, error) {
	committed := map[string]time.Time{}
	ticks := time.NewTicker(time.Duration(float64(time.Second) / min(rate, pacedCommits)))
	defer ticks.Stop()
	for began := time.Now(); time.Since(began) < during; {
		select {
		case <-ticks.C:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		due := int(time.Since(began).Seconds()*rate) - len(committed)
		if due < 1 {
			continue
		}
		var ids []string
		err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) (err error) {
			ids, err = source.insert(ctx, tx, queue, load{messages: due}.bodies())
			return err
		})
		if err != nil {
			return nil, fmt.Errorf("enqueuing: %w", err)
		}
		now := time.Now()
		for _, id := range ids {
			committed[id] = now
		}
	}
	return committed, nil
}

func reportPaces(out io.Writer, all []paced) error {
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(t, "commit to queue\tmessages/s\tp50\tp99\t\n")
	for _, p := range all {
		fmt.Fprintf(t, "%s\t%.0f\t%.1f ms\t%.1f ms\t\n", p.variant, p.rate,
			milliseconds(percentile(p.latencies, 50)), milliseconds(percentile(p.latencies, 99)))
	}
	if err := t.Flush(); err != nil {
		return fmt.Errorf("printing the table: %w", err)
	}
	fmt.Fprintln(out)
	return nil
}

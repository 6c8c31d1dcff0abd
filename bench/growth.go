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

const (
	// growthSkip arrivals are before the window: processes start meanwhile.
	growthSkip = 1000
	// growthStart is how long a variant may take to its first arrivals.
	growthStart = 3 * time.Minute
	million     = 1_000_000
)

// grown is a table: rows that wait, and rows that were delivered before.
type grown struct {
	name          string
	waiting, done int
}

// growths are the tables. The first is what the others are compared with.
var growths = []grown{
	{"10k", 10_000, 0}, {"100k", 100_000, 0}, {"1m", million, 0}, {"delivered", 10_000, million},
}

// grow are the variants whose growth is measured.
var grow = []string{tracked, riverPeer, dbosPeer, watermillPeer, stream}

// growthRates are messages/s by variant and table, of each round.
type growthRates map[string]map[string][]float64

func (w *world) measureGrowth(ctx context.Context, s settings) (growthRates, error) {
	if err := w.prepareFills(ctx); err != nil {
		return nil, err
	}
	found := growthRates{}
	for round := range s.rounds {
		for _, g := range growths {
			for _, variant := range turn(chosen(s.only, grow), round) {
				rate, err := w.growth(ctx, variant, g, round, s.growth)
				if err != nil {
					return nil, fmt.Errorf("measuring %s with %d rows waiting and %d delivered: %w", variant, g.waiting, g.done, err)
				}
				fmt.Fprintf(w.stderr, "round %d: %-11s %-9s %7.1f messages/s\n", round+1, variant, g.name, rate)
				if found[variant] == nil {
					found[variant] = map[string][]float64{}
				}
				found[variant][g.name] = append(found[variant][g.name], rate)
			}
		}
	}
	return found, nil
}

// chosen are those of all that are asked for.
func chosen(only, all []string) []string {
	return slices.DeleteFunc(slices.Clone(all), func(variant string) bool { return !slices.Contains(only, variant) })
}

// growth fills the variant's table, starts its processes, and returns the rate of a window.
func (w *world) growth(
	ctx context.Context, variant string, g grown, round int, window time.Duration,
) (rate float64, err error) {
	queue := fmt.Sprintf("bench-growth-%s-%s-%d", variant, g.name, round+1)
	if err := w.fill(ctx, variant, queue, g); err != nil {
		return 0, err
	}
	if err := w.queues.reset(ctx); err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, growthStart+window, errors.New("too few messages arrived"))
	defer cancel()
	dispatchers, err := w.dispatchers(variant, queue)
	defer func() {
		for _, c := range dispatchers {
			err = errors.Join(err, c.stop())
		}
	}()
	if err != nil {
		return 0, err
	}
	if err := w.awaitWindow(ctx, dispatchers, g.waiting, window); err != nil {
		return 0, err
	}
	marks, err := w.queues.marks(ctx)
	if err != nil {
		return 0, err
	}
	return windowRate(marks, growthSkip, window)
}

// awaitWindow waits until all have arrived, or the window is over.
func (w *world) awaitWindow(ctx context.Context, dispatchers []*child, waiting int, window time.Duration) error {
	var over <-chan time.Time
	for {
		counts, err := w.queues.counts(ctx)
		if err != nil {
			return errors.Join(err, context.Cause(ctx))
		}
		if counts.Messages > counts.Different {
			return fmt.Errorf("counting what arrived: %d of %d came twice", counts.Messages-counts.Different, counts.Messages)
		}
		if counts.Different >= waiting {
			return nil
		}
		if over == nil && counts.Different >= growthSkip {
			over = time.After(window)
		}
		select {
		case <-over:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(lookEvery):
		}
		if err := alive(dispatchers); err != nil {
			return err
		}
	}
}

// windowRate is the rate of the arrivals after the first few, within a window. A mark is the time of
// each markEvery-th arrival.
func windowRate(marks []int64, skip int, window time.Duration) (float64, error) {
	first := skip/markEvery - 1
	last := first
	for i := range marks {
		if i > first && time.Duration(marks[i]-marks[first]) <= window {
			last = i
		}
	}
	if last <= first {
		return 0, fmt.Errorf("reading the window's rate: %d arrivals are too few", len(marks)*markEvery)
	}
	return float64((last-first)*markEvery) / time.Duration(marks[last]-marks[first]).Seconds(), nil
}

// fill empties the variant's table and fills it. What autovacuum would have done to a table that
// grew in hours is done for the peers. Outflow's table is left as it is: its autovacuum is what the
// migrations set.
func (w *world) fill(ctx context.Context, variant, queue string, g grown) error {
	conn, err := pgx.Connect(ctx, w.DatabaseURL)
	if err != nil {
		return fmt.Errorf("connecting to the database: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	source, fill := w.source(variant), fills[variant]
	statements := []string{"TRUNCATE " + source.tables + " CASCADE"}
	if g.done > 0 {
		statements = append(statements, fill.done(queue, g.done)...)
	}
	statements = append(statements, fill.waiting(queue, g.waiting)...)
	if fill.tables != "" {
		statements = append(statements, "VACUUM (ANALYZE) "+fill.tables)
	}
	for _, statement := range append(statements, "CHECKPOINT") {
		if _, err := conn.Exec(ctx, statement); err != nil {
			return fmt.Errorf("filling the table: %w", err)
		}
	}
	return nil
}

func reportGrowth(out io.Writer, s settings, found growthRates) error {
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(t, "\nmessages/s, rows waiting\t10,000\t100,000\t1,000,000\t10,000 beside 1,000,000 delivered\t\n")
	var lines []string
	for _, variant := range chosen(s.only, grow) {
		fmt.Fprint(t, variant)
		for i, g := range growths {
			rates := found[variant][g.name]
			fmt.Fprintf(t, "\t%.0f", median(rates))
			if i > 0 {
				over := median(ratios(rates, found[variant][growths[0].name]))
				lines = append(lines, fmt.Sprintf("ratio growth-%s-%s %.2f\n", variant, g.name, over))
			}
		}
		fmt.Fprint(t, "\t\n")
	}
	if err := t.Flush(); err != nil {
		return fmt.Errorf("printing the table: %w", err)
	}
	fmt.Fprintln(out)
	for _, line := range lines {
		fmt.Fprint(out, line)
	}
	return nil
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"text/tabwriter"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/outboxdb"
	"github.com/outflowhq/outflow/scanner/trigger"
)

const (
	// commitsFor is how long commits are counted, commitRounds how often, in turn.
	commitsFor   = 2 * time.Second
	commitRounds = 3
	// triggerTimeout is how long a trigger may take until it works.
	triggerTimeout = time.Minute
)

// producers are how many clients commit at once.
var producers = []int{1, 16}

// commits are the rates of producers' commits, by trigger and number of clients.
type commits map[string]map[int][]float64

// measureCommits measures what a trigger costs producers, in turn: commits of one message each, while
// a starter that is idle all the time gets the hints. Nothing delivers them.
func (w *world) measureCommits(ctx context.Context) (commits, error) {
	pool, err := pgxpool.New(ctx, w.DatabaseURL)
	if err != nil {
		return nil, fmt.Errorf("opening the database: %w", err)
	}
	defer pool.Close()
	found := commits{}
	for range commitRounds {
		for _, kind := range []string{byPoll, byListen, byWAL} {
			if found[kind] == nil {
				found[kind] = map[int][]float64{}
			}
			for _, clients := range producers {
				rate, err := w.commitsWith(ctx, pool, kind, clients)
				if err != nil {
					return nil, fmt.Errorf("counting commits with %s: %w", kind, err)
				}
				found[kind][clients] = append(found[kind][clients], rate)
			}
		}
	}
	return found, nil
}

func (w *world) commitsWith(ctx context.Context, pool *pgxpool.Pool, kind string, clients int) (rate float64, err error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	if _, err := pool.Exec(ctx, "TRUNCATE outbox.messages"); err != nil {
		return 0, fmt.Errorf("emptying the table: %w", err)
	}
	if kind := trigger.Kind(kind); kind.Hints() {
		t := trigger.New(kind, outboxdb.New(pool), trigger.Options{
			Connect: trigger.OfPool(pool.Config()), Logger: slog.New(slog.DiscardHandler),
		})
		var running sync.WaitGroup
		defer running.Wait()
		defer cancel()
		running.Go(func() { t.Run(ctx, func(int) {}) })
		if err := awaitIdle(ctx, t); err != nil {
			return 0, err
		}
	}
	var count atomic.Int64
	inTime, stop := context.WithTimeout(ctx, commitsFor)
	defer stop()
	errs := make([]error, clients)
	began := time.Now()
	var running sync.WaitGroup
	for i := range clients {
		running.Go(func() { errs[i] = w.commitUntil(inTime, &count) })
	}
	running.Wait()
	return float64(count.Load()) / time.Since(began).Seconds(), errors.Join(errs...)
}

// awaitIdle waits until the trigger works and its starter counts as idle.
func awaitIdle(ctx context.Context, t *trigger.Trigger) error {
	ctx, cancel := context.WithTimeoutCause(ctx, triggerTimeout, errors.New("the trigger does not work"))
	defer cancel()
	for {
		if _, works := t.Rest(ctx); works {
			return nil
		}
		if err := pause(ctx, lookEvery); err != nil {
			return fmt.Errorf("%w: %s", err, t.Problem())
		}
	}
}

// commitUntil commits one message after the other until ctx ends.
func (w *world) commitUntil(ctx context.Context, count *atomic.Int64) error {
	whole := context.WithoutCancel(ctx)
	conn, err := pgx.Connect(whole, w.DatabaseURL)
	if err != nil {
		return fmt.Errorf("connecting to the database: %w", err)
	}
	defer conn.Close(whole)
	message := outflow.Message{Destination: "sqs://bench-commits", Type: "order-placed", Payload: []byte(payload(0))}
	for ctx.Err() == nil {
		err := pgx.BeginFunc(whole, conn, func(tx pgx.Tx) error {
			_, err := outboxdb.Enqueue(whole, tx, message)
			return err
		})
		if err != nil {
			return fmt.Errorf("enqueuing: %w", err)
		}
		count.Add(1)
	}
	return nil
}

// report prints the medians.
func (c commits) report(out io.Writer) error {
	t := tabwriter.NewWriter(out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprint(t, "producers' commits/s")
	for _, clients := range producers {
		fmt.Fprintf(t, "\t%d clients", clients)
	}
	fmt.Fprint(t, "\t\n")
	for _, kind := range []string{byPoll, byListen, byWAL} {
		fmt.Fprint(t, kind)
		for _, clients := range producers {
			fmt.Fprintf(t, "\t%.0f", median(c[kind][clients]))
		}
		fmt.Fprint(t, "\t\n")
	}
	if err := t.Flush(); err != nil {
		return fmt.Errorf("printing the table: %w", err)
	}
	fmt.Fprintln(out)
	return nil
}

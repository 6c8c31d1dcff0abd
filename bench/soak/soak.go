package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/outboxdb"
)

const (
	// claimRows is what a claim takes, and what is enqueued in its place.
	claimRows    = 500
	destinations = 20
	purgeRows    = 1000
	// marks is how often an end is written until it is there.
	marks = 20
	// idlePurge is the wait of a purge that has caught up.
	idlePurge = 100 * time.Millisecond
)

// enqueue is a producer that writes many messages in one transaction.
const enqueue = `
INSERT INTO outbox.messages (id, destination, type, payload)
SELECT outbox.new_id(), 'sqs://orders-' || n % $2, 'order-placed', convert_to(repeat('x', 300), 'UTF8') FROM generate_series(1, $1::int) AS n`

// stock is what stands in the table for its retention. The soak's purge looks at delivered ones
// alone.
const stock = `
INSERT INTO outbox.messages (id, destination, type, payload, state, finished_at)
SELECT outbox.new_id(), 'sqs://orders-' || n % 20, 'order-placed', convert_to(repeat('x', 300), 'UTF8'), 'expired', now() FROM generate_series(1, $1::int) AS n`

const defaultAutovacuum = `
ALTER TABLE outbox.messages RESET (
    autovacuum_vacuum_threshold, autovacuum_vacuum_scale_factor, autovacuum_vacuum_insert_threshold, autovacuum_vacuum_insert_scale_factor,
    autovacuum_analyze_threshold, autovacuum_analyze_scale_factor, autovacuum_vacuum_cost_limit,
    toast.autovacuum_vacuum_threshold, toast.autovacuum_vacuum_scale_factor, toast.autovacuum_vacuum_cost_limit)`

// soak passes the messages through and looks at the table along the way. The first look is at a
// table that holds nothing but the backlog.
func soak(ctx context.Context, pool *pgxpool.Pool, s settings, out io.Writer) ([]look, error) {
	store := outboxdb.New(pool)
	if err := produce(ctx, pool, s.backlog); err != nil {
		return nil, err
	}
	purging, stop := context.WithCancel(ctx)
	defer stop()
	var purger errgroup.Group
	p := &purge{store: store, keep: s.keep}
	purger.Go(func() error { return p.run(purging) })

	heading(out)
	var looks []look
	began, since, passed, seen := time.Now(), time.Now(), 0, 0
	for passed < s.messages {
		if passed >= len(looks)*s.messages/(s.looks-1) {
			l := look{passed: passed, rate: rate(passed-seen, time.Since(since))}
			n, err := l.measure(ctx, pool, store)
			if err != nil {
				return looks, err
			}
			passed += n
			since, seen = time.Now(), passed
			l.print(out)
			looks = append(looks, l)
		}
		n, err := pass(ctx, pool, store)
		if err != nil {
			return looks, err
		}
		passed += n
	}
	l := look{passed: passed, rate: rate(passed-seen, time.Since(since))}
	if _, err := l.measure(ctx, pool, store); err != nil {
		return looks, err
	}
	l.print(out)
	stop()
	if err := purger.Wait(); err != nil {
		return looks, err
	}
	fmt.Fprintf(out, "%d messages passed in %s; %d purged, %.1f µs each\n", passed,
		time.Since(began).Round(time.Second),
		p.rows, float64(p.took.Microseconds())/float64(max(p.rows, 1)))
	return append(looks, l), nil
}

func rate(n int, d time.Duration) float64 { return float64(n) / max(d.Seconds(), 0.001) }

// pass claims some messages, ends them as delivered, and enqueues as many.
func pass(ctx context.Context, pool *pgxpool.Pool, store *outboxdb.Store) (int, error) {
	claimed, err := claim(ctx, store)
	if err != nil {
		return 0, err
	}
	return len(claimed.Messages), finish(ctx, pool, store, claimed)
}

func claim(ctx context.Context, store *outboxdb.Store) (outbox.Claimed, error) {
	for {
		claimed, err := store.Claim(ctx, outbox.ClaimRequest{Lease: time.Minute, MaxMessages: claimRows,
			MaxBytes: 64 << 20, Allowance: claimRows})
		if err != nil || len(claimed.Messages) > 0 {
			return claimed, err
		}
		time.Sleep(time.Millisecond) // the store looks for destinations now and then
	}
}

func finish(ctx context.Context, pool *pgxpool.Pool, store *outboxdb.Store, claimed outbox.Claimed) error {
	var ends errgroup.Group
	for _, m := range claimed.Messages {
		ends.Go(func() error {
			ending := outbox.Ending{Ref: m.Ref(), State: outflow.Delivered, BrokerMessageID: "soak", Attempts: 1}
			outcome, err := store.Finish(ctx, ending)
			// On a machine that stalls, a statement may be refused for its deadline. A delivery
			// marks again, too.
			for try := 1; err != nil && try < marks && ctx.Err() == nil; try++ {
				outcome, err = store.Finish(ctx, ending)
			}
			if err == nil && outcome.State != outflow.Delivered {
				err = fmt.Errorf("message %s ended %s", m.ID, outcome.State)
			}
			return err
		})
	}
	if err := ends.Wait(); err != nil {
		return err
	}
	return produce(ctx, pool, len(claimed.Messages))
}

func produce(ctx context.Context, pool *pgxpool.Pool, n int) error {
	if _, err := pool.Exec(ctx, enqueue, n, destinations); err != nil {
		return fmt.Errorf("enqueuing %d messages: %w", n, err)
	}
	return nil
}

// purge deletes what was delivered, as fast as it comes.
type purge struct {
	store *outboxdb.Store
	keep  time.Duration
	rows  int
	took  time.Duration
}

func (p *purge) run(ctx context.Context) error {
	request := outbox.Purge{State: outflow.Delivered, OlderThan: p.keep, Limit: purgeRows}
	for {
		began := time.Now()
		purged, err := p.store.PurgeMessages(ctx, request)
		if ctx.Err() != nil {
			return nil
		}
		if errors.Is(err, context.DeadlineExceeded) {
			continue // it was rolled back
		}
		if err != nil {
			return err
		}
		if purged.Rows > 0 {
			p.rows, p.took = p.rows+purged.Rows, p.took+time.Since(began)
		}
		request.After = purged.UpTo
		if purged.Rows == purgeRows {
			continue
		}
		select {
		case <-time.After(idlePurge):
		case <-ctx.Done():
			return nil
		}
	}
}

var errNothingCounted = errors.New("pg_stat_statements has counted no claim")

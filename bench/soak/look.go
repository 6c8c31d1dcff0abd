package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outflowhq/outflow/outboxdb"
)

// samples is how many claims a look measures. They are claims like all others.
const samples = 15

// look is the table and what a claim costs at one moment.
type look struct {
	passed int
	rate   float64 // messages/s since the look before
	// claim is the median time of the statements that one Claim sends, as their caller sees it, and
	// buffers the median of the pages that they read or hit in memory.
	claim                     time.Duration
	buffers                   int64
	live, dead                int64
	table, indexes, claimable int64 // bytes; claimable is the claim index
	vacuums                   int64
}

// counted is what the claim, the walk and the unparking before it have read so far.
const counted = `
SELECT coalesce(sum(shared_blks_hit + shared_blks_read), 0)::bigint
  FROM pg_stat_statements
 WHERE query LIKE '%SET available_at = now() + $%::interval, parked = %claims = m.claims +%' OR query LIKE '%WITH RECURSIVE targets%'
    OR query LIKE '%WITH RECURSIVE visits%'`

const standing = `
SELECT s.n_live_tup, s.n_dead_tup, pg_table_size(s.relid), pg_indexes_size(s.relid),
       pg_relation_size('outbox.messages_claim'), s.autovacuum_count
  FROM pg_stat_user_tables AS s
 WHERE s.relid = 'outbox.messages'::regclass`

// measure fills the look by claims of its own, which it also ends, and returns how many messages
// those were.
func (l *look) measure(ctx context.Context, pool *pgxpool.Pool, store *outboxdb.Store) (passed int, err error) {
	var times []time.Duration
	var buffers []int64
	for range samples {
		var before, after int64
		if err := pool.QueryRow(ctx, counted).Scan(&before); err != nil {
			return passed, fmt.Errorf("reading pg_stat_statements: %w", err)
		}
		began := time.Now()
		claimed, err := claim(ctx, store)
		if err != nil {
			return passed, err
		}
		took := time.Since(began)
		if err := pool.QueryRow(ctx, counted).Scan(&after); err != nil {
			return passed, fmt.Errorf("reading pg_stat_statements: %w", err)
		}
		if after == before {
			return passed, errNothingCounted
		}
		if err := finish(ctx, pool, store, claimed); err != nil {
			return passed, err
		}
		passed += len(claimed.Messages)
		if len(claimed.Messages) == claimRows { // one that found less is no claim like the others
			times, buffers = append(times, took), append(buffers, after-before)
		}
	}
	l.claim, l.buffers = middle(times), middle(buffers)
	err = pool.QueryRow(ctx, standing).Scan(&l.live, &l.dead, &l.table, &l.indexes, &l.claimable, &l.vacuums)
	if err != nil {
		return passed, fmt.Errorf("reading the table's statistics: %w", err)
	}
	return passed, nil
}

func middle[T ~int64](values []T) T {
	if len(values) == 0 {
		return 0
	}
	slices.Sort(values)
	return values[len(values)/2]
}

func heading(out io.Writer) {
	fmt.Fprintf(out, "claims of %d messages; buffers and time are medians of %d\n", claimRows, samples)
	fmt.Fprintf(out, "%10s %8s %9s %9s %9s %9s %8s %8s %9s %7s\n",
		"passed", "per s", "claim ms", "buffers", "live", "dead", "table MB", "index MB", "claim MB", "vacuums")
}

func (l look) print(out io.Writer) {
	mb := func(bytes int64) float64 { return float64(bytes) / (1 << 20) }
	fmt.Fprintf(out, "%10d %8.0f %9.1f %9d %9d %9d %8.0f %8.0f %9.1f %7d\n", l.passed, l.rate,
		float64(l.claim.Microseconds())/1000, l.buffers, l.live, l.dead, mb(l.table), mb(l.indexes), mb(l.claimable), l.vacuums)
}

// summary compares what a claim cost in the second half with the start: lines for scripts, as
// bench's.
func summary(out io.Writer, looks []look) {
	fmt.Fprintf(out, "ratio claim-buffers %.2f\nratio claim-time %.2f\n",
		ratio(looks, pages), ratio(looks, func(l look) float64 { return float64(l.claim) }))
}

func pages(l look) float64 { return float64(l.buffers) }

// judge fails where a claim touches more than bound times the pages of the start. The time is not
// judged: other work on the machine changes it.
func judge(looks []look, bound float64) error {
	switch grown := ratio(looks, pages); {
	case bound == 0:
		return nil
	case looks[0].buffers == 0 || grown == 0:
		return errors.New("no claim at the start, or later, was a whole one: there is nothing to compare")
	case grown > bound:
		return fmt.Errorf("a claim touches %.2f times the pages of the start: the bound is %g", grown, bound)
	}
	return nil
}

// ratio is the median of the second half's looks over the first look.
func ratio(looks []look, of func(look) float64) float64 {
	var later []float64
	for _, l := range looks[len(looks)/2:] {
		later = append(later, of(l))
	}
	slices.Sort(later)
	return later[len(later)/2] / max(of(looks[0]), 1)
}

package outboxdb

import (
	"context"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// PendingCounts counts the pending messages of one destination.
type PendingCounts struct {
	Destination string `db:"destination"`
	// Due messages wait for a scanner, Delayed ones for their time; Leased ones
	// are on the fast path; Retrying ones wait for or are in a durable attempt.
	Due      int `db:"due"`
	Delayed  int `db:"delayed"`
	Leased   int `db:"leased"`
	Retrying int `db:"retrying"`
	// Waiting messages have no run: a breaker of their destination is open, its last
	// attempt put them back, or the scanner may not send to it.
	Waiting int `db:"waiting"`
	// LastError is the last error of one that is retrying or waits.
	LastError string `db:"last_error"`
}

// Pending counts the pending messages by destination. It reads every pending
// row: a question for an operator or an exit message, not for a loop.
func (s *Store) Pending(ctx context.Context) ([]PendingCounts, error) {
	rows, err := s.pool.Query(ctx, pendingCounts)
	if err != nil {
		return nil, fmt.Errorf("counting pending messages: %w", err)
	}
	counts, err := pgx.CollectRows(rows, pgx.RowToStructByName[PendingCounts])
	if err != nil {
		return nil, fmt.Errorf("counting pending messages: %w", err)
	}
	return counts, nil
}

package outboxdb

import (
	"context"
	"fmt"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// CallbackCounts counts the callbacks that are still to be sent.
type CallbackCounts struct {
	// Untried have had no attempt, or none since the moment of the TriedCallbacks; Backoff wait for
	// their next one.
	Untried int `db:"untried"`
	Backoff int `db:"backoff"`
	// LastError is one of those in backoff.
	LastError string `db:"last_error"`
}

// TriedCallbacks are callbacks that were due again at some moment, with the attempts
// that each had had. The zero value has none.
type TriedCallbacks struct {
	ids      []uuid.UUID
	attempts []int32
}

// mostTried bounds TriedCallbacks: such callbacks have lost their runs, which is rare.
const mostTried = 10_000

const triedCallbacks = `
SELECT m.id, m.callback_attempts
  FROM outbox.messages AS m
 WHERE m.callback_state = 'due' AND m.callback_due_at <= now() AND m.callback_attempts > 0
 ORDER BY m.callback_due_at
 LIMIT $1`

// pendingCallbacks takes one for untried until its first attempt has failed, while it
// is due, and while it has had no attempt more than at that moment ($1, $2).
const pendingCallbacks = `
SELECT count(*) FILTER (WHERE c.untried) AS untried, count(*) FILTER (WHERE NOT c.untried) AS backoff,
       coalesce(max(c.callback_error) FILTER (WHERE NOT c.untried), '') AS last_error
  FROM (SELECT m.callback_error,
               m.callback_error IS NULL OR m.callback_due_at <= now()
               OR EXISTS (SELECT FROM unnest($1::uuid[], $2::int[]) AS t (id, attempts)
                           WHERE t.id = m.id AND t.attempts = m.callback_attempts) AS untried
          FROM outbox.messages AS m
         WHERE m.callback_state = 'due') AS c`

// TriedCallbacks returns those callbacks that are due now and have had an attempt
// before: whoever had them in hand is gone.
func (s *Store) TriedCallbacks(ctx context.Context) (t TriedCallbacks, err error) {
	rows, err := s.pool.Query(ctx, triedCallbacks, mostTried)
	if err != nil {
		return TriedCallbacks{}, fmt.Errorf("looking for due callbacks: %w", err)
	}
	var id uuid.UUID
	var attempts int32
	_, err = pgx.ForEachRow(rows, []any{&id, &attempts}, func() error {
		t.ids, t.attempts = append(t.ids, id), append(t.attempts, attempts)
		return nil
	})
	if err != nil {
		return TriedCallbacks{}, fmt.Errorf("looking for due callbacks: %w", err)
	}
	return t, nil
}

// PendingCallbacks counts the callbacks that are still to be sent. It reads
// each of them: a question for an exit message, not for a loop.
func (s *Store) PendingCallbacks(ctx context.Context, since TriedCallbacks) (CallbackCounts, error) {
	rows, err := s.pool.Query(ctx, pendingCallbacks, since.ids, since.attempts)
	if err != nil {
		return CallbackCounts{}, fmt.Errorf("counting callbacks: %w", err)
	}
	counts, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[CallbackCounts])
	if err != nil {
		return CallbackCounts{}, fmt.Errorf("counting callbacks: %w", err)
	}
	return counts, nil
}

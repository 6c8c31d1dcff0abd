package outboxdb

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/jackc/pgx/v5"

	"github.com/outflowhq/outflow"
)

const (
	// deferredKeys bounds the ordering keys of one ReleaseDeferred.
	deferredKeys = 100
	// expiredRows bounds a statement that ends followers that have expired.
	expiredRows = 500
)

// deferredSQL are the next $1 ordering keys whose next message is still to be released, the oldest first.
const deferredSQL = `
SELECT o.destination, o.ordering_key
  FROM outbox.deferred_releases AS o GROUP BY o.destination, o.ordering_key ORDER BY min(o.id) LIMIT $1`

// settleSQL releases the next message of a key. It is one transaction: no two keys wait for each
// other.
const settleSQL = `SELECT outbox.settle($1::text, $2::text)`

// expireFollowersSQL ends those of the next $3 followers of an ordering key that have expired. To end a
// follower releases nothing, so it needs no key, and passes over a row that another session has locked.
//   - As in purge.go, the limit is a query of its own.
//   - "locked" says of a row under its lock whether it still waits. As a condition there, that would
//     have the planner expect one row, and compare each with every other.
//   - The planner takes an array for ten rows, so the update finds its rows by primary key.
const expireFollowersSQL = `
WITH next AS MATERIALIZED (
    SELECT m.id
      FROM outbox.messages AS m
     WHERE m.follower AND m.destination = $1::text AND m.ordering_key = $2::text
     ORDER BY m.seq
     LIMIT (SELECT $3::int)
), locked AS MATERIALIZED (
    SELECT m.id, m.head, m.generation, m.follower AND m.expires_at <= now() AS over
      FROM outbox.messages AS m
     WHERE m.id = ANY (ARRAY(SELECT n.id FROM next AS n)) ORDER BY m.id FOR NO KEY UPDATE SKIP LOCKED
), ends AS (
    SELECT l.id, l.generation, 'expired' AS state, 0 AS attempts, NULL::text AS broker_message_id,
           'expired: it waited for the messages before it of its ordering key' AS last_error,
           interval '0' AS callback_in, false AS blocks, false AS was_head
      FROM unnest(ARRAY(SELECT id FROM locked WHERE over), ARRAY(SELECT generation FROM locked WHERE over))
           AS l (id, generation)
)` + endingSQL + endRowsSQL + outcomeColumnsSQL + endedSQL + `
SELECT e.*, ` + releasedSQL + ` FROM ended AS e WHERE ` + notifiedSQL

// orderedKey is an ordering key of a destination.
type orderedKey struct{ destination, key string }

// ReleaseDeferred releases the next messages of ordering keys that nobody could release in time: a
// producer had locked the key, or an operator its next message. It ends the next messages that have
// expired, many at a time; the next Claim returns them. ReleaseDeferred reports whether some keys are still
// deferred. Concurrent calls are harmless.
func (s *Store) ReleaseDeferred(ctx context.Context) (left bool, err error) {
	rows, err := s.pool.Query(ctx, deferredSQL, deferredKeys)
	if err != nil {
		return false, fmt.Errorf("looking for ordering keys to release: %w", err)
	}
	deferred, err := pgx.CollectRows(rows, func(r pgx.CollectableRow) (k orderedKey, err error) {
		return k, r.Scan(&k.destination, &k.key)
	})
	if err != nil {
		return false, fmt.Errorf("looking for ordering keys to release: %w", err)
	}
	left = len(deferred) == deferredKeys
	var errs []error
	released := false
	for _, k := range deferred {
		settled, promoted, err := s.settle(ctx, k)
		if err != nil {
			errs = append(errs, fmt.Errorf("releasing the next message of an ordering key: %w", err))
		}
		left, released = left || !settled, released || promoted
	}
	if released {
		s.noteReleased()
	}
	return left, errors.Join(errs...)
}

// settle releases the next message of a key that has not expired, and ends those before it. settled is
// false where another session holds the key, or one of its messages.
func (s *Store) settle(ctx context.Context, k orderedKey) (settled, promoted bool, err error) {
	for {
		var done string
		if err := s.pool.QueryRow(ctx, settleSQL, k.destination, k.key).Scan(&done); err != nil {
			return false, false, err
		}
		if done != "expired" {
			return done != "locked", done == "promoted", nil
		}
		ended, err := s.expireFollowers(ctx, k)
		if err != nil || ended == 0 {
			return false, false, err
		}
	}
}

// expireFollowers ends the next followers of a key that have expired, and returns how many.
func (s *Store) expireFollowers(ctx context.Context, k orderedKey) (ended int, err error) {
	rows, err := s.pool.Query(ctx, expireFollowersSQL, k.destination, k.key, expiredRows)
	if err != nil {
		return 0, fmt.Errorf("ending messages that have expired: %w", err)
	}
	outcomes, err := pgx.CollectRows(rows, func(r pgx.CollectableRow) (outflow.Outcome, error) {
		found, err := pgx.RowToStructByNameLax[row](r)
		return found.record().Outcome(), err
	})
	if err != nil {
		return 0, fmt.Errorf("ending messages that have expired: %w", err)
	}
	s.expired.add(outcomes)
	return len(outcomes), nil
}

// endedMessages are messages that this Store has ended beside a claim.
type endedMessages struct {
	mu       sync.Mutex
	outcomes []outflow.Outcome
}

func (e *endedMessages) add(outcomes []outflow.Outcome) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.outcomes = append(e.outcomes, outcomes...)
}

// take returns those since the last take.
func (e *endedMessages) take() []outflow.Outcome {
	e.mu.Lock()
	defer e.mu.Unlock()
	taken := e.outcomes
	e.outcomes = nil
	return taken
}

// OnRelease has released called whenever this Store has released a message that waited for another
// of its ordering key: it may be claimed now. released must not block. A nil one ends that, and then
// an idle starter is told.
func (s *Store) OnRelease(released func()) { s.released.Store(&released) }

func (s *Store) noteReleased() {
	if released := s.released.Load(); released != nil && *released != nil {
		(*released)()
		return
	}
	s.hintSoon()
}

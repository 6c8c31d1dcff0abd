package outboxdb

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
)

// owedKeys bounds the ordering keys of one ReleaseOwed.
const owedKeys = 100

// owedSQL are the next $1 ordering keys whose next message is still to be released, the oldest first.
const owedSQL = `
SELECT o.destination, o.ordering_key
  FROM outbox.owed AS o GROUP BY o.destination, o.ordering_key ORDER BY min(o.id) LIMIT $1`

// settleSQL releases the next message of a key. It is one transaction: no two keys wait for each
// other.
const settleSQL = `SELECT outbox.settle($1::text, $2::text)`

// ReleaseOwed releases the next messages of ordering keys that nobody could release in time: a
// producer had locked the key, or an operator its next message. It reports whether some are still
// owed. Concurrent calls are harmless.
func (s *Store) ReleaseOwed(ctx context.Context) (left bool, err error) {
	rows, err := s.pool.Query(ctx, owedSQL, owedKeys)
	if err != nil {
		return false, fmt.Errorf("looking for ordering keys to release: %w", err)
	}
	type key struct{ destination, key string }
	owed, err := pgx.CollectRows(rows, func(r pgx.CollectableRow) (k key, err error) {
		return k, r.Scan(&k.destination, &k.key)
	})
	if err != nil {
		return false, fmt.Errorf("looking for ordering keys to release: %w", err)
	}
	left = len(owed) == owedKeys
	var errs []error
	released := false
	for _, k := range owed {
		var settled bool
		if err := s.pool.QueryRow(ctx, settleSQL, k.destination, k.key).Scan(&settled); err != nil {
			errs = append(errs, fmt.Errorf("releasing the next message of an ordering key: %w", err))
		}
		left, released = left || !settled, released || settled
	}
	if released {
		s.noteReleased()
	}
	return left, errors.Join(errs...)
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

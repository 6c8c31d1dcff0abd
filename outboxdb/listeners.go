package outboxdb

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/outflowhq/outflow/outbox"
)

const (
	// restTimeout bounds a look of an idle starter: a held snapshot may make it slow.
	restTimeout = 2 * time.Second
	// restVisits bounds the destinations behind open breakers that the look passes.
	restVisits = 50
	// farAway stands for a time at which nothing is due.
	farAway = 24 * time.Hour
	// hintLinger gathers what is told to idle starters together.
	hintLinger = 50 * time.Millisecond
)

// ListenEcho is the notification that a registration sends to its own connection.
const ListenEcho = "registered"

// keepListenerSQL registers the connection $1 for half a minute, and notifies it of that on $3: the proof
// that notifications arrive there. $2 is Listener.ByProducers.
const keepListenerSQL = `
WITH kept AS (
    INSERT INTO outbox.listeners AS l (id, expires_at, by_producers) VALUES ($1, now() + interval '30 seconds', $2)
    ON CONFLICT (id) DO UPDATE SET expires_at = excluded.expires_at
), gone AS (
    DELETE FROM outbox.listeners AS l
     WHERE l.id IN (SELECT o.id FROM outbox.listeners AS o WHERE o.expires_at <= now() FOR UPDATE SKIP LOCKED)
)
SELECT pg_catalog.pg_notify($3, '` + ListenEcho + `')`

const dropListenerSQL = `DELETE FROM outbox.listeners AS l WHERE l.id = $1`

// restSQL says that the starter of the connection $1 is idle, and returns an outbox.Rest.
//   - visited are destinations with messages that are not parked, as long as their breakers are open,
//     and at most $2. A message of any other may be claimed.
//   - Of parked messages it reads the first second in which one is due. Those that were due a minute
//     ago are left to claims, so that a held snapshot does not make it crawl over dead rows.
//   - A breaker is looked at once a second at most, also where nothing is left to probe it with.
const restSQL = `
WITH RECURSIVE began AS (
    UPDATE outbox.listeners AS l SET idle = true WHERE l.id = $1 AND NOT l.idle AND l.expires_at > now()
    RETURNING l.id
), visited AS (
    (SELECT m.destination, 1 AS place
       FROM outbox.messages AS m
      WHERE m.state = 'pending' AND NOT m.parked
      ORDER BY m.destination
      LIMIT 1)
    UNION ALL
    SELECT next.destination, v.place + 1
      FROM visited AS v
     CROSS JOIN LATERAL (
           SELECT m.destination
             FROM outbox.messages AS m
            WHERE m.state = 'pending' AND NOT m.parked AND m.destination > v.destination
            ORDER BY m.destination
            LIMIT 1) AS next
     WHERE v.place < $2::int AND ` + behindBreakerSQL + `
)
SELECT EXISTS (SELECT FROM outbox.listeners AS l WHERE l.id = $1 AND l.expires_at > now()) AS registered,
       EXISTS (SELECT FROM began) AS began,
       EXISTS (SELECT FROM outbox.listeners AS l WHERE l.reads_until > now()) AS log_read,
       EXISTS (SELECT FROM visited AS v WHERE v.place >= $2::int OR NOT ` + behindBreakerSQL + `) AS due,
       least(
           (SELECT ` + SecondOfSQL + `
              FROM outbox.messages AS m
             WHERE m.state = 'pending' AND m.parked AND ` + SecondOfSQL + ` >= now() - interval '1 minute'
             ORDER BY ` + SecondOfSQL + `
             LIMIT 1),
           (SELECT m.callback_due_at FROM outbox.messages AS m
             WHERE m.callback_state = 'due' ORDER BY m.callback_due_at LIMIT 1),
           (SELECT greatest(now() + interval '1 second', min(greatest(d.open_until, d.probe_until)))
              FROM outbox.destinations AS d WHERE d.open_until IS NOT NULL HAVING count(*) > 0),
           CASE WHEN EXISTS (SELECT FROM outbox.deferred_releases)
                  OR EXISTS (SELECT FROM outbox.destinations AS d WHERE d.recovered_at IS NOT NULL)
                  OR EXISTS (SELECT FROM outbox.destinations AS d WHERE d.missing_since IS NOT NULL)
                  OR EXISTS (SELECT FROM outbox.destinations AS h WHERE ` + staleSQL + `)
                THEN now() + interval '1 second' END,
           CASE WHEN EXISTS (SELECT FROM outbox.pages) THEN now() + interval '30 seconds' END,
           now() + $3::interval) - now() AS next_in`

// behindBreakerSQL says of a destination v that a breaker of it is open. That of a target's new
// destinations is left out: it may not cover this one.
const behindBreakerSQL = `EXISTS (
               SELECT FROM outbox.destinations AS d
                WHERE d.open_until IS NOT NULL AND d.destination NOT LIKE '%#new'
                  AND v.destination >= d.covers_from AND v.destination < d.covers_before)`

// passOnSQL says that the starter of the connection $1 has no room. Where $2 says so, another one is
// told.
const passOnSQL = `
WITH busy AS (
    UPDATE outbox.listeners AS l SET idle = false WHERE l.id = $1 AND l.idle
)
SELECT outbox.hint($3, full_starter => $1) WHERE $2::boolean`

const hintSQL = `SELECT outbox.hint()`

// keepReaderSQL notes that the starter of the connection $1 reads the log, for $2, and no other does.
const keepReaderSQL = `
UPDATE outbox.listeners AS l
   SET reads_until = CASE WHEN l.id = $1 THEN now() + $2::interval END
 WHERE l.id = $1 OR l.reads_until IS NOT NULL`

// DueChannel is the channel on which a connection listens for new messages.
func DueChannel(listener uuid.UUID) string {
	hash := sha256.Sum256(listener[:])
	return "outflow_due_" + hex.EncodeToString(hash[:8])
}

// KeepListener registers a connection that listens on its DueChannel, and notifies it with ListenEcho.
// The caller repeats it every outbox.ListenInterval.
func (s *Store) KeepListener(ctx context.Context, l outbox.Listener) error {
	if _, err := s.pool.Exec(ctx, keepListenerSQL, l.ID, l.ByProducers, DueChannel(l.ID)); err != nil {
		return fmt.Errorf("registering a connection that listens for messages: %w", err)
	}
	return nil
}

// DropListener ends a registration.
func (s *Store) DropListener(ctx context.Context, id uuid.UUID) error {
	if _, err := s.pool.Exec(ctx, dropListenerSQL, id); err != nil {
		return fmt.Errorf("ending the registration of a connection that listened for messages: %w", err)
	}
	return nil
}

// Rest says that the starter of a registered connection is idle, and looks at what it may wait for.
func (s *Store) Rest(ctx context.Context, listener uuid.UUID) (outbox.Rest, error) {
	inTime, cancel := context.WithTimeout(ctx, restTimeout)
	defer cancel()
	rows, err := s.pool.Query(inTime, restSQL, listener, restVisits, farAway)
	if err != nil {
		return outbox.Rest{}, fmt.Errorf("looking at what is due next: %w", err)
	}
	rest, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[outbox.Rest])
	if err != nil {
		return outbox.Rest{}, fmt.Errorf("looking at what is due next: %w", err)
	}
	return rest, nil
}

// PassOn says that the starter of a registered connection has no room. It tells another starter of
// messages, unless the hint was passed on outbox.MaxPassed times.
func (s *Store) PassOn(ctx context.Context, listener uuid.UUID, passed int) error {
	if _, err := s.pool.Exec(ctx, passOnSQL, listener, passed < outbox.MaxPassed, passed+1); err != nil {
		return fmt.Errorf("telling another starter of messages: %w", err)
	}
	return nil
}

// KeepReader notes that the starter of a registered connection, and no other, reads the log for all
// starters. The zero ID says that none does.
func (s *Store) KeepReader(ctx context.Context, listener uuid.UUID, lasts time.Duration) error {
	if _, err := s.pool.Exec(ctx, keepReaderSQL, listener, lasts); err != nil {
		return fmt.Errorf("noting that this starter reads the log: %w", err)
	}
	return nil
}

// hintSoon tells an idle starter, in the background, that something may be due earlier than it knows:
// what this process wrote is no producer's insert. A hint that gets lost costs seconds.
func (s *Store) hintSoon() {
	if !s.hinting.CompareAndSwap(false, true) {
		return
	}
	time.AfterFunc(hintLinger, func() {
		s.hinting.Store(false)
		ctx, cancel := context.WithTimeout(context.Background(), restTimeout)
		defer cancel()
		_, _ = s.pool.Exec(ctx, hintSQL)
	})
}

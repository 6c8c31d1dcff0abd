package outboxdb

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/outflowhq/outflow/internal/text"
	"github.com/outflowhq/outflow/outbox"
)

const (
	// servedFor is how long a Store believes what it read of the running processes.
	servedFor = 5 * time.Second
	// forgetAfter is how long the entry of a process that crashed is kept, for whoever looks.
	forgetAfter = 24 * time.Hour
)

// RunsSQL says of an entry p of outbox.processes that its process runs: a busy database may take an
// entry some seconds late. An orderly end removes the entry at once.
const RunsSQL = `p.seen_at > now() - interval '1 minute'`

// servesSQL says that the process of announceSQL publishes to the scheme of a row h of
// outbox.destinations.
const servesSQL = `($4::text[] IS NULL OR rtrim(h.destination, ':') = ANY ($4::text[]))`

// announceSQL writes a process's entry: $1 its ID, $2 its name, $3 its host, $4 its schemes (NULL: it
// does not say), $5 whether it claims messages, $7 its trigger, $8 why that does not work. Entries of
// processes that were not seen for $6 are deleted. Of schemes that were noted as published to by nobody:
//   - those that it publishes to are waited for no more
//   - where no process was running, the grace of the others begins again: whoever publishes to them
//     may be on its way, too
const announceSQL = `
WITH here AS (
    INSERT INTO outbox.processes AS p (id, name, host, schemes, scans, trigger, trigger_problem)
    VALUES ($1, $2, $3, $4, $5, $7, $8)
    ON CONFLICT (id) DO UPDATE
       SET seen_at = now(), schemes = excluded.schemes, scans = excluded.scans, trigger = excluded.trigger,
           trigger_problem = excluded.trigger_problem
), gone AS (
    DELETE FROM outbox.processes AS p
     WHERE p.id IN (SELECT o.id FROM outbox.processes AS o WHERE o.seen_at < now() - $6::interval
                       FOR UPDATE SKIP LOCKED)
)
UPDATE outbox.destinations AS h
   SET missing_since = CASE WHEN NOT ` + servesSQL + ` THEN now() END,
       missing_reason = CASE WHEN NOT ` + servesSQL + ` THEN h.missing_reason END
 WHERE h.missing_since IS NOT NULL AND ` + isSchemeSQL + `
   AND (` + servesSQL + ` OR NOT EXISTS (SELECT FROM outbox.processes AS p WHERE ` + RunsSQL + `))`

const withdrawSQL = `DELETE FROM outbox.processes AS p WHERE p.id = $1`

// servedSQL returns the schemes that running processes publish to, and whether one of these claims
// messages. The scheme of a process that does not say is empty.
const servedSQL = `
SELECT s.scheme, bool_or(s.scans) AS scans
  FROM (SELECT pg_catalog.unnest(coalesce(p.schemes, ARRAY['']::text[])) AS scheme, p.scans
          FROM outbox.processes AS p
         WHERE ` + RunsSQL + `) AS s
 GROUP BY s.scheme`

// Announce says that a process runs, and which schemes it publishes to. The caller repeats it every
// outbox.AnnounceInterval.
func (s *Store) Announce(ctx context.Context, p outbox.Process) error {
	s.serving.announced(p.Schemes)
	_, err := s.pool.Exec(ctx, announceSQL, p.ID, p.Name, p.Host, p.Schemes, p.Scans, forgetAfter,
		orNull(p.Trigger), orNull(text.Clean(p.TriggerProblem)))
	if err != nil {
		return fmt.Errorf("noting that this process runs: %w", err)
	}
	return nil
}

// Withdraw says that a process runs no more.
func (s *Store) Withdraw(ctx context.Context, id uuid.UUID) error {
	if _, err := s.pool.Exec(ctx, withdrawSQL, id); err != nil {
		return fmt.Errorf("noting that this process ends: %w", err)
	}
	return nil
}

// serving is what a Store knows of the running processes.
type serving struct {
	mu      sync.Mutex
	readAt  time.Time
	schemes map[string]outbox.Served
	own     []string // what this process has announced; nil: it does not say
}

func (k *serving) announced(schemes []string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.own = schemes
}

// leftToOthers returns the schemes that another process claims messages of and publishes to, and
// those that this process publishes to all the same. Nil for the latter: it may publish to any. An
// empty scheme of others stands for any.
func (s *Store) leftToOthers(ctx context.Context) (others, own []string, err error) {
	schemes, err := s.servedSchemes(ctx)
	if err != nil {
		return nil, nil, err
	}
	for scheme, served := range schemes {
		if served == outbox.ServedByScanners {
			others = append(others, scheme)
		}
	}
	s.serving.mu.Lock()
	defer s.serving.mu.Unlock()
	return others, s.serving.own, nil
}

// Served says which running processes publish to a destination's scheme. What it says may be some
// seconds old.
func (s *Store) Served(ctx context.Context, destination string) (outbox.Served, error) {
	schemes, err := s.servedSchemes(ctx)
	return servedBy(schemes, destination), err
}

func servedBy(schemes map[string]outbox.Served, destination string) outbox.Served {
	return max(schemes[""], schemes[outbox.SchemeOf(destination)])
}

// servedSchemes returns the schemes that running processes publish to.
func (s *Store) servedSchemes(ctx context.Context) (map[string]outbox.Served, error) {
	k := &s.serving
	k.mu.Lock()
	defer k.mu.Unlock()
	if time.Since(k.readAt) < servedFor {
		return k.schemes, nil
	}
	rows, err := s.pool.Query(ctx, servedSQL)
	if err != nil {
		return nil, fmt.Errorf("reading which processes run: %w", err)
	}
	schemes := map[string]outbox.Served{}
	var scheme string
	var scans bool
	_, err = pgx.ForEachRow(rows, []any{&scheme, &scans}, func() error {
		schemes[scheme] = outbox.ServedByWorkers
		if scans {
			schemes[scheme] = outbox.ServedByScanners
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("reading which processes run: %w", err)
	}
	k.schemes, k.readAt = schemes, time.Now()
	return schemes, nil
}

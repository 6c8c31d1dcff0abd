package outboxdb

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outflowhq/outflow/internal/database"
	"github.com/outflowhq/outflow/outbox"
)

// tableHealthSQL reads the server's statistics, and no row of the table.
const tableHealthSQL = `
SELECT s.n_live_tup AS live_rows, s.n_dead_tup AS dead_rows,
       pg_catalog.pg_table_size(s.relid) AS table_bytes, pg_catalog.pg_indexes_size(s.relid) AS index_bytes,
       s.last_vacuum, s.last_autovacuum
  FROM pg_stat_user_tables AS s
 WHERE s.relid = 'outbox.messages'::regclass::oid`

// heldSnapshotsSQL are the snapshots that keep rows of this database's tables from being vacuumed.
//   - Sessions: a transaction that has written holds back as much as one with a snapshot; a vacuum
//     holds back nothing. The server shows the age of another role's session to members of
//     pg_read_all_stats alone.
//   - Prepared transactions.
//   - Replication slots, whose age the server shows from version 17 on.
const heldSnapshotsSQL = `
SELECT 'session' AS holder, coalesce(a.application_name, '') AS name, a.pid, coalesce(a.usename, '')::text AS "user",
       coalesce(a.state, '') AS state,
       coalesce(extract(epoch FROM clock_timestamp() - a.xact_start), -1)::bigint AS seconds,
       greatest(age(a.backend_xmin), age(a.backend_xid))::bigint AS transactions
  FROM pg_stat_activity AS a
 WHERE (a.backend_xmin IS NOT NULL OR a.backend_xid IS NOT NULL)
   AND (a.datname = current_database() OR a.datname IS NULL) AND a.pid <> pg_backend_pid()
   AND NOT EXISTS (SELECT FROM pg_stat_progress_vacuum AS v WHERE v.pid = a.pid)
UNION ALL
SELECT 'prepared transaction', p.gid, 0, p.owner::text, '', extract(epoch FROM clock_timestamp() - p.prepared)::bigint,
       age(p.transaction)::bigint
  FROM pg_prepared_xacts AS p
 WHERE p.database = current_database()
UNION ALL
SELECT 'replication slot', s.slot_name::text, 0, '', CASE WHEN s.active THEN 'active' ELSE 'inactive' END,
       coalesce(extract(epoch FROM clock_timestamp()
                        - (pg_catalog.to_jsonb(s) ->> 'inactive_since'::text)::timestamptz), -1)::bigint,
       age(s.xmin)::bigint
  FROM pg_replication_slots AS s
 WHERE s.xmin IS NOT NULL
ORDER BY transactions DESC, seconds DESC`

// maxHeldSnapshots bounds the snapshots in a TableHealth.
const maxHeldSnapshots = 10

// TableHealth reports what keeps the table fast, or slow. Its snapshots are those older than
// heldFor.
func (s *Store) TableHealth(ctx context.Context, heldFor time.Duration) (outbox.TableHealth, error) {
	ctx, cancel := context.WithTimeout(ctx, purgeTimeout)
	defer cancel()
	rows, err := s.pool.Query(ctx, tableHealthSQL)
	if err != nil {
		return outbox.TableHealth{}, fmt.Errorf("reading the table's statistics: %w", err)
	}
	found, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[statistics])
	if err != nil {
		return outbox.TableHealth{}, fmt.Errorf("reading the table's statistics: %w", err)
	}
	held, err := findSnapshots(ctx, s.pool)
	if err != nil {
		return outbox.TableHealth{}, err
	}
	health := found.health()
	for _, h := range held {
		health.OldestSnapshotSeconds = max(health.OldestSnapshotSeconds, h.Seconds)
		if h.HeldFor(heldFor) && len(health.Held) < maxHeldSnapshots {
			health.Held = append(health.Held, h)
		}
	}
	return health, nil
}

// HeldSnapshots returns all snapshots that are held, those that hold back the most first.
func HeldSnapshots(ctx context.Context, pool *pgxpool.Pool) ([]outbox.HeldSnapshot, error) {
	return findSnapshots(ctx, database.New(pool))
}

// findSnapshots returns all snapshots that are held, those that hold back the most
// first.
func findSnapshots(ctx context.Context, pool *database.Pool) ([]outbox.HeldSnapshot, error) {
	rows, err := pool.Query(ctx, heldSnapshotsSQL)
	if err != nil {
		return nil, fmt.Errorf("looking for held snapshots: %w", err)
	}
	held, err := pgx.CollectRows(rows, pgx.RowToStructByName[outbox.HeldSnapshot])
	if err != nil {
		return nil, fmt.Errorf("looking for held snapshots: %w", err)
	}
	return held, nil
}

// statistics is a row of tableHealthSQL.
type statistics struct {
	LiveRows       int64      `db:"live_rows"`
	DeadRows       int64      `db:"dead_rows"`
	TableBytes     int64      `db:"table_bytes"`
	IndexBytes     int64      `db:"index_bytes"`
	LastVacuum     *time.Time `db:"last_vacuum"`
	LastAutovacuum *time.Time `db:"last_autovacuum"`
}

func (s statistics) health() outbox.TableHealth {
	h := outbox.TableHealth{LiveRows: s.LiveRows, DeadRows: s.DeadRows, TableBytes: s.TableBytes,
		IndexBytes: s.IndexBytes}
	if s.LastVacuum != nil {
		h.LastVacuum = *s.LastVacuum
	}
	if s.LastAutovacuum != nil {
		h.LastAutovacuum = *s.LastAutovacuum
	}
	return h
}

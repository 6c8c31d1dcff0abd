package wait

import (
	"context"
	"database/sql"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outflowhq/outflow"
	pgxdb "github.com/outflowhq/outflow/internal/database"
	"github.com/outflowhq/outflow/internal/listen"
)

// The statements send and return text where drivers do not know the type. The functions let
// a producer, which has no right on the tables, read the outcomes of its messages.
const (
	outcomeColumns = `o.id, o.state, o.generation, o.attempts, o.finished_at,
       coalesce(o.broker_message_id, ''), coalesce(o.last_error, ''), o.callback_due`
	outcomesSQL = `
SELECT o.id AS asked, '' AS destination, ` + outcomeColumns + `
  FROM outbox.outcomes($1::text::uuid[]) AS o`
	groupOutcomesSQL = `
SELECT o.group_id AS asked, o.destination, ` + outcomeColumns + `
  FROM outbox.group_outcomes($1::text::uuid[]) AS o
 ORDER BY o.destination, o.id`
	registerWaiter   = `SELECT outbox.keep_waiter($1::text::uuid)`
	unregisterWaiter = `SELECT outbox.drop_waiter($1::text::uuid)`
	// A transaction that may have read the waiters before a registration has an ID below the
	// "next" of that time. All such transactions have ended once "oldest" has reached it.
	transactionsSQL = `
SELECT pg_snapshot_xmin(s)::text AS oldest, pg_snapshot_xmax(s)::text AS next FROM pg_current_snapshot() AS s`
)

// database is the database as a Waiter uses it: all that differs between drivers.
type database interface {
	// query calls scan for each row.
	query(ctx context.Context, statement string, scan func(row scanner) error, args ...any) error
	exec(ctx context.Context, statement string, args ...any) error
	// connectionConfig returns the settings of a connection to listen on.
	connectionConfig(ctx context.Context) (*pgx.ConnConfig, error)
}

type scanner interface {
	Scan(dest ...any) error
}

// readOutcomes returns how messages stand, by the ID that was asked for: with outcomesSQL a
// message's, with groupOutcomesSQL a group's too. An ID without a message is not there.
func readOutcomes(
	ctx context.Context, db database, statement string, ids []uuid.UUID,
) (map[uuid.UUID][]outflow.Outcome, error) {
	texts := make([]string, 0, len(ids))
	for _, id := range ids {
		texts = append(texts, id.String())
	}
	found := make(map[uuid.UUID][]outflow.Outcome, len(ids))
	err := db.query(ctx, statement, func(row scanner) error {
		var asked uuid.UUID
		var o outflow.Outcome
		var finishedAt *time.Time
		err := row.Scan(&asked, &o.Destination, &o.ID, &o.State, &o.Generation, &o.Attempts, &finishedAt,
			&o.BrokerMessageID, &o.LastError, &o.CallbackDue)
		if finishedAt != nil {
			o.FinishedAt = *finishedAt
		}
		found[asked] = append(found[asked], o)
		return err
	}, "{"+strings.Join(texts, ",")+"}")
	return found, err
}

// readTransactions returns the ID of the oldest open transaction, and the next one's.
func readTransactions(ctx context.Context, db database) (oldest, next uint64, err error) {
	var texts [2]string
	err = db.query(ctx, transactionsSQL, func(row scanner) error { return row.Scan(&texts[0], &texts[1]) })
	if err != nil {
		return 0, 0, err
	}
	if oldest, err = strconv.ParseUint(texts[0], 10, 64); err == nil {
		next, err = strconv.ParseUint(texts[1], 10, 64)
	}
	return oldest, next, err
}

type pgxDatabase struct{ pool *pgxdb.Pool }

func overPgx(pool *pgxpool.Pool) database { return pgxDatabase{pgxdb.New(pool)} }

func (d pgxDatabase) query(ctx context.Context, statement string, scan func(scanner) error, args ...any) error {
	rows, err := d.pool.Query(ctx, statement, args...)
	if err != nil {
		return err
	}
	defer rows.Close()
	for rows.Next() {
		if err := scan(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

func (d pgxDatabase) exec(ctx context.Context, statement string, args ...any) error {
	_, err := d.pool.Exec(ctx, statement, args...)
	return err
}

// connectionConfig returns what the pool opens its own connections with.
func (d pgxDatabase) connectionConfig(ctx context.Context) (*pgx.ConnConfig, error) {
	return listen.PoolConfig(d.pool.Config())(ctx)
}

type sqlDatabase struct{ db *sql.DB }

func (d sqlDatabase) query(ctx context.Context, statement string, scan func(scanner) error, args ...any) error {
	rows, err := d.db.QueryContext(ctx, statement, args...)
	if err != nil {
		return err
	}
	defer rows.Close() // after Next has returned false, this has nothing left to report
	for rows.Next() {
		if err := scan(rows); err != nil {
			return err
		}
	}
	return rows.Err()
}

func (d sqlDatabase) exec(ctx context.Context, statement string, args ...any) error {
	_, err := d.db.ExecContext(ctx, statement, args...)
	return err
}

// connectionConfig is not called: see canListen.
func (sqlDatabase) connectionConfig(context.Context) (*pgx.ConnConfig, error) {
	return nil, fmt.Errorf("listening over database/sql wants ListenOn")
}

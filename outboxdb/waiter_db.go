package outboxdb

import (
	"context"
	"database/sql"
	"fmt"
	"strconv"
	"strings"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outflowhq/outflow/internal/database"
)

// NewWaiterSQL returns a Waiter over a database of database/sql, whatever its driver.
// db stays the caller's: close the Waiter first. Without ListenOn it can't listen, so
// it looks at messages after 25 ms, twice that, and so on, up to once a second:
//
//	config, err := pgx.ParseConfig(databaseURL)
//	waiter := outboxdb.NewWaiterSQL(db, outboxdb.ListenOn(config))
func NewWaiterSQL(db *sql.DB, options ...WaiterOption) *Waiter {
	return newWaiter(waiterOverSQL{db}, options)
}

// waiterDB is the database as a Waiter uses it. It is all that differs between
// drivers.
type waiterDB interface {
	// outcomes says how messages stand.
	outcomes(ctx context.Context, ids []uuid.UUID) ([]row, error)
	// register runs a statement about the waiter $1.
	register(ctx context.Context, statement string, waiter uuid.UUID) error
	underWay(ctx context.Context) (oldest, next uint64, err error)
	// connection is what a connection to listen on is made with, or nil.
	connection(ctx context.Context) (*pgx.ConnConfig, error)
}

type waiterOverPgx struct{ pool *database.Pool }

func newWaiterOverPgx(pool *pgxpool.Pool) waiterDB { return waiterOverPgx{database.New(pool)} }

func (w waiterOverPgx) outcomes(ctx context.Context, ids []uuid.UUID) ([]row, error) {
	rows, err := w.pool.Query(ctx, outcomes, ids)
	if err != nil {
		return nil, err
	}
	return pgx.CollectRows(rows, pgx.RowToStructByNameLax[row])
}

func (w waiterOverPgx) register(ctx context.Context, statement string, waiter uuid.UUID) error {
	_, err := w.pool.Exec(ctx, statement, waiter)
	return err
}

func (w waiterOverPgx) underWay(ctx context.Context) (oldest, next uint64, err error) {
	return oldest, next, w.pool.QueryRow(ctx, transactionsUnderWay).Scan(&oldest, &next)
}

func (w waiterOverPgx) connection(ctx context.Context) (*pgx.ConnConfig, error) {
	pool := w.pool.Config()
	if pool.BeforeConnect != nil {
		if err := pool.BeforeConnect(ctx, pool.ConnConfig); err != nil {
			return nil, fmt.Errorf("preparing the connection to listen on: %w", err)
		}
	}
	return pool.ConnConfig, nil
}

type waiterOverSQL struct{ db *sql.DB }

// outcomes sends the IDs as one text, which every driver and protocol can.
func (w waiterOverSQL) outcomes(ctx context.Context, ids []uuid.UUID) (found []row, err error) {
	texts := make([]string, 0, len(ids))
	for _, id := range ids {
		texts = append(texts, id.String())
	}
	statement := strings.Replace(outcomes, "$1::uuid[]", "$1::text::uuid[]", 1)
	rows, err := w.db.QueryContext(ctx, statement, "{"+strings.Join(texts, ",")+"}")
	if err != nil {
		return nil, err
	}
	defer rows.Close() // after Next has returned false, this has nothing left to report
	for rows.Next() {
		var r row
		if err := rows.Scan(&r.ID, &r.State, &r.Generation, &r.Attempts, &r.FinishedAt, &r.BrokerMessageID, &r.LastError, &r.CallbackDue); err != nil {
			return nil, err
		}
		found = append(found, r)
	}
	return found, rows.Err()
}

func (w waiterOverSQL) register(ctx context.Context, statement string, waiter uuid.UUID) error {
	_, err := w.db.ExecContext(ctx, statement, waiter.String())
	return err
}

// underWay reads transaction IDs as text: drivers do not know their type.
func (w waiterOverSQL) underWay(ctx context.Context) (oldest, next uint64, err error) {
	var texts [2]string
	err = w.db.QueryRowContext(ctx, `SELECT t.oldest::text, t.next::text FROM (`+transactionsUnderWay+`) AS t`).Scan(&texts[0], &texts[1])
	if err != nil {
		return 0, 0, err
	}
	if oldest, err = strconv.ParseUint(texts[0], 10, 64); err == nil {
		next, err = strconv.ParseUint(texts[1], 10, 64)
	}
	return oldest, next, err
}

func (waiterOverSQL) connection(context.Context) (*pgx.ConnConfig, error) { return nil, nil }

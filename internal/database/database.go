// Package database runs the statements of the outbox and the inbox on the application's own
// pool. That pool may have any of pgx's execution modes and any settings of the role or
// database. It may go through a pooler, and live through a failover.
//
// The invariant: a statement has the same meaning and the same result on every connection,
// or fails with an error that names the setting at fault.
package database

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// rollbackTimeout bounds the rollback of a transaction that failed.
const rollbackTimeout = time.Second

// Pool has the methods of a pgxpool.Pool that Outflow calls. It is safe for concurrent use.
// It does not close the pgxpool.Pool.
type Pool struct {
	pool   *pgxpool.Pool
	writes bool
}

// New returns a Pool that also runs statements on a read-only server.
func New(pool *pgxpool.Pool) *Pool { return &Pool{pool: pool} }

// NewWriter returns a Pool that runs nothing on a read-only server: such a server's rows may
// be long out of date.
func NewWriter(pool *pgxpool.Pool) *Pool { return &Pool{pool: pool, writes: true} }

// Unwrap returns the pgxpool.Pool.
func (p *Pool) Unwrap() *pgxpool.Pool { return p.pool }

// Config returns a copy of the pool's configuration.
func (p *Pool) Config() *pgxpool.Config { return p.pool.Config() }

// Query is pgxpool.Pool.Query. The rows must be closed or read to their end.
func (p *Pool) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	rows, _, err := p.QuerySent(ctx, sql, args...)
	return rows, err
}

// QuerySent is Query. It also says when the statement was sent, after the wait for a connection.
func (p *Pool) QuerySent(ctx context.Context, sql string, args ...any) (pgx.Rows, time.Time, error) {
	c, err := p.Acquire(ctx)
	if err != nil {
		return nil, time.Time{}, err
	}
	sent := time.Now()
	rows, err := c.query(ctx, sql, args, c.Release)
	if err != nil {
		return nil, time.Time{}, err
	}
	return rows, sent, nil
}

// QueryRow is pgxpool.Pool.QueryRow.
func (p *Pool) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	rows, err := p.Query(ctx, sql, args...)
	return row{rows, err}
}

// Exec is pgxpool.Pool.Exec.
func (p *Pool) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	rows, err := p.Query(ctx, sql, args...)
	if err != nil {
		return pgconn.CommandTag{}, err
	}
	rows.Close()
	return rows.CommandTag(), rows.Err()
}

// Begin is BeginTx with the options' zero value.
func (p *Pool) Begin(ctx context.Context) (pgx.Tx, error) { return p.BeginTx(ctx, pgx.TxOptions{}) }

// BeginTx is pgxpool.Pool.BeginTx. The default isolation level is READ COMMITTED, whatever
// the role's default is.
func (p *Pool) BeginTx(ctx context.Context, options pgx.TxOptions) (pgx.Tx, error) {
	c, err := p.Acquire(ctx)
	if err != nil {
		return nil, err
	}
	if options.IsoLevel == "" {
		options.IsoLevel = pgx.ReadCommitted
	}
	tx, err := c.conn.BeginTx(ctx, options)
	if err == nil && c.session.needsSettings {
		_, err = tx.Exec(ctx, setSettingsSQL)
	}
	if err != nil {
		err = c.checkReadOnly(err)
		c.Release()
		return nil, err
	}
	return &transaction{Tx: tx, conn: c}, nil
}

// Acquire is pgxpool.Pool.Acquire. It reads the settings of a new connection, and those of
// every connection again after a server refused a write as read-only. It closes connections
// whose server has become read-only, and tries the pool's others.
func (p *Pool) Acquire(ctx context.Context) (*Conn, error) {
	for others := p.pool.Stat().TotalConns(); ; others-- {
		conn, err := p.pool.Acquire(ctx)
		if err != nil {
			return nil, err
		}
		c := &Conn{conn: conn}
		becameReadOnly, err := c.loadSession(ctx)
		if err == nil && (becameReadOnly || c.session.readOnly && p.writes) {
			err = c.closeReadOnly(nil)
		}
		if err == nil {
			return c, nil
		}
		c.Release()
		if !c.session.readOnly || others < 1 {
			return nil, err
		}
	}
}

// Check asks the server now: it returns an error where the server does not answer, or is
// read-only and the Pool is a writer.
func (p *Pool) Check(ctx context.Context) error {
	conn, err := p.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	c := &Conn{conn: conn}
	defer c.Release()
	if err := c.readSession(ctx); err != nil {
		return err
	}
	if c.session.readOnly && p.writes {
		return c.closeReadOnly(nil)
	}
	return nil
}

// Conn is a connection acquired from a Pool. It is not safe for concurrent use.
type Conn struct {
	conn    *pgxpool.Conn
	session session
}

// Release gives the connection back, and ends its transaction if there is one.
func (c *Conn) Release() { c.conn.Release() }

// Hijack takes the connection out of the pool: the caller closes it.
func (c *Conn) Hijack() *pgx.Conn { return c.conn.Hijack() }

// Query is pgx.Conn.Query.
func (c *Conn) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	return c.query(ctx, sql, args, func() {})
}

// Exec is pgx.Conn.Exec.
func (c *Conn) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	rows, err := c.Query(ctx, sql, args...)
	if err != nil {
		return pgconn.CommandTag{}, err
	}
	rows.Close()
	return rows.CommandTag(), rows.Err()
}

// query runs a statement. Where the session's settings would change its meaning, it runs in
// a transaction of its own. query calls after when the rows are closed or the statement
// failed.
func (c *Conn) query(ctx context.Context, sql string, args []any, after func()) (pgx.Rows, error) {
	var tx pgx.Tx
	if c.session.needsSettings {
		var err error
		if tx, err = c.conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}); err == nil {
			_, err = tx.Exec(ctx, setSettingsSQL)
		}
		if err != nil {
			err = c.checkReadOnly(err)
			after()
			return nil, fmt.Errorf("beginning a transaction: %w", err)
		}
	}
	end := func(err error) error {
		defer after()
		if tx != nil {
			if err == nil {
				err = tx.Commit(ctx)
			} else {
				undo, cancel := context.WithTimeout(context.WithoutCancel(ctx), rollbackTimeout)
				_ = tx.Rollback(undo)
				cancel()
			}
		}
		return c.checkReadOnly(err)
	}
	inner, err := c.conn.Query(ctx, sql, c.session.arguments(args)...)
	if err != nil {
		inner.Close()
		return nil, end(err)
	}
	return &rows{Rows: inner, end: end}, nil
}

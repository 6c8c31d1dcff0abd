// Package database runs the statements of the outbox and the inbox on a pool that
// may be somebody else's: with any of pgx's execution modes, any settings of the
// role or database, behind a pooler, and across a failover.
//
// The invariant: a statement means and answers the same on every connection, or
// fails with an error that says which setting is to blame.
package database

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
)

// rollbackTimeout bounds the end of a transaction that failed.
const rollbackTimeout = time.Second

// Pool is a pgxpool.Pool with the same methods, as far as they are needed here.
// It is safe for concurrent use; the pgxpool.Pool stays the caller's.
type Pool struct {
	pool   *pgxpool.Pool
	writes bool
}

// New returns a Pool whose statements may be run on a server that is read-only.
func New(pool *pgxpool.Pool) *Pool { return &Pool{pool: pool} }

// NewWriter returns a Pool that runs nothing on a server that is read-only: what
// such a server says may be long out of date.
func NewWriter(pool *pgxpool.Pool) *Pool { return &Pool{pool: pool, writes: true} }

// Unwrap returns the pgxpool.Pool.
func (p *Pool) Unwrap() *pgxpool.Pool { return p.pool }

// Config returns a copy of the pool's configuration.
func (p *Pool) Config() *pgxpool.Config { return p.pool.Config() }

// Query is pgxpool.Pool.Query. The rows must be closed or read to their end.
func (p *Pool) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	c, err := p.Acquire(ctx)
	if err != nil {
		return nil, err
	}
	rows, err := c.query(ctx, sql, args, c.Release)
	if err != nil {
		return nil, err
	}
	return rows, nil
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

// BeginTx is pgxpool.Pool.BeginTx; an isolation level that is not given is READ
// COMMITTED, whatever the role's default is.
func (p *Pool) BeginTx(ctx context.Context, options pgx.TxOptions) (pgx.Tx, error) {
	c, err := p.Acquire(ctx)
	if err != nil {
		return nil, err
	}
	if options.IsoLevel == "" {
		options.IsoLevel = pgx.ReadCommitted
	}
	tx, err := c.conn.BeginTx(ctx, options)
	if err == nil && c.session.adjusts {
		_, err = tx.Exec(ctx, adjust)
	}
	if err != nil {
		err = c.judge(err)
		c.Release()
		return nil, err
	}
	return &transaction{Tx: tx, conn: c}, nil
}

// Acquire is pgxpool.Pool.Acquire. It looks at the settings of a connection that
// is new, and again after a server turned out to be read-only. Connections whose
// server became read-only are left, down to the last.
func (p *Pool) Acquire(ctx context.Context) (*Conn, error) {
	for others := p.pool.Stat().TotalConns(); ; others-- {
		conn, err := p.pool.Acquire(ctx)
		if err != nil {
			return nil, err
		}
		c := &Conn{conn: conn}
		became, err := c.look(ctx)
		if err == nil && (became || c.session.readOnly && p.writes) {
			err = c.leave(nil)
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

// Check reports whether the server answers, and takes writes if the Pool is one for
// writes, by a look at the moment.
func (p *Pool) Check(ctx context.Context) error {
	conn, err := p.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	c := &Conn{conn: conn}
	defer c.Release()
	if err := c.ask(ctx); err != nil {
		return err
	}
	if c.session.readOnly && p.writes {
		return c.leave(nil)
	}
	return nil
}

// Conn is a connection that was taken from a Pool. It is not safe for concurrent use.
type Conn struct {
	conn    *pgxpool.Conn
	session session
}

// Release gives the connection back. Its transaction, if it has one, is over.
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

// query runs a statement, in a transaction of its own where the session's settings
// would change what it means. It calls after once the rows are closed, or failed.
func (c *Conn) query(ctx context.Context, sql string, args []any, after func()) (pgx.Rows, error) {
	var tx pgx.Tx
	if c.session.adjusts {
		var err error
		if tx, err = c.conn.BeginTx(ctx, pgx.TxOptions{IsoLevel: pgx.ReadCommitted}); err == nil {
			_, err = tx.Exec(ctx, adjust)
		}
		if err != nil {
			err = c.judge(err)
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
		return c.judge(err)
	}
	inner, err := c.conn.Query(ctx, sql, c.session.arguments(args)...)
	if err != nil {
		inner.Close()
		return nil, end(err)
	}
	return &rows{Rows: inner, end: end}, nil
}

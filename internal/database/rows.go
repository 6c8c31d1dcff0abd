package database

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// rows calls end once, after the statement's last row.
type rows struct {
	pgx.Rows
	end   func(error) error // takes the statement's error and returns that of Err
	ended bool
	err   error
}

func (r *rows) Next() bool {
	if r.Rows.Next() {
		return true
	}
	r.Close()
	return false
}

func (r *rows) Close() {
	r.Rows.Close()
	if !r.ended {
		r.ended = true
		r.err = r.end(r.Rows.Err())
	}
}

func (r *rows) Err() error {
	if r.ended {
		return r.err
	}
	return r.Rows.Err()
}

// row scans the first row of a statement.
type row struct {
	rows pgx.Rows
	err  error
}

func (r row) Scan(dest ...any) error {
	if r.err != nil {
		return r.err
	}
	defer r.rows.Close()
	if !r.rows.Next() {
		if err := r.rows.Err(); err != nil {
			return err
		}
		return pgx.ErrNoRows
	}
	if err := r.rows.Scan(dest...); err != nil {
		return err
	}
	r.rows.Close()
	return r.rows.Err()
}

// transaction gives its connection back when it ends.
type transaction struct {
	pgx.Tx
	conn  *Conn
	ended bool
}

func (t *transaction) Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error) {
	inner, err := t.Tx.Query(ctx, sql, t.conn.session.arguments(args)...)
	if err != nil {
		return nil, t.conn.checkReadOnly(err)
	}
	return &rows{Rows: inner, end: t.conn.checkReadOnly}, nil
}

func (t *transaction) QueryRow(ctx context.Context, sql string, args ...any) pgx.Row {
	rows, err := t.Query(ctx, sql, args...)
	return row{rows, err}
}

func (t *transaction) Exec(ctx context.Context, sql string, args ...any) (pgconn.CommandTag, error) {
	tag, err := t.Tx.Exec(ctx, sql, t.conn.session.arguments(args)...)
	return tag, t.conn.checkReadOnly(err)
}

func (t *transaction) Commit(ctx context.Context) error {
	return t.release(t.Tx.Commit(ctx))
}

func (t *transaction) Rollback(ctx context.Context) error {
	return t.release(t.Tx.Rollback(ctx))
}

// release gives the connection back, once. err is that of the end.
func (t *transaction) release(err error) error {
	if !t.ended {
		t.ended = true
		err = t.conn.checkReadOnly(err)
		t.conn.Release()
	}
	return err
}

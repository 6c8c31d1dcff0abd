// Package db is what sqlc generates for pgx/v5 from query.sql: written here as
// sqlc v1 lays it out, so that the recipe needs no generator.
package db

import (
	"context"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
)

// DBTX is a pool, a connection or a transaction.
type DBTX interface {
	Exec(context.Context, string, ...any) (pgconn.CommandTag, error)
	Query(context.Context, string, ...any) (pgx.Rows, error)
	QueryRow(context.Context, string, ...any) pgx.Row
}

// New returns the queries over db.
func New(db DBTX) *Queries { return &Queries{db: db} }

// Queries are those of query.sql.
type Queries struct {
	db DBTX
}

// WithTx returns the queries in a transaction.
func (q *Queries) WithTx(tx pgx.Tx) *Queries { return &Queries{db: tx} }

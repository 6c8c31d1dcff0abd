// Package migrate applies the migrations of the schema outbox with goose, and reports
// which are applied. It is a package of its own so that a producer, which needs only
// outboxdb, links no migration tool:
//
//	applied, err := migrate.Up(ctx, pool)
//
// The invariant: however many processes call Up at once, the migrations are applied in order,
// and each is applied once, in one transaction.
//
// A database that another tool has migrated needs none of this: the files are plain SQL
// (package migrations). Up adopts what such a tool has applied.
package migrate

import (
	"context"
	"database/sql"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outflowhq/outflow/internal/migrations"
	files "github.com/outflowhq/outflow/outboxdb/migrations"
)

// The lock's key is the bytes of "outflow" read as a number.
var set = migrations.Set{Schema: "outbox", Files: files.Files, Lock: 0x6f7574666c6f77}

// Migration is one migration, and whether the database has it.
type Migration struct {
	// Version is the migration's place in the order, from 1.
	Version int64
	// Name is the file's, without ".up.sql".
	Name string
	// AppliedAt is zero for a migration that is not applied, and for one that this call
	// of Up adopted.
	AppliedAt time.Time
	// Adopted says that another tool had applied the migration, and that this call of Up
	// recorded it. Status never sets it.
	Adopted bool
}

// Up applies every migration that the database lacks and returns those, in order.
//
// Up adopts a schema that another tool made (psql, another migration tool, pg_dump
// --schema-only): it records each complete migration as applied and returns it as Adopted.
// A part of a migration is an error that names what is there and what is missing.
//
// Concurrent callers wait for each other under an advisory lock, for a minute at most. A
// transaction pooler may stand between, if it has two sessions for the caller.
func Up(ctx context.Context, pool *pgxpool.Pool) ([]Migration, error) {
	applied, err := set.Up(ctx, pool)
	return published(applied), err
}

// UpSQL is Up with database/sql and any driver for Postgres. db must be able to open two
// connections.
func UpSQL(ctx context.Context, db *sql.DB) ([]Migration, error) {
	applied, err := set.UpSQL(ctx, db)
	return published(applied), err
}

// Down undoes the newest applied migration and returns it, or nil when none is applied.
// Undoing the first ones drops every message.
func Down(ctx context.Context, pool *pgxpool.Pool) (*Migration, error) {
	undone, err := set.Down(ctx, pool)
	return (*Migration)(undone), err
}

// Status reports every migration in order, applied or not. It writes nothing.
func Status(ctx context.Context, pool *pgxpool.Pool) ([]Migration, error) {
	all, err := set.List(ctx, pool)
	return published(all), err
}

func published(from []migrations.Status) (to []Migration) {
	for _, s := range from {
		to = append(to, Migration(s))
	}
	return to
}

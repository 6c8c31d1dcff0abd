// Package migrate applies the migrations of the schema inbox with goose. It is a package
// of its own so that a consumer whose database another tool migrates links no goose:
//
//	_, err := migrate.Up(ctx, pool)
//
// The invariant: however many consumers call Up at once, the migrations are applied in order,
// and each is applied once, in one transaction. An outbox in the same database is not
// touched.
package migrate

import (
	"context"
	"database/sql"

	"github.com/jackc/pgx/v5/pgxpool"

	files "github.com/outflowhq/outflow/inbox/migrations"
	"github.com/outflowhq/outflow/internal/migrations"
)

// The lock's key is the bytes of "of-inbox" read as a number.
var set = migrations.Set{Schema: "inbox", Files: files.Files, Lock: 0x6f662d696e626f78}

// Up applies every migration that the database lacks and returns their names, in order.
// Where nothing is missing it changes nothing, so a consumer can call it at each start.
// The role then needs the right to create tables in the schema, and to create the schema
// where it is missing. Names of migrations that another tool has applied, and that this
// call recorded, are returned too.
//
// Concurrent callers wait for each other under an advisory lock, for a minute at most. A
// transaction pooler may stand between, if it has two sessions for the caller.
func Up(ctx context.Context, pool *pgxpool.Pool) (applied []string, err error) {
	status, err := set.Up(ctx, pool)
	return namesOf(status), err
}

// UpSQL is Up with database/sql and any driver for Postgres. db must be able to open two
// connections.
func UpSQL(ctx context.Context, db *sql.DB) (applied []string, err error) {
	status, err := set.UpSQL(ctx, db)
	return namesOf(status), err
}

func namesOf(status []migrations.Status) (names []string) {
	for _, s := range status {
		names = append(names, s.Name)
	}
	return names
}

package inbox

import (
	"context"
	"database/sql"
	"embed"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outflowhq/outflow/internal/migrations"
)

// A released file is never edited.
//
//go:embed migrations/*.sql
var migrationFiles embed.FS

// The lock's key is the bytes of "of-inbox" read as a number.
var migrationSet = migrations.Set{Schema: "inbox", Files: migrationFiles, Names: []string{"0001_seen"}, Lock: 0x6f662d696e626f78}

// MigrateUp makes what the database lacks of the schema inbox, and returns the
// names of the migrations that it applied. Where nothing is missing it changes
// nothing, so a consumer can call it whenever it starts; its role then needs the
// right to create things in the schema, and the right to create the schema where
// there is none. The files in inbox/migrations are plain SQL, for any other tool;
// what one has made is noted, and returned too.
//
// Concurrent callers wait for each other, a minute at most, under an advisory lock. A
// transaction pooler may stand between, if it has two sessions for it.
func MigrateUp(ctx context.Context, pool *pgxpool.Pool) (applied []string, err error) {
	status, err := migrationSet.Up(ctx, pool)
	return namesOf(status), err
}

// MigrateUpSQL is MigrateUp with database/sql, whatever the driver. db must be
// allowed two connections at least.
func MigrateUpSQL(ctx context.Context, db *sql.DB) (applied []string, err error) {
	status, err := migrationSet.UpSQL(ctx, db)
	return namesOf(status), err
}

func namesOf(status []migrations.Status) (names []string) {
	for _, s := range status {
		names = append(names, s.Name)
	}
	return names
}

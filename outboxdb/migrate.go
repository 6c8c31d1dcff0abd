package outboxdb

import (
	"context"
	"database/sql"
	"embed"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outflowhq/outflow/internal/migrations"
)

// The migrations are plain SQL in pairs of files, so that any other tool can
// apply them. A released file is never edited.
//
//go:embed migrations/*.sql
var migrationFiles embed.FS

// migrationNames are the files without their ".up.sql" and ".down.sql". A
// migration's version is its place in this list, from 1.
var migrationNames = []string{
	"0001_destinations", "0002_messages", "0003_breakers", "0004_enqueue", "0005_operations", "0006_waiters",
	"0007_identity",
}

// The lock's key is the bytes of "outflow" read as a number.
var migrationSet = migrations.Set{Schema: "outbox", Files: migrationFiles, Names: migrationNames, Lock: 0x6f7574666c6f77}

// MigrationStatus says whether a migration has been applied.
type MigrationStatus struct {
	Version int64
	Name    string
	// AppliedAt is zero where it has not been.
	AppliedAt time.Time
	// Adopted says that another tool had applied it, which MigrateUp found and noted.
	Adopted bool
}

// MigrateUp applies every migration that the database lacks and returns those,
// in order. A schema that another tool made (psql, another migration tool,
// pg_dump --schema-only) is adopted: what is complete is noted as applied and
// returned as Adopted, and a part of a migration is an error that names what is
// there and what is missing. Concurrent callers wait for each other, a minute at
// most, under an advisory lock. A transaction pooler may stand between, if it has
// two sessions for it.
func MigrateUp(ctx context.Context, pool *pgxpool.Pool) ([]MigrationStatus, error) {
	applied, err := migrationSet.Up(ctx, pool)
	return published(applied), err
}

// MigrateUpSQL is MigrateUp with database/sql, whatever the driver. db must be
// allowed two connections at least.
func MigrateUpSQL(ctx context.Context, db *sql.DB) ([]MigrationStatus, error) {
	applied, err := migrationSet.UpSQL(ctx, db)
	return published(applied), err
}

// MigrateDown takes back the newest applied migration and returns it, or nil
// where none is applied. Taking back the first one drops every message.
func MigrateDown(ctx context.Context, pool *pgxpool.Pool) (*MigrationStatus, error) {
	undone, err := migrationSet.Down(ctx, pool)
	return (*MigrationStatus)(undone), err
}

// Migrations reports every migration in order, applied or not. It writes nothing.
func Migrations(ctx context.Context, pool *pgxpool.Pool) ([]MigrationStatus, error) {
	status, err := migrationSet.List(ctx, pool)
	return published(status), err
}

func published(from []migrations.Status) (to []MigrationStatus) {
	for _, s := range from {
		to = append(to, MigrationStatus(s))
	}
	return to
}

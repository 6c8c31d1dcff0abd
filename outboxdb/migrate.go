package outboxdb

import (
	"context"
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
}

// MigrateUp applies every migration that the database lacks and returns those,
// in order. Concurrent callers wait for each other under an advisory lock, for
// which it needs a session: connect directly, not through a transaction pooler.
func MigrateUp(ctx context.Context, pool *pgxpool.Pool) ([]MigrationStatus, error) {
	applied, err := migrationSet.Up(ctx, pool)
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

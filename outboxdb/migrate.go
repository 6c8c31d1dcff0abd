package outboxdb

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/database"
	"github.com/pressly/goose/v3/lock"
)

// The migrations are plain SQL in pairs of files, so that any other tool can
// apply them. A released file is never edited.
//
//go:embed migrations/*.sql
var migrationFiles embed.FS

// migrationNames are the files without their ".up.sql" and ".down.sql". A
// migration's version is its place in this list, from 1.
var migrationNames = []string{"0001_messages", "0002_enqueue", "0003_operations"}

// versionTable is where goose keeps what has been applied.
const versionTable = "outbox.migrations"

// migrationLock is the key of the session-level advisory lock under which
// migrations run. Its value is the bytes of "outflow" read as a number.
const migrationLock int64 = 0x6f7574666c6f77

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
	var applied []MigrationStatus
	err := withProvider(ctx, pool, func(p *goose.Provider) error {
		results, err := p.Up(ctx)
		for _, r := range results {
			applied = append(applied, MigrationStatus{Version: r.Source.Version, Name: migrationNames[r.Source.Version-1], AppliedAt: time.Now()})
		}
		return err
	})
	if err != nil {
		return applied, fmt.Errorf("applying migrations: %w", err)
	}
	return applied, nil
}

// MigrateDown takes back the newest applied migration and returns it, or nil
// where none is applied. Taking back the first one drops every message.
func MigrateDown(ctx context.Context, pool *pgxpool.Pool) (*MigrationStatus, error) {
	var undone *MigrationStatus
	err := withProvider(ctx, pool, func(p *goose.Provider) error {
		r, err := p.Down(ctx)
		if errors.Is(err, goose.ErrNoNextVersion) {
			return nil
		}
		if err == nil {
			undone = &MigrationStatus{Version: r.Source.Version, Name: migrationNames[r.Source.Version-1]}
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("taking back a migration: %w", err)
	}
	return undone, nil
}

// Migrations reports every migration in order, applied or not. It writes nothing.
func Migrations(ctx context.Context, pool *pgxpool.Pool) ([]MigrationStatus, error) {
	status := make([]MigrationStatus, 0, len(migrationNames))
	for i, name := range migrationNames {
		status = append(status, MigrationStatus{Version: int64(i + 1), Name: name})
	}
	var exists bool
	if err := pool.QueryRow(ctx, `SELECT to_regclass($1) IS NOT NULL`, versionTable).Scan(&exists); err != nil {
		return nil, fmt.Errorf("looking for %s: %w", versionTable, err)
	}
	if !exists {
		return status, nil
	}
	rows, err := pool.Query(ctx, `SELECT version_id, max(tstamp) AT TIME ZONE 'UTC' FROM `+versionTable+` WHERE is_applied AND version_id > 0 GROUP BY version_id`)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", versionTable, err)
	}
	defer rows.Close()
	for rows.Next() {
		var version int64
		var at time.Time
		if err := rows.Scan(&version, &at); err != nil {
			return nil, fmt.Errorf("reading %s: %w", versionTable, err)
		}
		if version <= int64(len(status)) {
			status[version-1].AppliedAt = at
		}
	}
	return status, rows.Err()
}

func withProvider(ctx context.Context, pool *pgxpool.Pool, use func(*goose.Provider) error) error {
	if err := ensureSchema(ctx, pool); err != nil {
		return err
	}
	db := stdlib.OpenDBFromPool(pool)
	defer db.Close()
	store, err := database.NewStore(database.DialectPostgres, versionTable)
	if err != nil {
		return err
	}
	locker, err := lock.NewPostgresSessionLocker(lock.WithLockID(migrationLock), lock.WithLockTimeout(1, 60))
	if err != nil {
		return err
	}
	migrations := make([]*goose.Migration, 0, len(migrationNames))
	for i, name := range migrationNames {
		migrations = append(migrations, goose.NewGoMigration(int64(i+1), runFile(name+".up.sql"), runFile(name+".down.sql")))
	}
	provider, err := goose.NewProvider(goose.DialectCustom, db, nil,
		goose.WithStore(store), goose.WithSessionLocker(locker),
		goose.WithGoMigrations(migrations...), goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return err
	}
	return use(provider)
}

// ensureSchema makes the schema that the version table lives in. CREATE SCHEMA
// asks for a right on the database even where the schema exists, so look first;
// the lock keeps two first migrations from meeting in the catalog.
func ensureSchema(ctx context.Context, pool *pgxpool.Pool) error {
	tx, err := pool.Begin(ctx)
	if err != nil {
		return fmt.Errorf("creating the schema: %w", err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	var exists bool
	if _, err = tx.Exec(ctx, `SELECT pg_advisory_xact_lock($1)`, migrationLock+1); err == nil {
		err = tx.QueryRow(ctx, `SELECT to_regnamespace('outbox') IS NOT NULL`).Scan(&exists)
	}
	if err == nil && !exists {
		_, err = tx.Exec(ctx, `CREATE SCHEMA outbox`)
	}
	if err == nil {
		err = tx.Commit(ctx)
	}
	if err != nil {
		return fmt.Errorf("creating the schema: %w", err)
	}
	return nil
}

func runFile(name string) *goose.GoFunc {
	return &goose.GoFunc{RunTx: func(ctx context.Context, tx *sql.Tx) error {
		statements, err := fs.ReadFile(migrationFiles, "migrations/"+name)
		if err != nil {
			return err
		}
		// goose notes the time of the migration, in this transaction, without its zone.
		if _, err := tx.ExecContext(ctx, `SET LOCAL TIME ZONE 'UTC';`+string(statements)); err != nil {
			return fmt.Errorf("running %s: %w", name, err)
		}
		return nil
	}}
}

// Package migrations applies a schema's numbered SQL files with goose: those of
// the outbox and those of the inbox, which know nothing of each other.
//
// The invariant: however many processes start at once, each file is applied
// once, whole, in its order.
package migrations

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	"github.com/pressly/goose/v3/database"
	"github.com/pressly/goose/v3/lock"
)

// Set is a schema with its migrations: plain SQL in pairs of files, so that any
// other tool can apply them.
type Set struct {
	// Schema is made by the first migration that runs. Its table "migrations"
	// is where goose keeps what has been applied.
	Schema string
	// Files has migrations/NAME.up.sql and migrations/NAME.down.sql.
	Files fs.FS
	// Names are the files without their ending. A migration's version is its
	// place in this list, from 1.
	Names []string
	// Lock is the key of the session-level advisory lock under which the
	// migrations run. The key after it is taken, too.
	Lock int64
}

// Status says whether a migration has been applied.
type Status struct {
	Version int64
	Name    string
	// AppliedAt is zero where it has not been.
	AppliedAt time.Time
}

func (s Set) versionTable() string { return s.Schema + ".migrations" }

// Up applies every migration that the database lacks and returns those, in
// order. It needs a session: connect directly, not through a transaction pooler.
func (s Set) Up(ctx context.Context, pool *pgxpool.Pool) ([]Status, error) {
	var applied []Status
	err := s.withProvider(ctx, pool, func(p *goose.Provider) error {
		results, err := p.Up(ctx)
		for _, r := range results {
			applied = append(applied, Status{Version: r.Source.Version, Name: s.Names[r.Source.Version-1], AppliedAt: time.Now()})
		}
		return err
	})
	if err != nil {
		return applied, fmt.Errorf("applying migrations: %w", err)
	}
	return applied, nil
}

// Down takes back the newest applied migration and returns it, or nil where none
// is applied.
func (s Set) Down(ctx context.Context, pool *pgxpool.Pool) (*Status, error) {
	var undone *Status
	err := s.withProvider(ctx, pool, func(p *goose.Provider) error {
		r, err := p.Down(ctx)
		if errors.Is(err, goose.ErrNoNextVersion) {
			return nil
		}
		if err == nil {
			undone = &Status{Version: r.Source.Version, Name: s.Names[r.Source.Version-1]}
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("taking back a migration: %w", err)
	}
	return undone, nil
}

// List reports every migration in order, applied or not. It writes nothing.
func (s Set) List(ctx context.Context, pool *pgxpool.Pool) ([]Status, error) {
	status := make([]Status, 0, len(s.Names))
	for i, name := range s.Names {
		status = append(status, Status{Version: int64(i + 1), Name: name})
	}
	var exists bool
	if err := pool.QueryRow(ctx, `SELECT to_regclass($1) IS NOT NULL`, s.versionTable()).Scan(&exists); err != nil {
		return nil, fmt.Errorf("looking for %s: %w", s.versionTable(), err)
	}
	if !exists {
		return status, nil
	}
	rows, err := pool.Query(ctx, `SELECT version_id, max(tstamp) AT TIME ZONE 'UTC' FROM `+s.versionTable()+` WHERE is_applied AND version_id > 0 GROUP BY version_id`)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", s.versionTable(), err)
	}
	defer rows.Close()
	for rows.Next() {
		var version int64
		var at time.Time
		if err := rows.Scan(&version, &at); err != nil {
			return nil, fmt.Errorf("reading %s: %w", s.versionTable(), err)
		}
		if version <= int64(len(status)) {
			status[version-1].AppliedAt = at
		}
	}
	return status, rows.Err()
}

func (s Set) withProvider(ctx context.Context, pool *pgxpool.Pool, use func(*goose.Provider) error) error {
	if err := s.ensureSchema(ctx, pool); err != nil {
		return err
	}
	db := stdlib.OpenDBFromPool(pool)
	defer db.Close()
	store, err := database.NewStore(database.DialectPostgres, s.versionTable())
	if err != nil {
		return err
	}
	locker, err := lock.NewPostgresSessionLocker(lock.WithLockID(s.Lock), lock.WithLockTimeout(1, 60))
	if err != nil {
		return err
	}
	migrations := make([]*goose.Migration, 0, len(s.Names))
	for i, name := range s.Names {
		migrations = append(migrations, goose.NewGoMigration(int64(i+1), s.runFile(name+".up.sql"), s.runFile(name+".down.sql")))
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
func (s Set) ensureSchema(ctx context.Context, pool *pgxpool.Pool) error {
	tx, err := pool.Begin(ctx)
	if err != nil {
		return fmt.Errorf("creating the schema: %w", err)
	}
	defer func() { _ = tx.Rollback(context.WithoutCancel(ctx)) }()
	var exists bool
	if _, err = tx.Exec(ctx, `SELECT pg_advisory_xact_lock($1)`, s.Lock+1); err == nil {
		err = tx.QueryRow(ctx, `SELECT to_regnamespace($1) IS NOT NULL`, s.Schema).Scan(&exists)
	}
	if err == nil && !exists {
		_, err = tx.Exec(ctx, `CREATE SCHEMA `+pgx.Identifier{s.Schema}.Sanitize())
	}
	if err == nil {
		err = tx.Commit(ctx)
	}
	if err != nil {
		return fmt.Errorf("creating the schema: %w", err)
	}
	return nil
}

func (s Set) runFile(name string) *goose.GoFunc {
	return &goose.GoFunc{RunTx: func(ctx context.Context, tx *sql.Tx) error {
		statements, err := fs.ReadFile(s.Files, "migrations/"+name)
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

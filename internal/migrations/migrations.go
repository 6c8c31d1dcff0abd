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
	goosedb "github.com/pressly/goose/v3/database"

	"github.com/outflowhq/outflow/internal/database"
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
	// Lock is the key of the advisory lock under which the migrations run. The key
	// after it is taken, too.
	Lock int64
}

// Status says whether a migration has been applied.
type Status struct {
	Version int64
	Name    string
	// AppliedAt is zero where it has not been.
	AppliedAt time.Time
	// Adopted says that another tool had applied it, which Up found and noted.
	Adopted bool
}

func (s Set) versionTable() string { return s.Schema + ".migrations" }

// Up applies every migration that the database lacks and returns those, in
// order, after those that it found applied by another tool and noted. It works
// through a transaction pooler, too, which must have two sessions for it: the lock
// keeps one.
func (s Set) Up(ctx context.Context, pool *pgxpool.Pool) ([]Status, error) {
	db := open(pool)
	defer db.Close()
	return s.UpSQL(ctx, db)
}

// UpSQL is Up with database/sql, whatever the driver.
func (s Set) UpSQL(ctx context.Context, db *sql.DB) ([]Status, error) {
	var applied []Status
	err := s.withProvider(ctx, db, func(p *goose.Provider) error {
		adopted, unseen, err := s.adopt(ctx, db)
		if err != nil {
			return err
		}
		applied = adopted
		results, err := p.Up(ctx)
		if err != nil && unseen != nil {
			err = fmt.Errorf("%w; %w", err, unseen)
		}
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
	db := open(pool)
	defer db.Close()
	var undone *Status
	err := s.withProvider(ctx, db, func(p *goose.Provider) error {
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
	on := database.New(pool)
	if err := on.QueryRow(ctx, `SELECT pg_catalog.to_regclass($1) IS NOT NULL`, s.versionTable()).Scan(&exists); err != nil {
		return nil, fmt.Errorf("looking for %s: %w", s.versionTable(), err)
	}
	if !exists {
		return status, nil
	}
	rows, err := on.Query(ctx, `SELECT version_id, max(tstamp) AT TIME ZONE 'UTC' FROM `+s.versionTable()+` WHERE is_applied AND version_id > 0 GROUP BY version_id`)
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

func (s Set) withProvider(ctx context.Context, db *sql.DB, use func(*goose.Provider) error) error {
	if db.Stats().MaxOpenConnections == 1 {
		return errors.New("wants a *sql.DB that may open two connections: the lock keeps one")
	}
	if err := s.ensureSchema(ctx, db); err != nil {
		return err
	}
	unlock, err := s.lock(ctx, db)
	if err != nil {
		return err
	}
	defer unlock()
	store, err := s.store()
	if err != nil {
		return err
	}
	migrations := make([]*goose.Migration, 0, len(s.Names))
	for i, name := range s.Names {
		migrations = append(migrations, goose.NewGoMigration(int64(i+1), s.runFile(name+".up.sql"), s.runFile(name+".down.sql")))
	}
	provider, err := goose.NewProvider(goose.DialectCustom, db, nil,
		goose.WithStore(store), goose.WithGoMigrations(migrations...), goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return err
	}
	return use(provider)
}

func (s Set) store() (goosedb.Store, error) {
	return goosedb.NewStore(goosedb.DialectPostgres, s.versionTable())
}

// open returns a database for goose, whose statements name no prepared statement: a
// transaction pooler's next session may not have it, or have it already.
func open(pool *pgxpool.Pool) *sql.DB {
	c := pool.Config()
	c.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe
	c.ConnConfig.DescriptionCacheCapacity = descriptions
	var options []stdlib.OptionOpenDB
	if c.BeforeConnect != nil {
		options = append(options, stdlib.OptionBeforeConnect(c.BeforeConnect))
	}
	if c.AfterConnect != nil {
		options = append(options, stdlib.OptionAfterConnect(c.AfterConnect))
	}
	return stdlib.OpenDB(*c.ConnConfig, options...)
}

// descriptions are as many as goose has statements, and more.
const descriptions = 100

// lockWait is how long others' migrations are waited for.
const lockWait = time.Minute

// lock waits until nobody else migrates, and returns a function that lets the next
// one. The lock is that of a transaction, which stays open: behind a transaction
// pooler a session's lock would be taken in one session and given back in another.
func (s Set) lock(ctx context.Context, db *sql.DB) (unlock func(), err error) {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return nil, fmt.Errorf("taking the lock: %w", err)
	}
	unlock = func() { _ = tx.Rollback() }
	_, err = tx.ExecContext(ctx, fmt.Sprintf(`SET LOCAL lock_timeout = %d; `+noTimeouts+`; SELECT pg_catalog.pg_advisory_xact_lock(%d::pg_catalog.int8)`, lockWait.Milliseconds(), s.Lock))
	if err != nil {
		unlock()
		var said interface{ SQLState() string } // pgx's error, and lib/pq's
		if errors.As(err, &said) && said.SQLState() == lockNotAvailable {
			err = fmt.Errorf("somebody else has been migrating for %s: %w", lockWait, err)
		}
		return nil, fmt.Errorf("taking the lock: %w", err)
	}
	return unlock, nil
}

// lockNotAvailable is the SQLSTATE of a lock_timeout.
const lockNotAvailable = "55P03"

// ensureSchema makes the schema that the version table lives in. CREATE SCHEMA
// asks for a right on the database even where the schema exists, so look first;
// the lock keeps two first migrations from meeting in the catalog.
func (s Set) ensureSchema(ctx context.Context, db *sql.DB) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("creating the schema: %w", err)
	}
	defer func() { _ = tx.Rollback() }()
	var exists bool
	if _, err = tx.ExecContext(ctx, fmt.Sprintf(`SELECT pg_catalog.pg_advisory_xact_lock(%d::pg_catalog.int8)`, s.Lock+1)); err == nil {
		err = tx.QueryRowContext(ctx, `SELECT pg_catalog.to_regnamespace($1) IS NOT NULL`, s.Schema).Scan(&exists)
	}
	if err == nil && !exists {
		_, err = tx.ExecContext(ctx, `CREATE SCHEMA `+pgx.Identifier{s.Schema}.Sanitize())
	}
	if err == nil {
		err = tx.Commit()
	}
	if err != nil {
		return fmt.Errorf("creating the schema: %w", err)
	}
	return nil
}

// noTimeouts lifts a role's own: an index of a large table takes as long as it takes.
// transaction_timeout came with PostgreSQL 17.
const noTimeouts = `SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0;
	SELECT pg_catalog.set_config(s.name, '0', true) FROM pg_catalog.pg_settings AS s WHERE s.name OPERATOR(pg_catalog.=) 'transaction_timeout'`

const settings = `SET LOCAL TIME ZONE 'UTC'; SET LOCAL standard_conforming_strings = on; SET LOCAL search_path = pg_catalog; ` + noTimeouts

func (s Set) runFile(name string) *goose.GoFunc {
	return &goose.GoFunc{RunTx: func(ctx context.Context, tx *sql.Tx) error {
		statements, err := fs.ReadFile(s.Files, "migrations/"+name)
		if err != nil {
			return err
		}
		// goose notes the time of the migration, in this transaction, without its zone.
		// The whole file is read before its first statement is run, so what decides how
		// it is read comes before it.
		if _, err := tx.ExecContext(ctx, settings); err != nil {
			return fmt.Errorf("preparing for %s: %w", name, err)
		}
		if _, err := tx.ExecContext(ctx, string(statements)); err != nil {
			return fmt.Errorf("running %s: %w", name, err)
		}
		return nil
	}}
}

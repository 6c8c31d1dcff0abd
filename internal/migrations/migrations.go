// Package migrations applies a schema's numbered SQL files with goose: those of the outbox
// and, independently, those of the inbox.
//
// The invariant: however many processes start at once, the files are applied in order, and
// each is applied once, in one transaction.
package migrations

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/pressly/goose/v3"
	goosedb "github.com/pressly/goose/v3/database"

	"github.com/outflowhq/outflow/internal/database"
)

// Set is a schema with its migrations: plain SQL in pairs of files, so that any other
// tool can apply them.
type Set struct {
	// Schema is created by the first run. goose keeps what is applied in its table
	// "migrations".
	Schema string
	// Files has NAME.up.sql and NAME.down.sql for each migration. A migration's version is
	// its place in the order of the names, from 1.
	Files fs.FS
	// Lock is the key of the advisory lock under which the migrations run. Lock+1 is used,
	// too, while the schema is created.
	Lock int64
}

// Status says whether a migration has been applied.
type Status struct {
	Version int64
	Name    string
	// AppliedAt is zero for a migration that is not applied, or that was just adopted.
	AppliedAt time.Time
	// Adopted says that another tool had applied the migration, and that Up recorded it.
	Adopted bool
}

func (s Set) versionTable() string { return s.Schema + ".migrations" }

// names are the files' names without ".up.sql", in order.
func (s Set) names() []string {
	files, _ := fs.Glob(s.Files, "*.up.sql") // fails on a malformed pattern only
	for i, file := range files {
		files[i] = strings.TrimSuffix(file, ".up.sql")
	}
	return files
}

// Up applies every migration that the database lacks. It returns those that it found
// applied by another tool and recorded, then those that it applied, in order. It works
// through a transaction pooler that has two sessions for it: the lock keeps one.
func (s Set) Up(ctx context.Context, pool *pgxpool.Pool) ([]Status, error) {
	db := open(pool)
	defer db.Close()
	return s.UpSQL(ctx, db)
}

// UpSQL is Up with database/sql, whatever the driver.
func (s Set) UpSQL(ctx context.Context, db *sql.DB) ([]Status, error) {
	var applied []Status
	err := s.withProvider(ctx, db, func(p *goose.Provider) error {
		adopted, denied, err := s.adopt(ctx, db)
		if err != nil {
			return err
		}
		applied = adopted
		results, err := p.Up(ctx)
		if err != nil && denied != nil {
			err = fmt.Errorf("%w; %w", err, denied)
		}
		names := s.names()
		for _, r := range results {
			version := r.Source.Version
			applied = append(applied, Status{Version: version, Name: names[version-1], AppliedAt: time.Now()})
		}
		return err
	})
	if err != nil {
		return applied, fmt.Errorf("applying migrations: %w", err)
	}
	return applied, nil
}

// Down undoes the newest applied migration and returns it, or nil when none is applied.
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
			undone = &Status{Version: r.Source.Version, Name: s.names()[r.Source.Version-1]}
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("undoing a migration: %w", err)
	}
	return undone, nil
}

// List reports every migration in order, applied or not. It writes nothing.
func (s Set) List(ctx context.Context, pool *pgxpool.Pool) ([]Status, error) {
	names := s.names()
	status := make([]Status, 0, len(names))
	for i, name := range names {
		status = append(status, Status{Version: int64(i + 1), Name: name})
	}
	var exists bool
	on := database.New(pool)
	if err := on.QueryRow(ctx, tableExists, s.versionTable()).Scan(&exists); err != nil {
		return nil, fmt.Errorf("looking for %s: %w", s.versionTable(), err)
	}
	if !exists {
		return status, nil
	}
	rows, err := on.Query(ctx, `SELECT version_id, max(tstamp) AT TIME ZONE 'UTC' FROM `+s.versionTable()+
		` WHERE is_applied AND version_id > 0 GROUP BY version_id`)
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

// withProvider calls use with goose's provider of the set, under the lock.
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
	var all []*goose.Migration
	for i, name := range s.names() {
		all = append(all, goose.NewGoMigration(int64(i+1), s.runFile(name+".up.sql"), s.runFile(name+".down.sql")))
	}
	provider, err := goose.NewProvider(goose.DialectCustom, db, nil,
		goose.WithStore(store), goose.WithGoMigrations(all...), goose.WithDisableGlobalRegistry(true))
	if err != nil {
		return err
	}
	return use(provider)
}

func (s Set) store() (goosedb.Store, error) {
	return goosedb.NewStore(goosedb.DialectPostgres, s.versionTable())
}

// descriptionCapacity is more than the statements that goose sends.
const descriptionCapacity = 100

// open returns a database for goose. Its statements have no names: a transaction pooler's
// next session may not know a prepared statement, or may have another of the same name.
func open(pool *pgxpool.Pool) *sql.DB {
	c := pool.Config()
	c.ConnConfig.DefaultQueryExecMode = pgx.QueryExecModeCacheDescribe
	c.ConnConfig.DescriptionCacheCapacity = descriptionCapacity
	var options []stdlib.OptionOpenDB
	if c.BeforeConnect != nil {
		options = append(options, stdlib.OptionBeforeConnect(c.BeforeConnect))
	}
	if c.AfterConnect != nil {
		options = append(options, stdlib.OptionAfterConnect(c.AfterConnect))
	}
	return stdlib.OpenDB(*c.ConnConfig, options...)
}

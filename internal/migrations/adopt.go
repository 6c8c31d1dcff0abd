package migrations

import (
	"context"
	"database/sql"
	"fmt"

	"github.com/jackc/pgx/v5"
	goosedb "github.com/pressly/goose/v3/database"
)

// adopt records as applied what another tool has applied: psql, another migration tool, or
// pg_dump --schema-only. It returns those migrations, in order. A part of a migration is an
// error that names what is there and what is missing.
//
// What a migration creates is not guessed. A transaction that is rolled back runs the files
// in a fresh schema of the same name, and the catalogs are compared. That needs more rights
// than the migrations do: denied says so where the role lacks them.
func (s Set) adopt(ctx context.Context, db *sql.DB) (adopted []Status, denied, err error) {
	recorded, err := s.recordedVersion(ctx, db)
	if err != nil || recorded == len(s.names()) {
		return nil, nil, err
	}
	present, err := s.present(ctx, db)
	if err != nil || len(present) == 0 {
		return nil, nil, err
	}
	steps, err := s.rehearse(ctx, db)
	switch {
	case hasState(err, insufficientPrivilege):
		return nil, fmt.Errorf("looking for what another tool may have applied "+
			"wants the owner of schema %s, with the right to create schemas: %w", s.Schema, err), nil
	case err != nil:
		return nil, nil, fmt.Errorf("rehearsing the migrations of schema %s: %w", s.Schema, err)
	}
	complete, err := s.completeVersion(present, steps, recorded)
	if err != nil || complete <= recorded {
		return nil, nil, err
	}
	adopted, err = s.record(ctx, db, recorded, complete)
	return adopted, nil, err
}

// recordedVersion is the newest version in goose's table. It is 0 where the table is
// missing or empty.
func (s Set) recordedVersion(ctx context.Context, db *sql.DB) (version int, err error) {
	var exists bool
	if err := db.QueryRowContext(ctx, tableExists, s.versionTable()).Scan(&exists); err != nil {
		return 0, fmt.Errorf("looking for %s: %w", s.versionTable(), err)
	}
	if !exists {
		return 0, nil
	}
	newest := `SELECT coalesce(pg_catalog.max(version_id), 0) FROM ` + s.versionTable() + ` WHERE is_applied`
	err = db.QueryRowContext(ctx, newest).Scan(&version)
	if err != nil {
		return 0, fmt.Errorf("reading %s: %w", s.versionTable(), err)
	}
	return version, nil
}

// present is what the schema holds now.
func (s Set) present(ctx context.Context, db *sql.DB) (present catalog, err error) {
	err = rolledBack(ctx, db, func(tx *sql.Tx) error {
		present, err = s.readCatalog(ctx, tx)
		return err
	})
	return present, err
}

// rehearse returns what a fresh schema holds after each of the migrations.
func (s Set) rehearse(ctx context.Context, db *sql.DB) (steps []catalog, err error) {
	return steps, rolledBack(ctx, db, func(tx *sql.Tx) error {
		aside := fmt.Sprintf(`ALTER SCHEMA %s RENAME TO %s`, pgx.Identifier{s.Schema}.Sanitize(),
			pgx.Identifier{s.Schema + " aside"}.Sanitize())
		if _, err := tx.ExecContext(ctx, aside); err != nil {
			return err
		}
		for _, name := range s.names() {
			if err := s.runFile(name+".up.sql").RunTx(ctx, tx); err != nil {
				return err
			}
			after, err := s.readCatalog(ctx, tx)
			if err != nil {
				return err
			}
			steps = append(steps, after)
		}
		return nil
	})
}

// record writes the versions after recorded, up to complete, into goose's table. A missing
// table is created as goose creates it, with a version 0 before the first.
func (s Set) record(ctx context.Context, db *sql.DB, recorded, complete int) (adopted []Status, err error) {
	store, err := s.store()
	if err != nil {
		return nil, err
	}
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return nil, fmt.Errorf("recording migrations: %w", err)
	}
	defer func() { _ = tx.Rollback() }()
	err = s.ensureVersionTable(ctx, tx, store)
	for version := recorded + 1; err == nil && version <= complete; version++ {
		err = store.Insert(ctx, tx, goosedb.InsertRequest{Version: int64(version)})
		adopted = append(adopted, Status{Version: int64(version), Name: s.names()[version-1], Adopted: true})
	}
	if err == nil {
		err = tx.Commit()
	}
	if err != nil {
		return nil, fmt.Errorf("recording migrations: %w", err)
	}
	return adopted, nil
}

// ensureVersionTable makes goose's table ready for the first version.
func (s Set) ensureVersionTable(ctx context.Context, tx *sql.Tx, store goosedb.Store) error {
	if _, err := tx.ExecContext(ctx, `SET LOCAL TIME ZONE 'UTC'`); err != nil { // goose's times have no zone
		return err
	}
	var exists, begun bool
	if err := tx.QueryRowContext(ctx, tableExists, s.versionTable()).Scan(&exists); err != nil {
		return err
	}
	if !exists {
		if err := store.CreateVersionTable(ctx, tx); err != nil {
			return err
		}
	}
	if err := tx.QueryRowContext(ctx, `SELECT EXISTS (SELECT FROM `+s.versionTable()+`)`).Scan(&begun); err != nil {
		return err
	}
	if begun {
		return nil
	}
	return store.Insert(ctx, tx, goosedb.InsertRequest{Version: 0})
}

// rolledBack calls use with a transaction that is rolled back afterwards.
func rolledBack(ctx context.Context, db *sql.DB, use func(*sql.Tx) error) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	return use(tx)
}

package migrations

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/pressly/goose/v3"
)

// lockWait is how long Up and Down wait for another process that migrates.
const lockWait = time.Minute

// SQLSTATEs that need a word more.
// https://www.postgresql.org/docs/current/errcodes-appendix.html
const (
	lockNotAvailable      = "55P03" // a lock_timeout has passed
	insufficientPrivilege = "42501"
)

// tableExists looks for the table $1.
const tableExists = `SELECT pg_catalog.to_regclass($1::pg_catalog.text) IS NOT NULL`

// noTimeouts lifts the role's own timeouts: an index of a large table takes long.
// transaction_timeout came with PostgreSQL 17.
const noTimeouts = `SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0;
	SELECT pg_catalog.set_config(s.name, '0', true)
	  FROM pg_catalog.pg_settings AS s WHERE s.name OPERATOR(pg_catalog.=) 'transaction_timeout'`

// fileSettings decide how a file is read and what it means.
const fileSettings = `SET LOCAL TIME ZONE 'UTC'; SET LOCAL standard_conforming_strings = on;
	SET LOCAL search_path = pg_catalog; ` + noTimeouts

// lock waits until no other process migrates, and returns a function that lets the next
// process in. A transaction that stays open holds the lock. A session's lock would not do:
// a transaction pooler would take it in one session and release it in another.
func (s Set) lock(ctx context.Context, db *sql.DB) (unlock func(), err error) {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return nil, fmt.Errorf("taking the lock: %w", err)
	}
	unlock = func() { _ = tx.Rollback() }
	statements := fmt.Sprintf(`SET LOCAL lock_timeout = %d; `, lockWait.Milliseconds()) + noTimeouts +
		fmt.Sprintf(`; SELECT pg_catalog.pg_advisory_xact_lock(%d::pg_catalog.int8)`, s.Lock)
	_, err = tx.ExecContext(ctx, statements)
	if err != nil {
		unlock()
		if hasState(err, lockNotAvailable) {
			err = fmt.Errorf("another process has been migrating for %s: %w", lockWait, err)
		}
		return nil, fmt.Errorf("taking the lock: %w", err)
	}
	return unlock, nil
}

// ensureSchema creates the schema where it is missing. It checks first: CREATE SCHEMA wants a
// right on the database even where the schema exists. The lock keeps two
// processes from creating the schema at the same time.
func (s Set) ensureSchema(ctx context.Context, db *sql.DB) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return fmt.Errorf("creating the schema: %w", err)
	}
	defer func() { _ = tx.Rollback() }()
	var exists bool
	if _, err = tx.ExecContext(ctx, fmt.Sprintf(`SELECT pg_catalog.pg_advisory_xact_lock(%d::pg_catalog.int8)`,
		s.Lock+1)); err == nil {
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

// runFile runs a file in goose's transaction.
func (s Set) runFile(name string) *goose.GoFunc {
	return &goose.GoFunc{RunTx: func(ctx context.Context, tx *sql.Tx) error {
		statements, err := fs.ReadFile(s.Files, name)
		if err != nil {
			return err
		}
		// goose records the time of the migration in this transaction, without a zone: hence
		// UTC. Postgres parses the whole file before its first statement runs, so the
		// settings must be in force by then.
		if _, err := tx.ExecContext(ctx, fileSettings); err != nil {
			return fmt.Errorf("preparing for %s: %w", name, err)
		}
		if _, err := tx.ExecContext(ctx, string(statements)); err != nil {
			return fmt.Errorf("running %s: %w", name, err)
		}
		return nil
	}}
}

// hasState reports whether Postgres answered with the SQLSTATE, whatever the driver.
func hasState(err error, state string) bool {
	var answer interface{ SQLState() string } // pgx's error, and lib/pq's
	return errors.As(err, &answer) && answer.SQLState() == state
}

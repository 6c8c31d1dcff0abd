package migrations

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/jackc/pgx/v5"
	goosedb "github.com/pressly/goose/v3/database"
)

// adopt notes as applied what another tool has applied: psql, another migration
// tool, or pg_dump --schema-only. It returns those migrations, in order. A part of a
// migration is an error that names what is there and what is missing.
//
// What a migration makes is not guessed: a transaction that is rolled back runs the
// files in a fresh schema of the same name, and compares the catalogs. That takes
// more rights than the migrations do. unseen says why it was not done for want of them.
func (s Set) adopt(ctx context.Context, db *sql.DB) (adopted []Status, unseen, err error) {
	recorded, err := s.recorded(ctx, db)
	if err != nil || recorded == len(s.Names) {
		return nil, nil, err
	}
	there, err := s.there(ctx, db)
	if err != nil || len(there) == 0 {
		return nil, nil, err
	}
	steps, err := s.rehearse(ctx, db)
	var said interface{ SQLState() string } // pgx's error, and lib/pq's
	switch {
	case errors.As(err, &said) && said.SQLState() == insufficientPrivilege:
		return nil, fmt.Errorf("looking for what another tool may have applied wants the owner of schema %s, with the right to create schemas: %w", s.Schema, err), nil
	case err != nil:
		return nil, nil, fmt.Errorf("looking what the migrations of schema %s make: %w", s.Schema, err)
	}
	complete, err := s.compare(there, steps, recorded)
	if err != nil || complete <= recorded {
		return nil, nil, err
	}
	adopted, err = s.note(ctx, db, recorded, complete)
	return adopted, nil, err
}

// insufficientPrivilege is the SQLSTATE of a right that is missing.
const insufficientPrivilege = "42501"

// catalog has what a schema holds: what it is, such as "function outbox.new_id()",
// and how it is defined.
type catalog map[string]string

// recorded is the newest version that goose's table has; 0 also where there is no
// table, or an empty one.
func (s Set) recorded(ctx context.Context, db *sql.DB) (version int, err error) {
	var exists bool
	if err := db.QueryRowContext(ctx, `SELECT pg_catalog.to_regclass($1::pg_catalog.text) IS NOT NULL`, s.versionTable()).Scan(&exists); err != nil {
		return 0, fmt.Errorf("looking for %s: %w", s.versionTable(), err)
	}
	if !exists {
		return 0, nil
	}
	err = db.QueryRowContext(ctx, `SELECT coalesce(pg_catalog.max(version_id), 0) FROM `+s.versionTable()+` WHERE is_applied`).Scan(&version)
	if err != nil {
		return 0, fmt.Errorf("reading %s: %w", s.versionTable(), err)
	}
	return version, nil
}

// there is what the schema holds now.
func (s Set) there(ctx context.Context, db *sql.DB) (there catalog, err error) {
	err = rolledBack(ctx, db, func(tx *sql.Tx) error {
		there, err = s.read(ctx, tx)
		return err
	})
	return there, err
}

// rehearse returns what a fresh schema holds after each of the migrations.
func (s Set) rehearse(ctx context.Context, db *sql.DB) (steps []catalog, err error) {
	return steps, rolledBack(ctx, db, func(tx *sql.Tx) error {
		aside := fmt.Sprintf(`ALTER SCHEMA %s RENAME TO %s`, pgx.Identifier{s.Schema}.Sanitize(), pgx.Identifier{s.Schema + " aside"}.Sanitize())
		if _, err := tx.ExecContext(ctx, aside); err != nil {
			return err
		}
		for _, name := range s.Names {
			if err := s.runFile(name+".up.sql").RunTx(ctx, tx); err != nil {
				return err
			}
			after, err := s.read(ctx, tx)
			if err != nil {
				return err
			}
			steps = append(steps, after)
		}
		return nil
	})
}

// compare returns the version up to which there is complete. What no migration makes
// is somebody else's, and overlooked.
func (s Set) compare(there catalog, steps []catalog, recorded int) (complete int, err error) {
	all := steps[len(steps)-1]
	ours := maps.Clone(there)
	maps.DeleteFunc(ours, func(what, _ string) bool { _, made := all[what]; return !made })
	for version := len(steps); version > 0; version-- {
		if maps.Equal(ours, steps[version-1]) {
			return version, nil
		}
	}
	var parts []string
	for i, name := range s.Names[recorded:] {
		if part := partOf(name, ours, stepOf(steps, recorded+i), all); part != "" {
			parts = append(parts, part)
		}
	}
	if len(parts) == 0 {
		return recorded, nil // none of what is to come is there
	}
	return 0, fmt.Errorf("schema %s has a part of migrations that nobody noted: %s: complete it with the tool that began it, or drop what is there, then try again",
		s.Schema, strings.Join(parts, "; "))
}

// stepOf is what one migration makes that was not there before.
func stepOf(steps []catalog, i int) catalog {
	made := maps.Clone(steps[i])
	if i > 0 {
		maps.DeleteFunc(made, func(what, _ string) bool { _, before := steps[i-1][what]; return before })
	}
	return made
}

// partOf says how much of a migration is there, or "" where nothing is.
func partOf(name string, ours, made, all catalog) string {
	var present, missing, different []string
	for _, what := range slices.Sorted(maps.Keys(made)) {
		switch got, found := ours[what]; {
		case !found:
			missing = append(missing, what)
		case got != all[what] && got != made[what]:
			different = append(different, what)
		default:
			present = append(present, what)
		}
	}
	switch {
	case len(present)+len(different) == 0:
		return ""
	case len(missing)+len(different) == 0:
		return name + " is complete"
	}
	said := name + " has " + some(present)
	if len(missing) > 0 {
		said += ", lacks " + some(missing)
	}
	if len(different) > 0 {
		said += ", and differs in " + some(different) + " (definition, or rights of PUBLIC)"
	}
	return said
}

// some names a few.
func some(what []string) string {
	const few = 3
	switch {
	case len(what) == 0:
		return "nothing as it should be"
	case len(what) <= few+1:
		return strings.Join(what, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(what[:few], ", "), len(what)-few)
}

// note writes the versions after recorded into goose's table, made where it is
// missing, as goose would have: with a version 0 before the first.
func (s Set) note(ctx context.Context, db *sql.DB, recorded, complete int) (adopted []Status, err error) {
	store, err := s.store()
	if err != nil {
		return nil, err
	}
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return nil, fmt.Errorf("noting migrations: %w", err)
	}
	defer func() { _ = tx.Rollback() }()
	err = func() error {
		if _, err := tx.ExecContext(ctx, `SET LOCAL TIME ZONE 'UTC'`); err != nil { // goose's times have no zone
			return err
		}
		var exists, begun bool
		if err := tx.QueryRowContext(ctx, `SELECT pg_catalog.to_regclass($1::pg_catalog.text) IS NOT NULL`, s.versionTable()).Scan(&exists); err != nil {
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
		if !begun {
			if err := store.Insert(ctx, tx, goosedb.InsertRequest{Version: 0}); err != nil {
				return err
			}
		}
		for version := recorded + 1; version <= complete; version++ {
			if err := store.Insert(ctx, tx, goosedb.InsertRequest{Version: int64(version)}); err != nil {
				return err
			}
			adopted = append(adopted, Status{Version: int64(version), Name: s.Names[version-1], Adopted: true})
		}
		return tx.Commit()
	}()
	if err != nil {
		return nil, fmt.Errorf("noting migrations: %w", err)
	}
	return adopted, nil
}

func rolledBack(ctx context.Context, db *sql.DB, look func(*sql.Tx) error) error {
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	defer func() { _ = tx.Rollback() }()
	return look(tx)
}

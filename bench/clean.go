package main

import (
	"context"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

// cleanLimit bounds cleanUp.
const cleanLimit = 2 * time.Minute

// cleanUp cleans up what the variant before has left in all databases. Else autovacuum and the next
// checkpoint would do so while a variant is measured.
func (w *world) cleanUp(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, cleanLimit)
	defer cancel()
	conn, err := pgx.Connect(ctx, w.DatabaseURL)
	if err != nil {
		return fmt.Errorf("connecting to the database: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	rows, _ := conn.Query(ctx, `SELECT datname FROM pg_database WHERE datallowconn AND NOT datistemplate`)
	names, err := pgx.CollectRows(rows, pgx.RowTo[string]) // Query's error, too
	if err != nil {
		return fmt.Errorf("listing the databases: %w", err)
	}
	for _, name := range names {
		if err := w.vacuum(ctx, name); err != nil {
			return fmt.Errorf("vacuuming the database %s: %w", name, err)
		}
	}
	if _, err := conn.Exec(ctx, "CHECKPOINT"); err != nil {
		return fmt.Errorf("making a checkpoint: %w", err)
	}
	return nil
}

func (w *world) vacuum(ctx context.Context, database string) error {
	c, err := pgx.ParseConfig(w.DatabaseURL)
	if err != nil {
		return err
	}
	c.Database = database
	conn, err := pgx.ConnectConfig(ctx, c)
	if err != nil {
		return err
	}
	defer conn.Close(context.WithoutCancel(ctx))
	_, err = conn.Exec(ctx, "VACUUM (ANALYZE)")
	return err
}

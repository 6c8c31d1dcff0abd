package faults

import (
	"context"
	"fmt"
	"path/filepath"

	"github.com/jackc/pgx/v5"

	"github.com/outflowhq/outflow/devstack/postgres"
)

// Database is a Postgres cluster that can die and come back on its data and its
// port. It keeps every commit through that. (Nobody switches the machine off, so
// it does not wait for the disk: with that, Temporal's few shards would be slower
// than the load on a busy machine.)
type Database struct{ cluster *postgres.Cluster }

func startDatabase(ctx context.Context, dir, name string) (*Database, error) {
	cluster, err := postgres.Start(ctx, postgres.Options{
		Dir: filepath.Join(dir, name), CrashSafe: true, LogFile: filepath.Join(dir, "logs", name+".log"),
	})
	if err != nil {
		return nil, err
	}
	return &Database{cluster: cluster}, nil
}

// URL leads to one of its databases, beside every link.
func (d *Database) URL(name string) string { return d.cluster.URL(name) }

// Crash is a shutdown in mode immediate: connections are cut, nothing is
// written, and the next start recovers from the log.
func (d *Database) Crash() error { return d.cluster.Quit() }

// made are the databases that somebody has made in a cluster.
const made = `SELECT datname FROM pg_database WHERE NOT datistemplate AND datname <> 'postgres'`

// Empty drops every database, whoever is connected to it.
func (d *Database) Empty(ctx context.Context) error {
	conn, err := pgx.Connect(ctx, d.URL("postgres"))
	if err != nil {
		return fmt.Errorf("connecting to drop databases: %w", err)
	}
	defer conn.Close(ctx)
	rows, err := conn.Query(ctx, made)
	if err != nil {
		return fmt.Errorf("looking for databases to drop: %w", err)
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return fmt.Errorf("looking for databases to drop: %w", err)
	}
	for _, name := range names {
		if _, err := conn.Exec(ctx, "DROP DATABASE "+pgx.Identifier{name}.Sanitize()+" WITH (FORCE)"); err != nil {
			return fmt.Errorf("dropping database %s: %w", name, err)
		}
	}
	return nil
}

// Start brings a crashed cluster back.
func (d *Database) Start(ctx context.Context) error {
	cluster, err := postgres.Start(ctx, d.cluster.Options())
	if err == nil {
		d.cluster = cluster
	}
	return err
}

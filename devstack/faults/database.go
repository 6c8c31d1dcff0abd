package faults

import (
	"context"
	"path/filepath"

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

// Start brings a crashed cluster back.
func (d *Database) Start(ctx context.Context) error {
	cluster, err := postgres.Start(ctx, d.cluster.Options())
	if err == nil {
		d.cluster = cluster
	}
	return err
}

// Command stack holds bench's devstack, so that the CPU of Temporal is that of one process. It is a
// program of its own: its parts would otherwise be in the memory of everything that bench measures.
//
// Its Postgres keeps every commit. It writes the addresses as a line of JSON, and takes everything down
// on SIGTERM.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"

	"github.com/outflowhq/outflow/devstack/stack"
)

// settings are what a server of one's own would have: the cache of a machine with 8 GiB, by Postgres'
// advice, and checkpoints that come by time.
// https://www.postgresql.org/docs/current/runtime-config-resource.html#GUC-SHARED-BUFFERS
var settings = []string{"shared_buffers=2GB", "max_wal_size=8GB"}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Stdout)
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "stack:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, stdout io.Writer) error {
	s, err := stack.Up(ctx, stack.Options{Ephemeral: true, Durable: true, PostgresSettings: settings})
	if err != nil {
		return err
	}
	// The names are those of bench's stackReady.
	err = json.NewEncoder(stdout).Encode(map[string]string{
		"DatabaseURL": s.DatabaseURL(), "TemporalAddress": s.TemporalAddress(),
	})
	if err == nil {
		select {
		case <-ctx.Done():
		case <-s.PostgresDone():
			err = errors.New("postgres ended by itself")
		}
	}
	return errors.Join(err, s.Down())
}

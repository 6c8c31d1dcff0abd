// Package presence says in the table that a process runs, and which schemes it publishes to.
//
// The invariant: the entry is written before Keep returns, is repeated while the process runs, and is
// gone after its orderly end. Nothing that a process delivers depends on it.
package presence

import (
	"context"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/outflowhq/outflow/outbox"
)

const (
	// writeTimeout bounds a write.
	writeTimeout = 5 * time.Second
	// lookInterval lies between two looks whether the process's description has changed, which is
	// written at once.
	lookInterval = time.Second
)

// Table has the processes' entries; outboxdb.Store is one.
type Table interface {
	// Announce writes a process's entry. It is repeated every outbox.AnnounceInterval.
	Announce(ctx context.Context, p outbox.Process) error
	// Withdraw removes it.
	Withdraw(ctx context.Context, id uuid.UUID) error
}

// Keep says that this process runs, until the returned function is called. describe returns what it
// is; the schemes are those of its publishers. ID, name and host are Keep's own. An error is logged
// once, until a write succeeds.
func Keep(ctx context.Context, table Table, describe func() outbox.Process, log *slog.Logger) (stop func()) {
	k := keeper{table: table, log: log, id: uuid.New(), describe: describe}
	k.host, _ = os.Hostname() // for people, who do without
	k.write(ctx)
	// A process that stops still delivers what it has in hand.
	ctx, cancel := context.WithCancel(context.WithoutCancel(ctx))
	var keeping sync.WaitGroup
	keeping.Go(func() { k.run(ctx) })
	return sync.OnceFunc(func() {
		cancel()
		keeping.Wait()
		k.withdraw(context.WithoutCancel(ctx))
	})
}

type keeper struct {
	table    Table
	describe func() outbox.Process
	id       uuid.UUID
	host     string
	log      *slog.Logger
	failing  bool
	wrote    outbox.Process // the last entry, and when it was written
	wroteAt  time.Time
}

// run repeats the entry until ctx ends.
func (k *keeper) run(ctx context.Context) {
	ticker := time.NewTicker(lookInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			if time.Since(k.wroteAt) >= outbox.AnnounceInterval || !reflect.DeepEqual(k.wrote, k.process()) {
				k.write(ctx)
			}
		}
	}
}

// process is the entry as it should be now.
func (k *keeper) process() outbox.Process {
	p := k.describe()
	p.ID, p.Name, p.Host = k.id, filepath.Base(os.Args[0]), k.host
	if p.Schemes != nil {
		p.Schemes = outbox.DestinationSchemes(p.Schemes)
	}
	return p
}

func (k *keeper) write(ctx context.Context) {
	inTime, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	k.wrote, k.wroteAt = k.process(), time.Now()
	err := k.table.Announce(inTime, k.wrote)
	if err != nil && !k.failing && ctx.Err() == nil {
		k.log.Warn("other processes and outflow doctor do not know that this process runs", "error", err)
	}
	k.failing = err != nil
}

func (k *keeper) withdraw(ctx context.Context) {
	inTime, cancel := context.WithTimeout(ctx, writeTimeout)
	defer cancel()
	if err := k.table.Withdraw(inTime, k.id); err != nil && !k.failing {
		k.log.Warn("other processes take this process for running for a minute", "error", err)
	}
}

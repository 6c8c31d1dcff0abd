package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/outflowhq/outflow/devstack/faults"
)

// chaos is what the scenarios share.
type chaos struct {
	options
	stack  *faults.Stack
	began  time.Time
	broken []string // bounds that a ratio broke

	mu  sync.Mutex
	out io.Writer
}

// say prints a line with the time since the start.
func (c *chaos) say(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	fmt.Fprintf(c.out, "%7.1fs  %s\n", time.Since(c.began).Seconds(), fmt.Sprintf(format, args...))
}

// result prints a line that a reader looks for.
func (c *chaos) result(format string, args ...any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	fmt.Fprintf(c.out, format+"\n", args...)
}

// fleet is a world with the programs that work on it.
type fleet struct {
	*faults.World
	starters, workers   []*faults.Member
	services, consumers []*faults.Member // of the example, where it runs
}

// soonDead has messages to a queue that never was end dead within the time of a scenario.
const soonDead = "OUTFLOW_MISSING_GRACE=5s"

// crew are programs of one kind, with settings of their own.
type crew struct {
	program  string
	count    int
	settings []string
}

// deploy makes a world and starts two starters and two workers on it, with more
// settings.
func (c *chaos) deploy(ctx context.Context, name string, settings ...string) (*fleet, error) {
	return c.deployCrews(ctx, name, []crew{{program: faults.Worker, count: 2}, {program: faults.Starter, count: 2}}, settings...)
}

// deployCrews makes a world and starts programs on it, with settings that they share.
func (c *chaos) deployCrews(ctx context.Context, name string, crews []crew, settings ...string) (*fleet, error) {
	w, err := faults.NewWorld(ctx, c.stack, name)
	if err != nil {
		return nil, err
	}
	f := &fleet{World: w}
	// What a killed process held comes back when its lease runs out; 30 s is the least.
	env := slices.Concat(w.Env(), []string{"OUTFLOW_LEASE=30s"}, settings)
	for _, crew := range crews {
		short, into := "starter", &f.starters
		if crew.program == faults.Worker {
			short, into = "worker", &f.workers
		}
		for i := range crew.count {
			m, err := faults.SuperviseAs(fmt.Sprintf("%s-%d", short, i), c.programs, crew.program,
				slices.Concat(env, crew.settings))
			if err != nil {
				return nil, errors.Join(err, f.close(c.stack.Logs()))
			}
			*into = append(*into, m)
		}
	}
	return f, nil
}

func (f *fleet) members() []*faults.Member {
	return slices.Concat(f.starters, f.workers, f.services, f.consumers)
}

// close stops the programs, writes what they said to the logs, and ends the world.
func (f *fleet) close(logs string) error {
	var errs []error
	for _, m := range f.members() {
		errs = append(errs, m.Stop())
		errs = append(errs, os.WriteFile(filepath.Join(logs, fmt.Sprintf("%s-%s.log", f.Name, m.Name)),
			[]byte(m.Said()), 0o644))
	}
	f.World.Close()
	return errors.Join(errs...)
}

// pause waits; false means that ctx is over.
func pause(ctx context.Context, d time.Duration) bool {
	select {
	case <-ctx.Done():
		return false
	case <-time.After(d):
		return true
	}
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
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
	starters, workers []*faults.Member
}

// deploy makes a world and starts two starters and two workers on it, with more
// settings.
func (c *chaos) deploy(ctx context.Context, name string, settings ...string) (*fleet, error) {
	w, err := faults.NewWorld(ctx, c.stack, name)
	if err != nil {
		return nil, err
	}
	f := &fleet{World: w}
	// What a killed process held comes back when its lease runs out; 30 s is the least.
	env := append(append(w.Env(), "OUTFLOW_LEASE=30s"), settings...)
	for range 2 {
		for _, of := range []struct {
			program string
			into    *[]*faults.Member
		}{{faults.Worker, &f.workers}, {faults.Starter, &f.starters}} {
			m, err := faults.Supervise(c.programs, of.program, env)
			if err != nil {
				return nil, errors.Join(err, f.close(c.stack.Logs()))
			}
			*of.into = append(*of.into, m)
		}
	}
	return f, nil
}

func (f *fleet) members() []*faults.Member {
	return append(append([]*faults.Member{}, f.starters...), f.workers...)
}

// close stops the programs, writes what they said to the logs, and ends the world.
func (f *fleet) close(logs string) error {
	var errs []error
	for i, m := range f.members() {
		errs = append(errs, m.Stop())
		errs = append(errs, os.WriteFile(filepath.Join(logs, fmt.Sprintf("%s-%s-%d.log", f.Name, m.Name, i)), []byte(m.Said()), 0o644))
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

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"syscall"
	"time"
)

// stopLimit is how long the processes have to end by themselves: a starter or
// worker finishes what it is publishing, for at most 15 seconds.
const stopLimit = 20 * time.Second

// earlyEnd is the end of a process that should have gone on.
type earlyEnd struct{ error }

// family is the demo's child processes. One that ends before stop fails the
// whole demo.
type family struct {
	stdout, stderr io.Writer
	fail           context.CancelCauseFunc
	members        []*child

	mu       sync.Mutex // one line at a time
	stopping bool
}

func newFamily(stdout, stderr io.Writer, fail context.CancelCauseFunc) *family {
	return &family{stdout: stdout, stderr: stderr, fail: fail}
}

// String names the processes.
func (f *family) String() string {
	var names []string
	for _, c := range f.members {
		names = append(names, fmt.Sprintf("%s (pid %d)", c.name, c.cmd.Process.Pid))
	}
	return strings.Join(names, ", ")
}

// print writes a line for the audience.
func (f *family) print(name, line string) { f.printTo(f.stdout, name, line) }

func (f *family) printTo(w io.Writer, name, line string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if name != "" {
		line = fmt.Sprintf("%-8s | %s", name, line)
	}
	fmt.Fprintln(w, line)
}

// run runs a program to its end. Its output is shown only if it fails.
func (f *family) run(ctx context.Context, name, path string, args ...string) error {
	c := newChild(name, path, args, nil)
	if err := c.start(); err != nil {
		return err
	}
	select {
	case <-c.done:
	case <-ctx.Done():
		c.signal(syscall.SIGKILL)
		<-c.done
		return context.Cause(ctx)
	}
	if c.err != nil {
		return fmt.Errorf("%s: %w%s", name, c.err, c.lastLines())
	}
	return nil
}

// start starts a member. see gets each of its lines; those that are worth it
// are printed too.
func (f *family) start(name string, see func(line string), path string, args ...string) error {
	c := newChild(name, path, args, func(w io.Writer, line string) {
		see(line)
		if !quiet(line) {
			f.printTo(w, name, line)
		}
	})
	c.out.to, c.errs.to = f.stdout, f.stderr
	if err := c.start(); err != nil {
		return err
	}
	f.members = append(f.members, c)
	go func() {
		<-c.done
		f.mu.Lock()
		defer f.mu.Unlock()
		if !f.stopping {
			f.fail(earlyEnd{fmt.Errorf("%s ended early (%s)%s", name, c.cmd.ProcessState, c.lastLines())})
		}
	}()
	return nil
}

// quiet says that a line is for the record only.
func quiet(line string) bool {
	return strings.Contains(line, " level=INFO ") || strings.HasPrefix(line, "listening on ")
}

// stop ends all members together: politely, then not.
func (f *family) stop() error {
	f.mu.Lock()
	f.stopping = true
	f.mu.Unlock()
	for _, c := range f.members {
		c.signal(syscall.SIGTERM)
		c.signal(syscall.SIGCONT) // somebody may have stopped it, to see what happens
	}
	over, cancel := context.WithTimeout(context.Background(), stopLimit)
	defer cancel()
	var errs []error
	for _, c := range f.members {
		select {
		case <-c.done:
		case <-over.Done():
			c.signal(syscall.SIGKILL)
			<-c.done
			errs = append(errs, fmt.Errorf("%s had to be killed: it did not end within %s", c.name, stopLimit))
		}
	}
	return errors.Join(errs...)
}

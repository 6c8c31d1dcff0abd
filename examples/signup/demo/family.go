package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// stopTimeout is how long the processes have to end after SIGTERM. By default a worker
	// finishes its activities within 20 seconds, after the starter has finished its starts.
	stopTimeout = 45 * time.Second
	// The pause before an ended process is started again doubles from minRestartPause to
	// maxRestartPause. It is minRestartPause again after a process has run for settledAfter.
	minRestartPause = time.Second
	maxRestartPause = 30 * time.Second
	settledAfter    = 10 * time.Second
)

// earlyEnd is the end of a process before all were ready.
type earlyEnd struct{ error }

// family has the demo's child processes. A process that ends before all are ready fails the
// demo. A process that ends later is started again.
type family struct {
	stdout, stderr io.Writer
	fail           context.CancelCauseFunc
	restarted      func()   // called after each restart, if it is set
	env            []string // of each process, beside the demo's own

	printing sync.Mutex // one line at a time

	mu       sync.Mutex
	members  []*member
	ready    bool // a process that ends now is started again
	stopping chan struct{}
	keepers  sync.WaitGroup
}

// member is a program and its current process.
type member struct {
	name, path string
	args       []string
	see        func(line string)
	process    *child
}

func newFamily(stdout, stderr io.Writer, fail context.CancelCauseFunc) *family {
	return &family{stdout: stdout, stderr: stderr, fail: fail, stopping: make(chan struct{})}
}

// String names the processes.
func (f *family) String() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	var names []string
	for _, m := range f.members {
		names = append(names, fmt.Sprintf("%s (pid %d)", m.name, m.process.pid()))
	}
	return strings.Join(names, ", ")
}

// print writes a line for the person who watches.
func (f *family) print(name, line string) { f.printTo(f.stdout, name, line) }

func (f *family) printTo(w io.Writer, name, line string) {
	f.printing.Lock()
	defer f.printing.Unlock()
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

// start starts a member. see is called with each of its lines. Lines that are not quiet are
// printed too.
func (f *family) start(name string, see func(line string), path string, args ...string) error {
	m := &member{name: name, path: path, args: args, see: see}
	if started, err := f.launch(m); !started {
		return err
	}
	f.mu.Lock()
	f.members = append(f.members, m)
	f.mu.Unlock()
	f.keepers.Go(func() { f.keep(m) })
	return nil
}

// launch starts a process of the member, unless the family is stopping.
func (f *family) launch(m *member) (started bool, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	select {
	case <-f.stopping:
		return false, nil
	default:
	}
	c := newChild(m.name, m.path, m.args, func(w io.Writer, line string) {
		m.see(line)
		if !quiet(line) {
			f.printTo(w, m.name, line)
		}
	})
	c.out.to, c.errs.to = f.stdout, f.stderr
	c.cmd.Env = append(c.cmd.Env, f.env...)
	if err := c.start(); err != nil {
		return false, err
	}
	m.process = c
	return true, nil
}

// quiet says that a line is not printed.
func quiet(line string) bool {
	return strings.Contains(line, " level=INFO ") ||
		strings.HasPrefix(line, "listening on ") || strings.HasPrefix(line, "consuming ") ||
		strings.HasPrefix(line, "running workflows ")
}

// allReady is called when all processes are ready: those that end from now on are started
// again. args are the arguments of later processes, by the member's name.
func (f *family) allReady(args map[string][]string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, m := range f.members {
		if later, ok := args[m.name]; ok {
			m.args = later
		}
	}
	f.ready = true
}

// keep starts the member again whenever its process ends.
func (f *family) keep(m *member) {
	pause := minRestartPause
	for {
		began, c := time.Now(), m.process // only this goroutine changes it by now
		select {
		case <-c.done:
		case <-f.stopping:
			return
		}
		f.mu.Lock()
		ready := f.ready
		f.mu.Unlock()
		if !ready {
			f.fail(earlyEnd{fmt.Errorf("%s ended early (%s)%s", m.name, c.cmd.ProcessState, c.lastLines())})
			return
		}
		if time.Since(began) > settledAfter {
			pause = minRestartPause
		}
		f.print(m.name, fmt.Sprintf("pid %d ended (%s); starting it again", c.pid(), c.describeEnd()))
		if !f.restart(m, pause) {
			return
		}
		pause = min(2*pause, maxRestartPause)
	}
}

// restart starts the member after pause. It returns false if the family is stopping.
func (f *family) restart(m *member, pause time.Duration) bool {
	for {
		select {
		case <-time.After(pause):
		case <-f.stopping:
			return false
		}
		started, err := f.launch(m)
		if started {
			break
		}
		if err == nil {
			return false
		}
		f.print(m.name, err.Error())
		pause = maxRestartPause
	}
	f.print(m.name, fmt.Sprintf("runs again (pid %d)", m.process.pid()))
	if f.restarted != nil {
		f.restarted()
	}
	return true
}

// stop ends all members together: with SIGTERM, and with SIGKILL after stopTimeout.
func (f *family) stop() error {
	f.mu.Lock()
	close(f.stopping)
	members := slices.Clone(f.members)
	f.mu.Unlock()
	f.keepers.Wait()
	for _, m := range members {
		m.process.signal(syscall.SIGTERM)
		m.process.signal(syscall.SIGCONT) // the person who watches may have stopped it
	}
	over, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	var errs []error
	for _, m := range members {
		select {
		case <-m.process.done:
		case <-over.Done():
			m.process.signal(syscall.SIGKILL)
			<-m.process.done
			errs = append(errs, fmt.Errorf("%s had to be killed: it did not end within %s", m.name, stopTimeout))
		}
	}
	return errors.Join(errs...)
}

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"os/exec"
	"sync"
	"syscall"
	"time"

	"github.com/outflowhq/outflow/devstack/proc"
)

// stopTimeout is how long a child may take to end orderly: Outflow's programs finish what is in
// flight.
const stopTimeout = 40 * time.Second

// child is a process that bench started. It says what its parent needs to know as lines of JSON on
// standard output.
type child struct {
	*proc.Process
	name  string
	lines *lines
	said  *tail // standard error
	stdin io.WriteCloser
}

// start starts a program with nothing of the environment but env, in a process group of its own, so
// that Ctrl-C reaches bench alone, which ends its children in order.
func start(env []string, death syscall.Signal, path string, args ...string) (*child, error) {
	c := &child{name: path, lines: newLines(), said: &tail{}}
	if len(args) > 0 {
		c.name = args[0]
	}
	cmd := exec.Command(path, args...)
	cmd.Env, cmd.Stdout, cmd.Stderr = env, c.lines, c.said
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	var err error
	if c.stdin, err = cmd.StdinPipe(); err != nil {
		return nil, fmt.Errorf("starting %s: %w", c.name, err)
	}
	if c.Process, err = proc.Start(cmd, death); err != nil {
		return nil, err
	}
	return c, nil
}

// startPart starts a part of bench.
func (w *world) startPart(name string, args ...string) (*child, error) {
	return start(w.env, syscall.SIGKILL, w.self, append([]string{"part-" + name}, args...)...)
}

// read waits for the child's next line and decodes it.
func (c *child) read(ctx context.Context, into any) error {
	select {
	case line := <-c.lines.next:
		if err := json.Unmarshal(line, into); err != nil {
			return fmt.Errorf("reading what %s said (%q): %w", c.name, line, err)
		}
		return nil
	case <-c.Done():
		return c.died()
	case <-ctx.Done():
		return fmt.Errorf("waiting for %s: %w; it said: %s", c.name, context.Cause(ctx), c.said)
	}
}

// died is the error of a child that has ended too early.
func (c *child) died() error {
	return fmt.Errorf("%s ended by itself (%v); it said: %s", c.name, c.Err(), c.said)
}

// stop ends the child as a deployment does, and kills it where that takes too long.
func (c *child) stop() error {
	_ = c.Signal(syscall.SIGTERM) // it may be gone; Err says so
	select {
	case <-c.Done():
	case <-time.After(stopTimeout):
		_ = c.Signal(syscall.SIGKILL)
		<-c.Done()
		return fmt.Errorf("stopping %s: killed after %s; it said: %s", c.name, stopTimeout, c.said)
	}
	if err := c.Err(); err != nil {
		return fmt.Errorf("stopping %s: %w; it said: %s", c.name, err, c.said)
	}
	return nil
}

// reportLine writes a line of JSON for the parent.
func reportLine(out io.Writer, v any) error {
	if err := json.NewEncoder(out).Encode(v); err != nil {
		return fmt.Errorf("reporting to bench: %w", err)
	}
	return nil
}

// lines splits what is written into lines.
type lines struct {
	partial []byte
	next    chan []byte
}

func newLines() *lines { return &lines{next: make(chan []byte, 16)} }

func (l *lines) Write(b []byte) (int, error) {
	l.partial = append(l.partial, b...)
	for {
		line, rest, ok := bytes.Cut(l.partial, []byte("\n"))
		if !ok {
			return len(b), nil
		}
		select {
		case l.next <- bytes.Clone(line):
		default: // nobody reads the lines of Outflow's own programs
		}
		l.partial = bytes.Clone(rest)
	}
}

// tail keeps the end of what is written.
type tail struct {
	mu   sync.Mutex
	text []byte
}

const tailBytes = 4000

func (t *tail) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.text = append(t.text, b...)
	t.text = t.text[max(len(t.text)-tailBytes, 0):]
	return len(b), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	if len(t.text) == 0 {
		return "nothing"
	}
	return string(bytes.TrimSpace(t.text))
}

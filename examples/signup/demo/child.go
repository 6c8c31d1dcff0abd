package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"
)

// child is one process in a process group of its own: a Ctrl-C reaches only the demo, which
// then ends its children.
type child struct {
	name      string
	cmd       *exec.Cmd
	out, errs lines
	done      chan struct{} // closed after the end, when err is set
	err       error

	mu   sync.Mutex
	tail []string
}

// tailLength is the number of last lines that the error of an early end has.
const tailLength = 15

func newChild(name, path string, args []string, show func(io.Writer, string)) *child {
	c := &child{name: name, cmd: exec.Command(path, args...), done: make(chan struct{})}
	each := func(w io.Writer, line string) {
		c.mu.Lock()
		c.tail = append(c.tail, line)
		c.tail = c.tail[max(0, len(c.tail)-tailLength):]
		c.mu.Unlock()
		if show != nil {
			show(w, line)
		}
	}
	c.out.each, c.errs.each = each, each
	c.cmd.Stdout, c.cmd.Stderr = &c.out, &c.errs
	// mark and quiet read this format.
	c.cmd.Env = append(os.Environ(), "OUTFLOW_LOG_LEVEL=info", "OUTFLOW_LOG_FORMAT=text")
	c.cmd.WaitDelay = time.Second
	c.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	setDeathSignal(c.cmd.SysProcAttr)
	return c
}

// start starts the process. Linux sends the death signal when the thread that forked ends. So
// the goroutine that starts the process keeps its thread until the process has ended.
func (c *child) start() error {
	started := make(chan error)
	go func() {
		runtime.LockOSThread()
		err := c.cmd.Start()
		started <- err
		if err == nil {
			c.err = c.cmd.Wait()
			c.out.flush()
			c.errs.flush()
			close(c.done)
		}
	}()
	if err := <-started; err != nil {
		return fmt.Errorf("starting %s: %w", c.name, err)
	}
	return nil
}

func (c *child) pid() int { return c.cmd.Process.Pid }

// describeEnd says how the process ended, with its last lines if it failed. Call it after
// done.
func (c *child) describeEnd() string {
	status, ok := c.cmd.ProcessState.Sys().(syscall.WaitStatus)
	if c.err == nil || ok && status.Signaled() {
		return c.cmd.ProcessState.String()
	}
	return c.cmd.ProcessState.String() + c.lastLines()
}

// signal signals the process and whatever it has started.
func (c *child) signal(sig syscall.Signal) {
	select {
	case <-c.done: // another process may have the ID by now
	default:
		_ = syscall.Kill(-c.pid(), sig) // fails where the process has just ended: see done
	}
}

func (c *child) lastLines() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(c.tail) == 0 {
		return ", with no output"
	}
	return "; its last lines:\n  " + strings.Join(c.tail, "\n  ")
}

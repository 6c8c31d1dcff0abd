// Package proc starts child processes that never outlive the process which started them.
//
// The invariant: a child that Start returned gets its death signal when this process goes, however
// it goes (SIGKILL included). Linux alone has such a signal; elsewhere a child ends only on an
// orderly stop.
package proc

import (
	"fmt"
	"os/exec"
	"runtime"
	"syscall"
)

// Process is a started child. Its methods may be called from any goroutine.
type Process struct {
	cmd  *exec.Cmd
	done chan struct{}
	err  error
}

// Start starts cmd, which gets death when this process ends. Dir, Env, Stdin and so on are the
// caller's; of cmd.SysProcAttr only the death signal is set here.
//
// The kernel sends the signal when the *thread* that forked the child ends, not the process. Go
// ends idle threads as it likes, so the child is started, and waited for, on a goroutine that keeps
// its thread to itself.
func Start(cmd *exec.Cmd, death syscall.Signal) (*Process, error) {
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	setDeathSignal(cmd.SysProcAttr, death)
	p := &Process{cmd: cmd, done: make(chan struct{})}
	started := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := cmd.Start()
		started <- err
		if err == nil {
			p.err = cmd.Wait()
			close(p.done)
		}
	}()
	if err := <-started; err != nil {
		return nil, fmt.Errorf("starting %s: %w", cmd.Path, err)
	}
	return p, nil
}

// Pid is the child's process ID.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Signal sends sig to the child. A child that is gone already is an error (os.ErrProcessDone).
func (p *Process) Signal(sig syscall.Signal) error { return p.cmd.Process.Signal(sig) }

// Done is closed when the child has ended and was reaped.
func (p *Process) Done() <-chan struct{} { return p.done }

// Err waits for the end and returns what (*exec.Cmd).Wait did: nil for exit code 0, else mostly an
// *exec.ExitError.
func (p *Process) Err() error {
	<-p.done
	return p.err
}

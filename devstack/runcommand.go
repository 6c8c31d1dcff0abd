package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"syscall"
	"time"

	"github.com/outflowhq/outflow/devstack/proc"
)

// graceful is how long a command has to end after a signal was passed on, before it is
// killed: longer than the demo gives its processes, and than a starter may take, 45 s.
const graceful = time.Minute

func runCommand(ctx context.Context, args []string, environ func() []string, stdout, stderr io.Writer) error {
	o, command, err := parseFlags("run", args)
	if errors.Is(err, flag.ErrHelp) {
		_, err := fmt.Fprint(stdout, usage)
		return err
	}
	if err != nil {
		return err
	}
	if len(command) == 0 {
		return usageError{errors.New("run wants a command: devstack run [flags] -- COMMAND [ARG…]")}
	}
	o.Ephemeral = o.DataDir == ""
	// From here on, so that none is lost between the start of the stack and that of the command.
	signals := make(chan os.Signal, 8)
	signal.Notify(signals, os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	defer signal.Stop(signals)
	s, err := start(ctx, o)
	if err != nil {
		return err
	}
	if s == nil {
		return exitCode(128 + int(syscall.SIGINT))
	}
	if err := s.WriteTable(stderr); err != nil {
		return errors.Join(err, s.Down())
	}
	cmd := exec.Command(command[0], command[1:]...)
	cmd.Env = s.ChildEnv(environ())
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, stdout, stderr
	code, err := supervise(cmd, signals, s.PostgresDone(), stderr)
	if err = errors.Join(err, s.Down()); err == nil && code != 0 {
		err = exitCode(code)
	}
	return err
}

// supervise runs the command as a process group of its own, passes signals on to the whole group,
// and returns the exit code. What the command leaves running in its group is killed: it would have
// nothing to talk to.
func supervise(cmd *exec.Cmd, signals <-chan os.Signal, lost <-chan struct{}, stderr io.Writer) (int, error) {
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	restore := giveTerminal(cmd.SysProcAttr)
	defer restore()
	child, err := proc.Start(cmd, syscall.SIGKILL)
	if err != nil {
		return 0, err
	}
	// An error of a signal to the group means that it is gone, which Done reports.
	group := func(sig syscall.Signal) { _ = syscall.Kill(-child.Pid(), sig) }
	defer group(syscall.SIGKILL)
	var kill <-chan time.Time
	for {
		select {
		case <-child.Done():
			return exitCodeOf(child.Err())
		case sig := <-signals:
			group(sig.(syscall.Signal))
			if kill == nil {
				kill = time.After(graceful)
			}
		case <-kill:
			group(syscall.SIGKILL)
		case <-lost:
			fmt.Fprintln(stderr, "devstack: postgres ended by itself while the command ran")
			lost = nil
		}
	}
}

// exitCodeOf turns the end of a command into a shell's exit code: 128 + the signal's number for a
// killed one.
func exitCodeOf(err error) (int, error) {
	var exit *exec.ExitError
	switch {
	case err == nil:
		return 0, nil
	case !errors.As(err, &exit):
		return 0, fmt.Errorf("waiting for the command: %w", err)
	}
	if status, ok := exit.Sys().(syscall.WaitStatus); ok && status.Signaled() {
		return 128 + int(status.Signal()), nil
	}
	return exit.ExitCode(), nil
}

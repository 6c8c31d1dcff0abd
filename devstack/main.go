// Command devstack brings up what Outflow needs for development and tests, in one process and
// without Docker: Postgres, Temporal with its Web UI, an SQS/SNS endpoint, and RabbitMQ where
// asked. `devstack help` says how.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"syscall"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends at once, for a stop that hangs
	err := run(ctx, os.Args[1:], os.Environ, os.Stdout, os.Stderr)
	stop()
	if err != nil && !errors.As(err, new(exitCode)) {
		fmt.Fprintln(os.Stderr, "devstack:", err)
	}
	os.Exit(codeOf(err))
}

// exitCode is the code of a command that `run` ran, which has said by itself what went wrong.
type exitCode int

func (c exitCode) Error() string { return fmt.Sprintf("the command ended with exit code %d", int(c)) }

// usageError is a mistake on the command line.
type usageError struct{ error }

func codeOf(err error) int {
	var code exitCode
	var usage usageError
	switch {
	case err == nil:
		return 0
	case errors.As(err, &code):
		return int(code)
	case errors.As(err, &usage):
		return 2
	}
	return 1
}

// run is the program without its process: environ and the writers are the caller's, an end of ctx
// is Ctrl-C.
func run(ctx context.Context, args []string, environ func() []string, stdout, stderr io.Writer) error {
	if len(args) == 0 {
		fmt.Fprint(stderr, usage)
		return usageError{errors.New("give a command")}
	}
	switch args[0] {
	case "help", "-h", "-help", "--help":
		_, err := fmt.Fprint(stdout, usage)
		return err
	case "missing":
		return missing(stdout)
	case "up":
		return up(ctx, args[1:], stdout, stderr)
	case "run":
		return runCommand(ctx, args[1:], environ, stdout, stderr)
	}
	return usageError{fmt.Errorf("there is no command %q: see `devstack help`", args[0])}
}

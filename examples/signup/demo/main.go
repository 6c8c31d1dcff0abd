// Command demo shows Outflow at work: it starts Outflow and the sign-up example as processes,
// signs people up over HTTP and shows each message arriving. Run it in a devstack:
// bin/devstack run -- bin/demo. With -own it runs only Outflow, for messages of your own:
// "make dev".
//
// The invariant: no process outlives the demo, and a process that ends is started again. With
// -once, exit code 0 means that the consumer has handled every message of the table once.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
)

const usage = `demo starts Outflow and the sign-up example, signs people up and shows their messages arriving.

Usage:
  devstack run -- demo [-once] [-people 10] [-time-limit 2m]
  devstack run --env-file FILE -- demo -own FILE

Flags:
  -once            sign people up, wait until every message has arrived, and end; exit code 1 if one has not
  -people N        with -once: how many people, at least 10 (three messages each)
  -time-limit 2m   with -once: how long it may take; messages of a killed starter arrive after a minute
  -own FILE        run only starter and worker, and print how a shell that reads FILE sends a message
`

// usageError is a mistake on the command line.
type usageError struct{ error }

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	context.AfterFunc(ctx, stop) // a second signal ends the demo at once
	err := run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr)
	var mistake usageError
	switch {
	case errors.As(err, &mistake):
		fmt.Fprintf(os.Stderr, "demo: %v\nSee \"demo -help\".\n", err)
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, "demo:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) error {
	flags := flag.NewFlagSet("demo", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	once := flags.Bool("once", false, "")
	people := flags.Int("people", 10, "")
	limit := flags.Duration("time-limit", 2*time.Minute, "")
	own := flags.String("own", "", "")
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		_, err := fmt.Fprint(stdout, usage)
		return err
	case err != nil:
		return usageError{err}
	case flags.NArg() > 0:
		return usageError{fmt.Errorf("unexpected argument %q", flags.Arg(0))}
	case *own != "" && *once:
		return usageError{errors.New("-own and -once exclude each other")}
	case *people < 10:
		return usageError{fmt.Errorf("-people: wants 10 or more (got %d)", *people)}
	case *limit <= 0:
		return usageError{fmt.Errorf("-time-limit: wants more than 0, such as 1m (got %s)", *limit)}
	}
	if err := checkSettings(getenv); err != nil {
		return err
	}
	programs := []string{"outflow", "outflow-starter", "outflow-worker"}
	if *own == "" {
		programs = append(programs, "signup")
	}
	bin, err := findPrograms(programs)
	if err != nil {
		return err
	}
	pool, err := pgxpool.New(ctx, getenv("DATABASE_URL"))
	if err != nil {
		return fmt.Errorf("DATABASE_URL: %w", err)
	}
	defer pool.Close()
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	d := &demo{
		bin: bin, pool: pool, every: signUpEvery,
		webUI: getenv("OUTFLOW_TEMPORAL_UI"), namespace: cmp.Or(getenv("TEMPORAL_NAMESPACE"), "default"),
		family: newFamily(stdout, stderr, fail),
	}
	switch {
	case *own != "":
		err = d.own(ctx, *own)
	case *once:
		err = d.once(ctx, *people, *limit)
	default:
		err = d.stay(ctx)
	}
	err = d.finish(ctx, err)
	fail(nil)
	d.counting.Wait()
	return err
}

// checkSettings requires the variables that devstack sets. The endpoint keeps the demo from
// creating queues in a real AWS account.
func checkSettings(getenv func(string) string) error {
	var missing []string
	for _, name := range []string{"DATABASE_URL", "TEMPORAL_ADDRESS", "AWS_ENDPOINT_URL_SQS", "AWS_REGION",
		"OUTFLOW_TEMPORAL_UI"} {
		if getenv(name) == "" {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		return fmt.Errorf("%s not set: run it in a devstack, \"bin/devstack run -- bin/demo\"",
			strings.Join(missing, ", "))
	}
	return nil
}

// findPrograms returns the folder of this program, in which the others must be.
func findPrograms(names []string) (string, error) {
	self, err := os.Executable()
	if err != nil {
		return "", fmt.Errorf("looking for the other programs: %w", err)
	}
	bin := filepath.Dir(self)
	var missing []string
	for _, name := range names {
		if _, err := os.Stat(filepath.Join(bin, name)); err != nil {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		return "", fmt.Errorf("%s not found in %s, beside this program: run \"make build\"",
			strings.Join(missing, ", "), bin)
	}
	return bin, nil
}

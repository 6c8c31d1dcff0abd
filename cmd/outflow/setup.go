package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"time"

	"go.temporal.io/sdk/client"
	sdklog "go.temporal.io/sdk/log"

	"github.com/outflowhq/outflow/control"
	"github.com/outflowhq/outflow/internal/config"
)

const setupUsage = `outflow setup prepares a Temporal namespace: it creates the Keyword search
attributes by which the Web UI shows and finds deliveries, those that are not
there yet, and waits until a start with them is accepted. It may be run again
at any time. Outflow delivers without them too.

Usage:
  outflow setup [-wait 1m]
  outflow setup -print     print the commands that create them, and do nothing

Flags:
  -wait   how long it may take, from 1s (default 1m)
  -print  for somebody else to run, where you may not create search attributes

The namespace is TEMPORAL_ADDRESS, TEMPORAL_NAMESPACE, TEMPORAL_API_KEY,
TEMPORAL_TLS_…; no other setting is read.
Exit codes: 0 the namespace is ready (or the commands were printed), 1 it is
not: the reason, and where you may not create them the commands for somebody
who may, are printed, 2 a mistake on the command line.
`

// leastWait leaves time for a call or two.
const leastWait = time.Second

// setup reads its flags; the work is control.Setup's.
func setup(ctx context.Context, args []string, getenv func(string) string, stdout io.Writer) error {
	flags := flag.NewFlagSet("setup", flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	wait := flags.Duration("wait", control.DefaultWait, "")
	printOnly := flags.Bool("print", false, "")
	switch err := flags.Parse(args); {
	case errors.Is(err, flag.ErrHelp):
		_, err := fmt.Fprint(stdout, setupUsage)
		return err
	case err != nil:
		return mistakenFlag(flags, err)
	case flags.NArg() > 0:
		return usageError("setup: unexpected argument %q", flags.Arg(0))
	case *wait < leastWait:
		return usageError("setup: -wait wants at least %s (got %s)", leastWait, *wait)
	}
	options, err := config.Temporal(getenv)
	if err != nil {
		return err
	}
	target := targetOf(options)
	if *printOnly {
		for _, line := range target.Commands(nil) {
			fmt.Fprintln(stdout, line)
		}
		return nil
	}
	options.Logger = sdklog.NewStructuredLogger(slog.New(slog.DiscardHandler))
	dialing, cancel := context.WithTimeout(ctx, *wait)
	defer cancel()
	c, err := client.DialContext(dialing, options)
	if err != nil {
		return fmt.Errorf("connecting to Temporal at %s: %w", target.Address, err)
	}
	defer c.Close()
	return control.Setup(ctx, control.NewNamespace(c, target.Namespace), target, *wait, stdout)
}

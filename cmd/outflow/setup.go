package main

import (
	"context"
	"flag"
	"fmt"
	"time"

	"github.com/outflowhq/outflow/internal/config"
	"github.com/outflowhq/outflow/namespace"
)

const setupUsage = `outflow setup prepares a Temporal namespace: it creates the missing ones of the
Keyword search attributes by which the Web UI shows and finds deliveries, and waits until
Temporal accepts a start with them. It may be run again at any time. Outflow delivers
without them too.

Usage:
  outflow setup [-wait 1m]
  outflow setup -print     print the commands that create them, and do nothing

Flags:
  -wait   how long it may take, from 1s (default 1m)
  -print  for somebody else to run, where you may not create search attributes

The namespace is TEMPORAL_ADDRESS, TEMPORAL_NAMESPACE, TEMPORAL_API_KEY,
TEMPORAL_TLS_…; no other setting is read.
Exit codes: 0 the namespace is ready (or the commands were printed), 1 it is not: the
reason is printed, and where you may not create the attributes the commands for somebody
who may, 2 a mistake on the command line.
`

// minWait leaves time for a call or two.
const minWait = time.Second

func setup(ctx context.Context, cl commandLine, args []string) error {
	flags := flag.NewFlagSet("setup", flag.ContinueOnError)
	wait := flags.Duration("wait", namespace.DefaultWait, "")
	printOnly := flags.Bool("print", false, "")
	switch err := cl.parseFlagsOnly(flags, setupUsage, args); {
	case err != nil:
		return err
	case *wait < minWait:
		return usageError("setup: -wait wants at least %s (got %s)", minWait, *wait)
	}
	options, err := config.Temporal(cl.getenv)
	if err != nil {
		return err
	}
	target := targetOf(options)
	if *printOnly {
		for _, line := range target.Commands(nil) {
			fmt.Fprintln(cl.stdout, line)
		}
		return nil
	}
	dialing, cancel := context.WithTimeout(ctx, *wait)
	defer cancel()
	c, err := dial(dialing, options)
	if err != nil {
		return err
	}
	defer c.Close()
	return namespace.New(c, target.Namespace).Setup(ctx, target, *wait, cl.stdout)
}

package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/outflowhq/outflow/internal/brokers"
	"github.com/outflowhq/outflow/internal/config"
	"github.com/outflowhq/outflow/namespace"
	"github.com/outflowhq/outflow/operator"
	"github.com/outflowhq/outflow/publish"
)

const doctorUsage = `outflow doctor looks for what keeps messages from being delivered.

Usage:
  outflow doctor [-json]

It checks
  * the database, its schema, this role's rights, the clocks and old snapshots
  * dead messages, ordering keys that they block, and whether notifications arrive
  * Temporal, its namespace, search attributes and workers, also those of streams where any
    is to begin
  * the schedule that maintains the table, and runs that are stalled
  * where pending messages go: whether queues, topics and exchanges exist (else the command
    that makes them), whether the OUTFLOW_WEBHOOK_… settings allow the hosts of webhooks
    (give it the settings of the daemons), and whether a running starter or worker publishes
    there
  * deliveries and callbacks that failed, or that settings keep from being sent, each with
    one of their errors, and messages that a stream claimed long ago
It changes nothing and sends no message. Each check is ok, warn, fail, or skip where it
can't be made from here.

It needs an operator's role on the database (outflow grants -operator).

Flags:
  -json  a finding a line

Exit codes: 0 nothing fails, 1 something does, 2 a mistake on the command line.
`

func doctor(ctx context.Context, cl commandLine, args []string) error {
	flags := flag.NewFlagSet("doctor", flag.ContinueOnError)
	asJSON := flags.Bool("json", false, "")
	if err := cl.parseFlagsOnly(flags, doctorUsage, args); err != nil {
		return err
	}
	subject := operator.Subject{
		Outbox: cl.outbox(), TaskQueue: cl.taskQueue(),
	}
	o, closeAll, err := cl.operator(ctx)
	if subject.DatabaseErr = err; err == nil {
		defer closeAll()
		subject.Operator = o
	}
	if options, err := config.Temporal(cl.getenv); err == nil {
		subject.Target = targetOf(options)
	}
	c, _, err := cl.temporal(ctx)
	if subject.NamespaceErr = err; err == nil {
		defer c.Close()
		subject.Namespace = namespace.New(c, subject.Target.Namespace)
	}
	all := brokers.Load(ctx, cl.getenv)
	defer brokers.Close(all)
	above, streamErr := config.StreamAbove(cl.getenv)
	subject.StreamAbove = above
	err = lookups(all, &subject)
	subject.SettingsErr = errors.Join(err, config.Names(cl.getenv), streamErr)
	return examine(ctx, subject, *asJSON, cl.stdout)
}

// lookups sets the look-ups that the settings allow, and returns mistakes in the settings.
func lookups(all []brokers.Broker, subject *operator.Subject) (broken error) {
	subject.Lookups, subject.NoLookup = map[string]operator.Lookup{}, map[string]string{}
	subject.Advice = map[string]func(string, error) string{}
	for _, b := range all {
		broken = errors.Join(broken, b.SettingsErr)
		for _, scheme := range b.Schemes {
			checker, ok := b.Publisher.(publish.Checker)
			switch {
			case ok:
				subject.Lookups[scheme] = checker.Check
			case b.SettingsErr != nil:
				subject.NoLookup[scheme] = "its settings are wrong"
			case b.ClientErr != nil:
				subject.NoLookup[scheme] = strings.ReplaceAll(b.ClientErr.Error(), "\n", "; ")
			case b.Publisher == nil:
				subject.NoLookup[scheme] = b.Waiting
			}
			if b.Doctor.Allowed == "" { // each destination has a line
				subject.Advice[scheme] = b.Doctor.Advice
			}
		}
	}
	return broken
}

// examine prints the findings, and returns an error where a check fails.
func examine(ctx context.Context, subject operator.Subject, asJSON bool, out io.Writer) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	failed := 0
	var writeErr error
	operator.Examine(ctx, subject, func(f operator.Finding) {
		if f.Level == operator.Fail {
			failed++
		}
		if asJSON {
			writeErr = errors.Join(writeErr, writeLine(out, f))
			return
		}
		fmt.Fprintf(table, "%s\t%s\t%s\n", f.Level, f.Check, short(f.Text, 300))
		if f.Remedy != "" {
			fmt.Fprintf(table, "\t\t→ %s\n", f.Remedy)
		}
	})
	if err := errors.Join(writeErr, table.Flush()); err != nil {
		return err
	}
	switch failed {
	case 0:
		return nil
	case 1:
		return errors.New("1 check fails")
	}
	return fmt.Errorf("%d checks fail", failed)
}

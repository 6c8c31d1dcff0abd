package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"

	"github.com/outflowhq/outflow/control"
	"github.com/outflowhq/outflow/internal/brokers"
	"github.com/outflowhq/outflow/internal/config"
	"github.com/outflowhq/outflow/publish"
	"github.com/outflowhq/outflow/workflows"
)

const doctorUsage = `outflow doctor looks for what keeps messages from being delivered.

Usage:
  outflow doctor [-json]

It checks the database, its schema, this role's rights, the clocks, old snapshots, dead
messages, notifications, Temporal, its namespace, search attributes and workers, the
schedule that maintains the table, runs that do not take their messages, and where
pending messages go: whether queues are there, and webhooks' hosts are allowed by the
OUTFLOW_WEBHOOK_… settings, which are to be those of the daemons. Deliveries and
callbacks that were tried in vain, or are not tried for want of a setting, are shown with
an error of theirs. It changes nothing and sends no message. Each check is ok, warn, fail,
or skip where it can't be done from here.

The database is asked as an operator's role (outflow grants -operator).

Flags:
  -json  a finding a line

Exit codes: 0 nothing fails, 1 something does, 2 a mistake on the command line.
`

func doctor(ctx context.Context, t tools, args []string) error {
	flags := flag.NewFlagSet("doctor", flag.ContinueOnError)
	asJSON := flags.Bool("json", false, "")
	if err := t.parseNothing(flags, doctorUsage, args); err != nil {
		return err
	}
	patient := control.Patient{Outbox: t.outbox(), TaskQueue: cmp.Or(t.getenv("OUTFLOW_TASK_QUEUE"), workflows.TaskQueueFor(t.outbox()))}
	pool, err := openPool(ctx, t.getenv)
	if patient.DatabaseErr = err; err == nil {
		defer pool.Close()
		patient.Database = control.NewDatabaseHealth(pool)
	}
	if options, err := config.Temporal(t.getenv); err == nil {
		patient.Target = targetOf(options)
	}
	c, _, err := t.temporal(ctx)
	if patient.NamespaceErr = err; err == nil {
		defer c.Close()
		patient.Namespace = control.NewNamespaceHealth(c, patient.Target.Namespace)
	}
	patient.Lookups, patient.NoLookup, err = lookups(ctx, t.getenv)
	patient.SettingsErr = errors.Join(err, config.Names(t.getenv))
	return examine(ctx, patient, *asJSON, t.stdout)
}

// lookups are those that the settings allow, by scheme; without says why one is missing.
func lookups(ctx context.Context, getenv func(string) string) (by map[string]control.Lookup, without map[string]string, broken error) {
	by, without = map[string]control.Lookup{}, map[string]string{}
	for _, b := range brokers.Load(ctx, getenv) {
		broken = errors.Join(broken, b.SettingsErr)
		for _, scheme := range b.Schemes {
			checker, ok := b.Publisher.(publish.Checker)
			switch {
			case ok:
				by[scheme] = checker.Check
			case b.SettingsErr != nil:
				without[scheme] = "its settings are wrong"
			case b.ClientErr != nil:
				without[scheme] = strings.ReplaceAll(b.ClientErr.Error(), "\n", "; ")
			}
		}
	}
	return by, without, broken
}

// examine prints what the doctor finds, and fails where a check does.
func examine(ctx context.Context, patient control.Patient, asJSON bool, out io.Writer) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	failed := 0
	var writing error
	control.Examine(ctx, patient, func(f control.Finding) {
		if f.Level == control.Fail {
			failed++
		}
		if asJSON {
			writing = errors.Join(writing, writeLine(out, f))
			return
		}
		fmt.Fprintf(table, "%s\t%s\t%s\n", f.Level, f.Check, short(f.Text, 300))
		if f.Remedy != "" {
			fmt.Fprintf(table, "\t\t→ %s\n", f.Remedy)
		}
	})
	if err := errors.Join(writing, table.Flush()); err != nil {
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

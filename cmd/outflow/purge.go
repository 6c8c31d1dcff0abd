package main

import (
	"context"
	"flag"
	"fmt"
	"time"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/outboxdb"
)

const purgeUsage = `outflow purge deletes messages that have ended.

Usage:
  outflow purge -state delivered -older-than 7d [-limit N] [-yes]

It deletes the oldest first, 1000 in a transaction, so that it can be stopped at any
time. Messages whose callback is due stay.

Flags:
  -state         delivered, dead, expired or cancelled
  -older-than    since when they have ended, such as 36h or 7d
  -limit         at most so many (default: all)
  -yes           do not ask
  -json          {"deleted": N}
  -who, -why     for the audit (default of -who: OUTFLOW_WHO, else you at this host)

Needs the database alone. Exit codes: 0 deleted, 1 failure, 2 a mistake on the command
line, 3 the question was not answered with yes.
`

// purgeAtOnce is how many messages one transaction deletes.
const purgeAtOnce = 1000

// purging is what to delete.
type purging struct {
	state     outflow.State
	olderThan time.Duration
	limit     int // 0: all
	by        outboxdb.By
	json      bool
}

func purge(ctx context.Context, t tools, args []string) error {
	flags := flag.NewFlagSet("purge", flag.ContinueOnError)
	state := flags.String("state", "", "")
	olderThan := spanFlag(flags, "older-than", 0)
	limit := flags.Int("limit", 0, "")
	yes := flags.Bool("yes", false, "")
	asJSON := flags.Bool("json", false, "")
	by := t.byFlags(flags)
	if err := t.parseNothing(flags, purgeUsage, args); err != nil {
		return err
	}
	given := map[string]bool{}
	flags.Visit(func(f *flag.Flag) { given[f.Name] = true })
	p := purging{state: outflow.State(*state), olderThan: *olderThan, limit: *limit, by: *by, json: *asJSON}
	switch {
	case !p.state.Final():
		return usageError("purge: -state wants delivered, dead, expired or cancelled (got %q)", *state)
	case !given["older-than"]:
		return usageError("purge: wants -older-than")
	case *limit < 0:
		return usageError("purge: -limit wants 0 or more")
	}
	if !*yes {
		if err := t.confirm("purge", fmt.Sprintf("delete %s messages that ended more than %s ago?", p.state, p.olderThan)); err != nil {
			return err
		}
	}
	store, done, err := t.operator(ctx)
	if err != nil {
		return err
	}
	defer done()
	return purgeMessages(ctx, t, store, p)
}

type purgeStore interface {
	Purge(ctx context.Context, state outflow.State, olderThan time.Duration, limit int, by outboxdb.By) (int, error)
}

func purgeMessages(ctx context.Context, t tools, store purgeStore, p purging) error {
	deleted, told := 0, time.Now()
	for p.limit == 0 || deleted < p.limit {
		some := purgeAtOnce
		if p.limit > 0 {
			some = min(some, p.limit-deleted)
		}
		n, err := store.Purge(ctx, p.state, p.olderThan, some, p.by)
		if err != nil {
			return fmt.Errorf("after %d messages: %w", deleted, err)
		}
		deleted += n
		if n < some {
			break
		}
		if time.Since(told) > 2*time.Second {
			told = time.Now()
			fmt.Fprintf(t.stderr, "deleted %d\n", deleted)
		}
	}
	if p.json {
		return writeLine(t.stdout, map[string]int{"deleted": deleted})
	}
	_, err := fmt.Fprintf(t.stdout, "deleted %d messages\n", deleted)
	return err
}

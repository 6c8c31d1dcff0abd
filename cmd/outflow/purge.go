package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"time"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/operator"
	"github.com/outflowhq/outflow/outbox"
)

const purgeUsage = `outflow purge deletes final messages.

Usage:
  outflow purge -state delivered -older-than 7d [-limit N] [-rate N] [-history] [-yes]

It does what the schedule's purge does, without its pauses: it deletes the oldest
first, at most 1000 in a transaction, so that it can be stopped at any time. Messages
whose callback is due stay.

Flags:
  -state         delivered, dead, expired or cancelled
  -dismissed     of dead ones, those that were dismissed that long ago
  -older-than    how long ago they ended at least, such as 36h or 7d
  -limit         at most so many (default: all)
  -rate          at most so many a second (default: as fast as it goes)
  -history       move them to outbox.history
  -yes           do not ask
  -json          {"deleted": N}
  -who, -why     for the audit (default of -who: OUTFLOW_WHO, else you at this host)

Needs only the database. Exit codes: 0 deleted, 1 failure, 2 a mistake on the command
line, 3 the question was not answered with yes.
`

// purgeChunk is how many messages one transaction deletes.
const purgeChunk = 1000

// purging says what to delete.
type purging struct {
	outbox.Purge         // its Limit is a chunk's
	limit        int     // 0: all
	rate         float64 // a second; 0: any
	by           operator.Actor
	json         bool
}

func (p purging) act() string {
	if p.History {
		return "move"
	}
	return "delete"
}

// clock says what the age counts from.
func (p purging) clock() string {
	if p.Dismissed {
		return "were dismissed"
	}
	return "ended"
}

func purge(ctx context.Context, cl commandLine, args []string) error {
	flags := flag.NewFlagSet("purge", flag.ContinueOnError)
	state := flags.String("state", "", "")
	dismissed := flags.Bool("dismissed", false, "")
	olderThan := durationFlag(flags, "older-than", 0)
	limit := flags.Int("limit", 0, "")
	var rate float64
	rateFlag(flags, &rate)
	history := flags.Bool("history", false, "")
	yes := flags.Bool("yes", false, "")
	asJSON := flags.Bool("json", false, "")
	by := cl.actorFlags(flags)
	if err := cl.parseFlagsOnly(flags, purgeUsage, args); err != nil {
		return err
	}
	p := purging{
		Purge: outbox.Purge{
			State: outflow.State(*state), Dismissed: *dismissed, OlderThan: *olderThan, Limit: purgeChunk, History: *history,
		},
		limit: *limit, rate: rate, by: *by, json: *asJSON,
	}
	switch {
	case !p.State.Final():
		return usageError("purge: -state wants delivered, dead, expired or cancelled (got %q)", *state)
	case p.Dismissed && p.State != outflow.Dead:
		return usageError("purge: -dismissed wants -state dead")
	case !given(flags)["older-than"]:
		return usageError("purge: wants -older-than")
	case p.limit < 0:
		return usageError("purge: -limit wants 0 or more")
	case p.rate < 0:
		return usageError("purge: -rate wants messages a second")
	}
	if !*yes {
		question := fmt.Sprintf("%s %s messages that %s more than %s ago?", p.act(), p.State, p.clock(), p.OlderThan)
		if err := cl.confirm("purge", question); err != nil {
			return err
		}
	}
	o, closeAll, err := cl.operator(ctx)
	if err != nil {
		return err
	}
	defer closeAll()
	return purgeMessages(ctx, cl, o.Purge, p)
}

// deleteChunk is operator.Operator.Purge.
type deleteChunk = func(ctx context.Context, p outbox.Purge, by operator.Actor) (outbox.Purged, error)

func purgeMessages(ctx context.Context, cl commandLine, deleteOne deleteChunk, p purging) error {
	deleted, reported := 0, time.Now()
	if p.rate > 0 {
		p.Limit = max(1, min(p.Limit, int(p.rate)))
	}
	for p.limit == 0 || deleted < p.limit {
		chunk, began := p.Purge, time.Now()
		if p.limit > 0 {
			chunk.Limit = min(chunk.Limit, p.limit-deleted)
		}
		purged, err := deleteOne(ctx, chunk, p.by)
		if errors.Is(err, context.DeadlineExceeded) && ctx.Err() == nil && p.Limit > 1 {
			p.Limit = max(p.Limit/10, 1) // the payloads are large; it was rolled back
			continue
		}
		if err != nil {
			return fmt.Errorf("after %d messages: %w", deleted, err)
		}
		deleted, p.After = deleted+purged.Rows, purged.UpTo
		if purged.Rows < chunk.Limit {
			break
		}
		if time.Since(reported) > progressEvery {
			reported = time.Now()
			fmt.Fprintf(cl.stderr, "%sd %d\n", p.act(), deleted)
		}
		if err := pace(ctx, purged.Rows, p.rate, began); err != nil {
			return fmt.Errorf("stopped after %d messages: %w", deleted, err)
		}
	}
	if p.json {
		return writeLine(cl.stdout, map[string]int{"deleted": deleted})
	}
	_, err := fmt.Fprintf(cl.stdout, "%sd %d messages\n", p.act(), deleted)
	return err
}

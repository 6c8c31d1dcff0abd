package main

import (
	"context"
	"flag"
	"time"

	"github.com/google/uuid"

	"github.com/outflowhq/outflow/operator"
)

const rescheduleUsage = `outflow reschedule makes pending messages due at another time.

Usage:
  outflow reschedule ID… -in 10m
  outflow reschedule ID… -at 2026-01-31T08:00:00Z

The message goes on with the next generation, at that time; a time that has passed means
now. A publish that is under way is not held back: then the message is sent again when
it is due. A message that a stream has in hand is refused, for some seconds. A message
can't be due after its expiry.

Flags:
  -in            how much later than now, by the database's clock: 0s, 10m, 2d
  -at            a time such as 2026-01-31T08:00:00Z or 2026-01-31 (00:00 UTC)
  -json          an answer a line
  -who, -why     for the audit (default of -who: OUTFLOW_WHO, else you at this host)

Needs the database; Temporal only to signal the runs of retrying messages. Without it they
yield at their next attempt.
` + actCodes

func reschedule(ctx context.Context, cl commandLine, args []string) error {
	flags := flag.NewFlagSet("reschedule", flag.ContinueOnError)
	chosen := &selection{command: "reschedule"}
	in := durationFlag(flags, "in", 0)
	var at time.Time
	flags.Func("at", "", func(s string) (err error) { at, err = parseTime(s); return err })
	flags.BoolVar(&chosen.json, "json", false, "")
	by := cl.actorFlags(flags)
	words, err := cl.parse(flags, rescheduleUsage, args)
	if err != nil {
		return err
	}
	if given(flags)["in"] == given(flags)["at"] {
		return usageError("reschedule: wants -in or -at")
	}
	if err := chosen.readIDs(words); err != nil {
		return err
	}
	o, closeAll, err := cl.operator(ctx)
	if err != nil {
		return err
	}
	defer closeAll()
	return chosen.act(ctx, cl, o, func(ctx context.Context, ids []uuid.UUID) ([]operator.Answer, error) {
		return o.Reschedule(ctx, ids, at, *in, *by)
	})
}

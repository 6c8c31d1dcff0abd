package main

import (
	"context"
	"flag"

	"github.com/google/uuid"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/operator"
)

const redirectUsage = `outflow redirect gives messages another destination.

Usage:
  outflow redirect ID… -to sqs://other
  outflow redirect -state pending -destination sqs://old -to sqs://new [-limit 1000] [-rate 10] [-yes]

A pending message goes on with the next generation; a dead, expired or cancelled one is
retried, to the new destination. A publish that is under way may still reach the old
one: then both have it, and the message ends with the new one's acknowledgement. A
message that a stream has in hand is refused, for some seconds.

Flags:
  -to            the new destination: sqs://orders, a queue URL or an ARN, …
  -state         pending, dead, expired or cancelled, instead of IDs
  -retrying      pending messages whose run has left the fast path, instead of IDs
  -dismissed     dead messages that "outflow dismiss" has marked, instead of IDs
  -destination   of these, those to this destination
  -type          of these, those of this type
  -group         of these, those of one enqueue by route, by the ID that it returned
  -limit         of these, at most so many (default 1000)
` + actFlags + `
Needs the database; Temporal only to signal the runs of retrying messages. Without it they
yield at their next attempt.
` + actCodes

func redirect(ctx context.Context, cl commandLine, args []string) error {
	flags := flag.NewFlagSet("redirect", flag.ContinueOnError)
	to := destinationFlag(flags, "to")
	chosen := selectionFlags(flags)
	chosen.retryingFlag(flags)
	chosen.dismissedFlag(flags)
	by := cl.actorFlags(flags)
	words, err := cl.parse(flags, redirectUsage, args)
	if err != nil {
		return err
	}
	if *to == "" {
		return usageError("redirect: wants -to")
	}
	if err := chosen.read(words, outflow.Pending, outflow.Dead, outflow.Expired, outflow.Cancelled); err != nil {
		return err
	}
	o, closeAll, err := cl.operator(ctx)
	if err != nil {
		return err
	}
	defer closeAll()
	return chosen.act(ctx, cl, o, func(ctx context.Context, ids []uuid.UUID) ([]operator.Answer, error) {
		return o.Redirect(ctx, ids, *to, *by)
	})
}

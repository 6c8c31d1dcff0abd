package main

import (
	"context"
	"flag"
	"time"

	"github.com/google/uuid"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/operator"
)

const cancelUsage = `outflow cancel ends pending messages, if it does not come too late.

Usage:
  outflow cancel ID… [-wait 10s]
  outflow cancel -state pending [-destination D] [-type T] [-limit 1000] [-rate 10] [-yes]
  outflow cancel -retrying [-destination D] …

A message that was never claimed is ended at once. Of any other only its run knows
whether the broker has it: the run is asked, and ends it cancelled or delivered. A
message that a stream has in hand goes out with its page, if that is not lost. A message
with the answer "cancelled" is not sent afterwards.

Flags:
  -wait          how long to wait for the runs' answers, for each hundred messages (default
                 10s); a message that is not decided by then stays marked, and the next
                 look of its run ends it
  -state         pending, instead of IDs
  -retrying      pending messages whose run has left the fast path, instead of IDs
  -destination   of these, those to this destination
  -type          of these, those of this type
  -group         of these, those of one enqueue by route, by the ID that it returned
  -limit         of these, at most so many (default 1000)
` + actFlags + `
Needs the database, and Temporal for messages that were claimed. TEMPORAL_… and
OUTFLOW_OUTBOX must be those of the starters: where they name no run and the lease is
over, the command takes the message to have no run.
Exit codes: 0 all are cancelled, 1 failure, 2 a mistake on the command line, 3 some were
delivered or ended otherwise, or are unknown, 4 some were not decided within -wait.
`

func cancel(ctx context.Context, cl commandLine, args []string) error {
	flags := flag.NewFlagSet("cancel", flag.ContinueOnError)
	chosen := selectionFlags(flags)
	chosen.retryingFlag(flags)
	wait := flags.Duration("wait", 10*time.Second, "")
	by := cl.actorFlags(flags)
	words, err := cl.parse(flags, cancelUsage, args)
	if err != nil {
		return err
	}
	if *wait < 0 {
		return usageError("cancel: -wait wants 0 or more")
	}
	if err := chosen.read(words, outflow.Pending); err != nil {
		return err
	}
	o, closeAll, err := cl.operator(ctx)
	if err != nil {
		return err
	}
	defer closeAll()
	return chosen.act(ctx, cl, o, func(ctx context.Context, ids []uuid.UUID) ([]operator.Answer, error) {
		return o.Cancel(ctx, ids, *wait, *by)
	})
}

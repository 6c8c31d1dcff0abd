package main

import (
	"context"
	"flag"

	"github.com/google/uuid"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/operator"
)

const retryUsage = `outflow retry sends dead, expired and cancelled messages again, and makes retrying ones try soon.

Usage:
  outflow retry ID…
  outflow retry -state dead [-destination D] [-type T] [-limit 1000] [-rate 10] [-yes]
  outflow retry -retrying [-destination D] …

A dead, expired or cancelled message becomes pending again, due now, with the next
generation. Its attempts and last error stay; an expiry that has passed is dropped.
The run of a retrying message is signalled to try now. Others are left as they are.

Flags:
  -state         dead, expired or cancelled, instead of IDs
  -retrying      pending messages whose run has left the fast path, instead of IDs
  -dismissed     dead messages that "outflow dismiss" has marked, instead of IDs
  -destination   of these, those to this destination
  -type          of these, those of this type
  -group         of these, those of one enqueue by route, by the ID that it returned
  -limit         of these, at most so many (default 1000)
` + actFlags + `
Needs the database; Temporal only for retrying messages.
` + actCodes

func retry(ctx context.Context, cl commandLine, args []string) error {
	flags := flag.NewFlagSet("retry", flag.ContinueOnError)
	chosen := selectionFlags(flags)
	chosen.retryingFlag(flags)
	chosen.dismissedFlag(flags)
	by := cl.actorFlags(flags)
	words, err := cl.parse(flags, retryUsage, args)
	if err != nil {
		return err
	}
	allowed := []outflow.State{outflow.Dead, outflow.Expired, outflow.Cancelled}
	if chosen.filter.Retrying {
		allowed = []outflow.State{outflow.Pending}
	}
	if err := chosen.read(words, allowed...); err != nil {
		return err
	}
	o, closeAll, err := cl.operator(ctx)
	if err != nil {
		return err
	}
	defer closeAll()
	return chosen.act(ctx, cl, o, func(ctx context.Context, ids []uuid.UUID) ([]operator.Answer, error) {
		return o.Retry(ctx, ids, *by)
	})
}

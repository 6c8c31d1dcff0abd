package main

import (
	"context"
	"flag"

	"github.com/google/uuid"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/operator"
)

const skipUsage = `outflow skip lets messages go on that wait behind dead ones of their ordering keys.

Usage:
  outflow skip ID…
  outflow skip -state dead|-dismissed [-destination D] [-type T] [-limit 1000] [-rate 10] [-yes]

A skipped message stays dead, and is counted as before. The next message with its ordering
key and destination is delivered. A retry of the skipped one puts it before those that wait.

Flags:
  -state         dead, instead of IDs
  -dismissed     dead messages that "outflow dismiss" has marked, instead of IDs
  -destination   of these, those to this destination
  -type          of these, those of this type
  -group         of these, those of one enqueue by route, by the ID that it returned
  -limit         of these, at most so many (default 1000)
` + actFlags + `
Needs only the database.
` + actCodes

func skip(ctx context.Context, cl commandLine, args []string) error {
	flags := flag.NewFlagSet("skip", flag.ContinueOnError)
	chosen := selectionFlags(flags)
	chosen.dismissedFlag(flags)
	by := cl.actorFlags(flags)
	words, err := cl.parse(flags, skipUsage, args)
	if err != nil {
		return err
	}
	if err := chosen.read(words, outflow.Dead); err != nil {
		return err
	}
	o, closeAll, err := cl.operator(ctx)
	if err != nil {
		return err
	}
	defer closeAll()
	return chosen.act(ctx, cl, o, func(ctx context.Context, ids []uuid.UUID) ([]operator.Answer, error) {
		return o.Skip(ctx, ids, *by)
	})
}

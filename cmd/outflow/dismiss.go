package main

import (
	"context"
	"flag"

	"github.com/google/uuid"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/operator"
)

const dismissUsage = `outflow dismiss marks dead messages that nobody will send.

Usage:
  outflow dismiss ID… -why TEXT
  outflow dismiss -state dead [-destination D] [-type T] [-limit 1000] [-rate 10] [-yes] -why TEXT
  outflow dismiss -undo ID… -why TEXT

A dismissed message stays dead, with its payload and its last error; "outflow show" says
who dismissed it and why. doctor and status no longer count it among the dead ones, and a
filter of retry or redirect selects it only with -dismissed. The purge deletes it as long
after the dismissal as it keeps cancelled messages (OUTFLOW_KEEP_CANCELLED, 30d), unless it
blocks its ordering key: "outflow skip" ends that.

Flags:
  -undo          make dismissed messages plain dead ones again
  -state         dead, instead of IDs
  -dismissed     dead messages that are dismissed already, for -undo, instead of IDs
  -destination   of these, those to this destination
  -type          of these, those of this type
  -group         of these, those of one enqueue by route, by the ID that it returned
  -limit         of these, at most so many (default 1000)
` + actFlags + `
Needs only the database. -why must be given.
` + actCodes

func dismiss(ctx context.Context, cl commandLine, args []string) error {
	flags := flag.NewFlagSet("dismiss", flag.ContinueOnError)
	undo := flags.Bool("undo", false, "")
	chosen := selectionFlags(flags)
	chosen.dismissedFlag(flags)
	by := cl.actorFlags(flags)
	words, err := cl.parse(flags, dismissUsage, args)
	switch {
	case err != nil:
		return err
	case by.Why == "":
		return usageError("dismiss: wants -why: whoever looks for the message later wants to know")
	}
	if err := chosen.read(words, outflow.Dead); err != nil {
		return err
	}
	if chosen.ids == nil && chosen.filter.Dismissed != *undo {
		return usageError("dismiss: -undo is for -dismissed messages, and -dismissed for -undo")
	}
	o, closeAll, err := cl.operator(ctx)
	if err != nil {
		return err
	}
	defer closeAll()
	return chosen.act(ctx, cl, o, func(ctx context.Context, ids []uuid.UUID) ([]operator.Answer, error) {
		if *undo {
			return o.UndoDismiss(ctx, ids, *by)
		}
		return o.Dismiss(ctx, ids, *by)
	})
}

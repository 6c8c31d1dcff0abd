package main

import (
	"context"
	"flag"

	"github.com/google/uuid"

	"github.com/outflowhq/outflow/control"
	"github.com/outflowhq/outflow/outboxdb"
)

const callbackUsage = `outflow callback retry tells producers whose callback has failed once more.

Usage:
  outflow callback retry ID…

The callback of each message becomes due again, and a scanner starts it within seconds.
The message itself is not sent again. "outflow list -callback failed" finds them.

Flags:
  -json          an answer a line
  -who, -why     for the audit (default of -who: OUTFLOW_WHO, else you at this host)

Needs the database alone.
` + actCodes

func callback(ctx context.Context, t tools, args []string) error {
	flags := flag.NewFlagSet("callback", flag.ContinueOnError)
	chosen := &selection{command: "callback retry"}
	flags.BoolVar(&chosen.json, "json", false, "")
	by := t.byFlags(flags)
	words, err := t.parse(flags, callbackUsage, args)
	if err != nil {
		return err
	}
	if len(words) == 0 || words[0] != "retry" {
		return usageError("callback wants retry, and message IDs")
	}
	if err := chosen.readIDs(words[1:]); err != nil {
		return err
	}
	return t.atDesk(ctx, *by, func(desk control.Desk, store *outboxdb.Operator) error {
		return retryCallbacks(ctx, t, chosen, desk, store)
	})
}

func retryCallbacks(ctx context.Context, t tools, chosen *selection, desk control.Desk, store control.CallbackStore) error {
	return chosen.act(ctx, t, nil, func(ctx context.Context, ids []uuid.UUID) ([]control.Answer, error) {
		return desk.RetryCallbacks(ctx, store, ids)
	})
}

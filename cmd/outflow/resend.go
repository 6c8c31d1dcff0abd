package main

import (
	"context"
	"flag"

	"github.com/google/uuid"

	"github.com/outflowhq/outflow/control"
	"github.com/outflowhq/outflow/outboxdb"
)

const resendUsage = `outflow resend sends copies of delivered messages.

Usage:
  outflow resend ID…

Each copy is a new message with an ID of its own, so that consumers take it: payload,
headers, type, ordering key and destination are those of the original, it is due now
and does not expire. The audit of each names the other.

Flags:
  -json          an answer a line; newId is the copy's
  -who, -why     for the audit (default of -who: OUTFLOW_WHO, else you at this host)

Needs the database alone.
` + actCodes

func resend(ctx context.Context, t tools, args []string) error {
	flags := flag.NewFlagSet("resend", flag.ContinueOnError)
	chosen := &selection{command: "resend"}
	flags.BoolVar(&chosen.json, "json", false, "")
	by := t.byFlags(flags)
	words, err := t.parse(flags, resendUsage, args)
	if err != nil {
		return err
	}
	if err := chosen.readIDs(words); err != nil {
		return err
	}
	return t.atDesk(ctx, *by, func(desk control.Desk, store *outboxdb.Operator) error {
		return resendMessages(ctx, t, chosen, desk, store)
	})
}

func resendMessages(ctx context.Context, t tools, chosen *selection, desk control.Desk, store control.ResendStore) error {
	return chosen.act(ctx, t, nil, func(ctx context.Context, ids []uuid.UUID) ([]control.Answer, error) {
		return desk.Resend(ctx, store, ids)
	})
}

// readIDs completes the selection of an act that takes no filter.
func (s *selection) readIDs(words []string) (err error) {
	if len(words) == 0 {
		return usageError("%s: wants message IDs", s.command)
	}
	s.ids, err = readIDs(s.command, words)
	return err
}

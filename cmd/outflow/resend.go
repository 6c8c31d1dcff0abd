package main

import (
	"context"
	"flag"

	"github.com/google/uuid"

	"github.com/outflowhq/outflow/operator"
)

const resendUsage = `outflow resend sends copies of delivered messages.

Usage:
  outflow resend ID…

Each copy is a new message with an ID of its own, so that consumers do not drop it as a
duplicate. Payload, headers, type, ordering key and destination are those of the original.
The copy is due now and does not expire. The audit of each names the other.

Flags:
  -json          an answer a line; newId is the copy's
  -who, -why     for the audit (default of -who: OUTFLOW_WHO, else you at this host)

Needs only the database.
` + actCodes

func resend(ctx context.Context, cl commandLine, args []string) error {
	flags := flag.NewFlagSet("resend", flag.ContinueOnError)
	chosen := &selection{command: "resend"}
	flags.BoolVar(&chosen.json, "json", false, "")
	by := cl.actorFlags(flags)
	words, err := cl.parse(flags, resendUsage, args)
	if err != nil {
		return err
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
		return o.Resend(ctx, ids, *by)
	})
}

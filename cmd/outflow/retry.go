package main

import (
	"context"
	"flag"

	"github.com/google/uuid"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/control"
	"github.com/outflowhq/outflow/outboxdb"
)

// The usage of what the acts have in common.
const (
	actFlags = `  -rate          messages a second (default: as fast as it goes)
  -yes           do not ask before a filter touches more than one message
  -json          an answer a line
  -who, -why     for the audit (default of -who: OUTFLOW_WHO, else you at this host)
`
	actCodes = `Exit codes: 0 done for all, 1 failure, 2 a mistake on the command line, 3 not done for
some: each answer says why.
`
)

const retryUsage = `outflow retry sends what was given up, and makes what is being retried try soon.

Usage:
  outflow retry ID…
  outflow retry -state dead [-destination D] [-type T] [-limit 1000] [-rate 10] [-yes]
  outflow retry -retrying [-destination D] …

A dead, expired or cancelled message becomes pending again, due now, with the next
generation. Its attempts and last error stay; an expiry that has passed is dropped.
The run of a retrying message is told to try now. Others are left as they are.

Flags:
  -state         dead, expired or cancelled, instead of IDs
  -retrying      pending messages whose run has left the fast path, instead of IDs
  -dismissed     dead messages that "outflow dismiss" let go, instead of IDs
  -destination   of these, those to this destination
  -type          of these, those of this type
  -limit         of these, at most so many (default 1000)
` + actFlags + `
Needs the database; Temporal only for retrying messages.
` + actCodes

func retry(ctx context.Context, t tools, args []string) error {
	flags := flag.NewFlagSet("retry", flag.ContinueOnError)
	chosen := selectionFlags(flags)
	chosen.retryingFlag(flags)
	chosen.dismissedFlag(flags)
	by := t.byFlags(flags)
	words, err := t.parse(flags, retryUsage, args)
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
	return t.atDesk(ctx, *by, func(desk control.Desk, store *outboxdb.Operator) error {
		return retryMessages(ctx, t, chosen, desk, store)
	})
}

type retryStore interface {
	lister
	control.RetryStore
}

func retryMessages(ctx context.Context, t tools, chosen *selection, desk control.Desk, store retryStore) error {
	return chosen.act(ctx, t, store, func(ctx context.Context, ids []uuid.UUID) ([]control.Answer, error) {
		return desk.Retry(ctx, store, ids)
	})
}

// atDesk opens the table and, once it is needed, Temporal, for an act.
func (t tools) atDesk(ctx context.Context, by outboxdb.By, act func(control.Desk, *outboxdb.Operator) error) error {
	store, done, err := t.operator(ctx)
	if err != nil {
		return err
	}
	defer done()
	runs := t.runs(ctx)
	defer runs.close()
	return act(control.Desk{Runs: runs, Outbox: t.outbox(), By: by}, store)
}

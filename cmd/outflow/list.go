package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"slices"
	"text/tabwriter"

	"github.com/google/uuid"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/text"
	"github.com/outflowhq/outflow/operator"
	"github.com/outflowhq/outflow/outbox"
)

const listUsage = `outflow list lists messages, a page at a time.

Usage:
  outflow list [filters] [-limit 50] [-after CURSOR] [-json]

Filters:
  -state        pending, delivered, dead, expired or cancelled
  -retrying     pending messages whose run has left the fast path
  -dismissed    dead messages that "outflow dismiss" has marked
  -destination  as enqueued: sqs://orders, a queue URL or an ARN
  -type         the message type
  -group        the messages of one enqueue by route, by the ID that it returned
  -callback     due, sent or failed: the state of the message's callback
  -since        how long ago (2h, 7d) or a time (2026-01-31, 2026-01-31T08:00:00Z);
  -until        the time of the end for final states, of the enqueue for pending
                messages; both want -state, -retrying or -dismissed

Flags:
  -limit  messages a page, 1 to 1000 (default 50)
  -after  the cursor that the page before printed, with the same filters
  -json   a message a line, and last {"next": CURSOR} where there are more

The order is that of an index:
  a final state  by the end, newest first
  pending        by destination and the time from which they may be claimed (they move
                 while they are delivered)
  retrying       by destination
  no state       by ID: the newest first, for IDs that Outflow made
A page that is not found within 30 s fails: narrow it with -since, or leave a rare
-destination, -type or -callback out.
Needs only the database. Exit codes: 0 listed, 1 failure, 2 a mistake on the command line.
`

var callbackStates = []outbox.CallbackState{"", outbox.CallbackDue, outbox.CallbackSent, outbox.CallbackFailed}

func list(ctx context.Context, cl commandLine, args []string) error {
	flags := flag.NewFlagSet("list", flag.ContinueOnError)
	state := flags.String("state", "", "")
	retrying := flags.Bool("retrying", false, "")
	dismissed := flags.Bool("dismissed", false, "")
	destination := destinationFlag(flags, "destination")
	messageType := flags.String("type", "", "")
	var group uuid.UUID
	groupFlag(flags, &group)
	callback := flags.String("callback", "", "")
	since, until := timeBoundFlag(flags, "since"), timeBoundFlag(flags, "until")
	limit := flags.Int("limit", 50, "")
	after := flags.String("after", "", "")
	asJSON := flags.Bool("json", false, "")
	if err := cl.parseFlagsOnly(flags, listUsage, args); err != nil {
		return err
	}
	filter := operator.ListFilter{
		State: outflow.State(*state), Retrying: *retrying, Dismissed: *dismissed,
		Destination: *destination, Type: *messageType, Group: group, Callback: outbox.CallbackState(*callback),
		Since: *since, Until: *until, Limit: *limit, After: *after,
	}
	if *dismissed && *state == "" {
		filter.State = outflow.Dead
	}
	switch {
	case *state != "" && filter.State != outflow.Pending && !filter.State.Final():
		return usageError("list: -state wants pending, delivered, dead, expired or cancelled (got %q)", *state)
	case *dismissed && (*retrying || filter.State != outflow.Dead):
		return usageError("list: -dismissed messages are dead ones")
	case *retrying && filter.State.Final():
		return usageError("list: -retrying messages are pending ones")
	case (since.Set || until.Set) && filter.State == "" && !*retrying:
		return usageError("list: -since and -until want -state, -retrying or -dismissed")
	case !slices.Contains(callbackStates, filter.Callback):
		return usageError("list: -callback wants due, sent or failed (got %q)", *callback)
	case *limit < 1 || *limit > 1000:
		return usageError("list: -limit wants 1 to 1000")
	}
	o, closeAll, err := cl.operator(ctx)
	if err != nil {
		return err
	}
	defer closeAll()
	return listMessages(ctx, o, filter, *asJSON, cl.stdout, cl.stderr)
}

func listMessages(
	ctx context.Context, from lister, filter operator.ListFilter, asJSON bool, out, errs io.Writer,
) error {
	page, next, err := from.List(ctx, filter)
	if errors.Is(err, operator.ErrCursor) {
		return usageError("list: -after %w", operator.ErrCursor)
	}
	if err != nil {
		return err
	}
	if len(page) == 0 && filter.After == "" {
		hintUnknown(ctx, from, filter, errs)
	}
	switch {
	case asJSON:
		return writePage(out, page, next)
	case len(page) == 0:
		_, err := fmt.Fprintln(out, "no messages")
		return err
	}
	if err := writeTable(out, page); err != nil {
		return err
	}
	if next != "" {
		fmt.Fprintf(out, "more: -after %s\n", next)
	}
	return nil
}

// writeTable writes a line for each message.
func writeTable(out io.Writer, page []operator.MessageStatus) error {
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "ID\tSTATE\tDESTINATION\tTYPE\tATTEMPTS\tENQUEUED\tENDED\tLAST ERROR")
	for _, m := range page {
		ended := "-"
		if m.FinishedAt != nil {
			ended = text.Stamp(*m.FinishedAt)
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%d\t%s\t%s\t%s\n",
			m.ID, m.Phase, outflow.DisplayDestination(m.Destination), m.Type, m.Attempts,
			text.Stamp(m.EnqueuedAt), ended, cmp.Or(short(cmp.Or(orEmpty(m.Missing), orEmpty(m.LastError)), 60), "-"))
	}
	return table.Flush()
}

// writePage writes a message a line, and last the cursor of the next page.
func writePage(out io.Writer, page []operator.MessageStatus, next string) error {
	if err := writeLines(out, page); err != nil {
		return err
	}
	if next != "" {
		return writeLine(out, map[string]string{"next": next})
	}
	return nil
}

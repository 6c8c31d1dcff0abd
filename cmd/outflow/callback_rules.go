package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"text/tabwriter"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/program"
	"github.com/outflowhq/outflow/outboxdb"
)

// ruleFlags are the messages that a rule is for, and whether their payload goes
// along.
func ruleFlags(flags *flag.FlagSet) *outboxdb.CallbackRule {
	r := new(outboxdb.CallbackRule)
	destinationVar(flags, &r.Destination, "destination")
	typeFlag(flags, &r.Type)
	flags.BoolVar(&r.WithPayload, "payload", false, "")
	return r
}

func setRule(ctx context.Context, t tools, r *outboxdb.CallbackRule, words []string, by outboxdb.By, asJSON bool) error {
	if len(words) != 1 {
		return usageError("callback set: wants one URL, or none")
	}
	r.Callback = words[0]
	switch d, err := outflow.ParseDestination(words[0]); {
	case words[0] == outflow.NoCallback && r.WithPayload:
		return usageError("callback set: -payload wants a URL, not none")
	case words[0] == outflow.NoCallback:
	case err != nil:
		return usageError("callback set: the URL wants none, or: %w", err)
	default:
		r.Callback = d.String()
	}
	return t.withRules(ctx, by, func(store ruleStore) error { return setCallbackRule(ctx, store, *r, by, asJSON, t.stdout) })
}

func unsetRule(ctx context.Context, t tools, r *outboxdb.CallbackRule, by outboxdb.By, asJSON bool) error {
	return t.withRules(ctx, by, func(store ruleStore) error { return unsetCallbackRule(ctx, store, *r, by, asJSON, t.stdout) })
}

func rules(ctx context.Context, t tools, asJSON bool) error {
	store, done, err := t.operator(ctx)
	if err != nil {
		return err
	}
	defer done()
	return listRules(ctx, store, asJSON, t.stdout)
}

// ruleStore is the table of rules; outboxdb.Operator has it.
type ruleStore interface {
	SetCallbackRule(ctx context.Context, r outboxdb.CallbackRule, by outboxdb.By) (was string, err error)
	UnsetCallbackRule(ctx context.Context, destination, messageType string, by outboxdb.By) (found bool, err error)
	CallbackRules(ctx context.Context) ([]outboxdb.CallbackRule, error)
}

var _ ruleStore = (*outboxdb.Operator)(nil)

func (t tools) withRules(ctx context.Context, by outboxdb.By, act func(ruleStore) error) error {
	store, done, err := t.operator(ctx)
	if err != nil {
		return err
	}
	defer done()
	return act(store)
}

func setCallbackRule(ctx context.Context, store ruleStore, r outboxdb.CallbackRule, by outboxdb.By, asJSON bool, out io.Writer) error {
	was, err := store.SetCallbackRule(ctx, r, by)
	var invalid *outboxdb.InvalidRuleError
	switch {
	case errors.As(err, &invalid):
		return usageError("callback set: %w", invalid)
	case err != nil:
		return err
	case asJSON:
		return writeLine(out, r)
	}
	text := whichMessages(r) + ": callback " + outflow.DisplayDestination(r.Callback)
	if r.WithPayload {
		text += " with the payload"
	}
	if was != "" && was != r.Callback {
		text += ", was " + outflow.DisplayDestination(was)
	}
	_, err = fmt.Fprintln(out, text)
	return err
}

func unsetCallbackRule(ctx context.Context, store ruleStore, r outboxdb.CallbackRule, by outboxdb.By, asJSON bool, out io.Writer) error {
	found, err := store.UnsetCallbackRule(ctx, r.Destination, r.Type, by)
	switch {
	case err != nil:
		return err
	case !found:
		return program.ExitError{Code: exitRefused, Err: fmt.Errorf("%s: there is no such rule", whichMessages(r))}
	case asJSON:
		return writeLine(out, map[string]string{"destination": r.Destination, "type": r.Type})
	}
	_, err = fmt.Fprintf(out, "%s: no rule any more\n", whichMessages(r))
	return err
}

// whichMessages says in words which messages a rule is for.
func whichMessages(r outboxdb.CallbackRule) string {
	text := "messages"
	if r.Destination != "" {
		text += " to " + outflow.DisplayDestination(r.Destination)
	}
	if r.Type != "" {
		text += " of type " + r.Type
	}
	if text == "messages" {
		return "all messages"
	}
	return text
}

func listRules(ctx context.Context, store ruleStore, asJSON bool, out io.Writer) error {
	all, err := store.CallbackRules(ctx)
	if err != nil {
		return err
	}
	if asJSON {
		for _, r := range all {
			if err := writeLine(out, r); err != nil {
				return err
			}
		}
		return nil
	}
	if len(all) == 0 {
		_, err := fmt.Fprintln(out, "no rules")
		return err
	}
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "DESTINATION\tTYPE\tCALLBACK\tPAYLOAD")
	for _, r := range all {
		payload := "no"
		if r.WithPayload {
			payload = "yes"
		}
		fmt.Fprintf(table, "%s\t%s\t%s\t%s\n", cmp.Or(outflow.DisplayDestination(r.Destination), "any"), cmp.Or(r.Type, "any"), outflow.DisplayDestination(r.Callback), payload)
	}
	return table.Flush()
}

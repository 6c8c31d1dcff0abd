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
	"github.com/outflowhq/outflow/operator"
)

// callbackRule is a rule as the command line has it.
type callbackRule struct{ operator.CallbackRule }

// ruleFlags read which messages a rule is for, and whether the callback carries their payload.
func ruleFlags(flags *flag.FlagSet) *callbackRule {
	r := new(callbackRule)
	destinationVar(flags, &r.Destination, "destination")
	typeFlag(flags, &r.Type)
	flags.BoolVar(&r.WithPayload, "payload", false, "")
	return r
}

// readURL completes a rule with the callback's URL, which is the only word.
func (r *callbackRule) readURL(words []string) error {
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
	return nil
}

func setCallbackRule(
	ctx context.Context, o *operator.Operator, r operator.CallbackRule, by operator.Actor, asJSON bool, out io.Writer,
) error {
	was, err := o.SetCallbackRule(ctx, r, by)
	var invalid *operator.InvalidRuleError
	switch {
	case errors.As(err, &invalid):
		return usageError("callback set: %w", invalid)
	case err != nil:
		return err
	case asJSON:
		return writeLine(out, r)
	}
	text := messagesOf(r) + ": callback " + outflow.DisplayDestination(r.Callback)
	if r.WithPayload {
		text += " with the payload"
	}
	if was != "" && was != r.Callback {
		text += ", was " + outflow.DisplayDestination(was)
	}
	_, err = fmt.Fprintln(out, text)
	return err
}

func unsetCallbackRule(
	ctx context.Context, o *operator.Operator, r operator.CallbackRule, by operator.Actor, asJSON bool, out io.Writer,
) error {
	found, err := o.UnsetCallbackRule(ctx, r.Destination, r.Type, by)
	switch {
	case err != nil:
		return err
	case !found:
		return program.ExitError{Code: exitRefused, Err: fmt.Errorf("%s: there is no such rule", messagesOf(r))}
	case asJSON:
		return writeLine(out, map[string]string{"destination": r.Destination, "type": r.Type})
	}
	_, err = fmt.Fprintf(out, "%s: no rule any more\n", messagesOf(r))
	return err
}

// messagesOf says in words which messages a rule is for.
func messagesOf(r operator.CallbackRule) string {
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

func listRules(ctx context.Context, o *operator.Operator, asJSON bool, out io.Writer) error {
	all, err := o.CallbackRules(ctx)
	if err != nil {
		return err
	}
	return writeRules(out, all, asJSON, "no rules", "DESTINATION\tTYPE\tCALLBACK\tPAYLOAD",
		func(r operator.CallbackRule) string {
			payload := "no"
			if r.WithPayload {
				payload = "yes"
			}
			return fmt.Sprintf("%s\t%s\t%s\t%s", cmp.Or(outflow.DisplayDestination(r.Destination), "any"),
				cmp.Or(r.Type, "any"), outflow.DisplayDestination(r.Callback), payload)
		})
}

// writeRules writes rules of one kind: a line of JSON each, or a table, or that there are none.
func writeRules[Rule any](
	out io.Writer, all []Rule, asJSON bool, none, heading string, columns func(Rule) string,
) error {
	if asJSON {
		return writeLines(out, all)
	}
	if len(all) == 0 {
		_, err := fmt.Fprintln(out, none)
		return err
	}
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, heading)
	for _, r := range all {
		fmt.Fprintln(table, columns(r))
	}
	return table.Flush()
}

package main

import (
	"context"
	"flag"
	"maps"
	"slices"

	"github.com/google/uuid"

	"github.com/outflowhq/outflow/control"
	"github.com/outflowhq/outflow/outboxdb"
)

const callbackUsage = `outflow callback tells producers again how messages ended, and sets where they are told.

Usage:
  outflow callback retry ID…
  outflow callback set [-destination D] [-type T] [-payload] URL
  outflow callback unset [-destination D] [-type T]
  outflow callback rules [-json]

retry makes failed callbacks due again; a scanner starts them within seconds. The message
itself is not sent again. "outflow list -callback failed" finds them.

set has messages that are enqueued from then on without a callback of their own tell their
end to URL: an https URL, sqs://replies or any other destination. Without -destination
and -type it is for every message. Of several rules for a message that for its destination
and type counts, then that for its destination, then that for its type, then that for
all. The URL none is an exception from a wider rule; a producer says none as well.
What was enqueued before keeps what it has. Whether the URL can be reached is only seen
when a callback is sent: an https host must be in the starters' and workers'
OUTFLOW_WEBHOOK_HOSTS and have a secret, else callbacks to it are retried for a day.

Flags:
  -destination   for messages to this destination: sqs://orders, a queue URL or an ARN
  -type          for messages of this type
  -payload       the callback carries the payload, too: whoever takes it reads it
  -json          an answer, or a rule, a line
  -who, -why     for the audit (default of -who: OUTFLOW_WHO, else you at this host)

Needs the database alone.
` + actCodes

// callbackActs are the words after "callback", and the flags that each takes beside
// -json, -who and -why.
var callbackActs = map[string][]string{
	"retry": nil, "set": {"destination", "type", "payload"}, "unset": {"destination", "type"}, "rules": nil,
}

func callback(ctx context.Context, t tools, args []string) error {
	flags := flag.NewFlagSet("callback", flag.ContinueOnError)
	chosen := &selection{command: "callback retry"}
	rule := ruleFlags(flags)
	flags.BoolVar(&chosen.json, "json", false, "")
	by := t.byFlags(flags)
	words, err := t.parse(flags, callbackUsage, args)
	if err != nil {
		return err
	}
	acts := slices.Collect(maps.Keys(callbackActs))
	switch {
	case len(words) == 0:
		return usageError("callback wants retry, set, unset or rules")
	case !slices.Contains(acts, words[0]):
		return usageError("callback wants retry, set, unset or rules%s", didYouMean(words[0], acts))
	}
	act, words := words[0], words[1:]
	flags.Visit(func(f *flag.Flag) {
		if !slices.Contains(append(callbackActs[act], "json", "who", "why"), f.Name) {
			err = usageError("callback %s: takes no -%s", act, f.Name)
		}
	})
	switch {
	case err != nil:
		return err
	case act == "set":
		return setRule(ctx, t, rule, words, *by, chosen.json)
	case len(words) > 0 && act != "retry":
		return usageError("callback %s: unexpected argument %q", act, words[0])
	case act == "unset":
		return unsetRule(ctx, t, rule, *by, chosen.json)
	case act == "rules":
		return rules(ctx, t, chosen.json)
	}
	if err := chosen.readIDs(words); err != nil {
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

package main

import (
	"context"
	"flag"

	"github.com/google/uuid"

	"github.com/outflowhq/outflow/operator"
)

const callbackUsage = `outflow callback retries failed callbacks, and sets rules that give messages a callback.

Usage:
  outflow callback retry ID…
  outflow callback set [-destination D] [-type T] [-payload] URL
  outflow callback unset [-destination D] [-type T]
  outflow callback rules [-json]

retry makes failed callbacks due again; a scanner starts them within seconds. The message
itself is not sent again. "outflow list -callback failed" finds them.

set gives a callback to messages that are enqueued from then on without one of their own.
The URL is an https URL, sqs://replies or any other destination. Without -destination and
-type the rule is for every message. Of several rules for a message the narrowest counts:
  1. for its destination and type
  2. for its destination
  3. for its type
  4. for all
The URL none is an exception from a wider rule; a producer says none as well. Messages
that were enqueued before keep their callback. Whether the URL can be reached is only seen
when a callback is sent: an https host must be in the starters' and workers'
OUTFLOW_WEBHOOK_HOSTS and have a secret, else callbacks to it are retried for a day.

Flags:
  -destination   for messages to this destination: sqs://orders, a queue URL or an ARN
  -type          for messages of this type
  -payload       the callback carries the payload too: its receiver can read it
  -json          an answer, or a rule, a line
  -who, -why     for the audit (default of -who: OUTFLOW_WHO, else you at this host)

Needs only the database.
` + actCodes

var callbackActs = []act{
	{"retry", nil}, {"set", []string{"destination", "type", "payload"}}, {"unset", []string{"destination", "type"}},
	{"rules", nil},
}

func callback(ctx context.Context, cl commandLine, args []string) error {
	flags := flag.NewFlagSet("callback", flag.ContinueOnError)
	chosen := &selection{command: "callback retry"}
	rule := ruleFlags(flags)
	flags.BoolVar(&chosen.json, "json", false, "")
	by := cl.actorFlags(flags)
	words, err := cl.parse(flags, callbackUsage, args)
	if err != nil {
		return err
	}
	act, words, err := chooseAct(flags, words, callbackActs)
	if err != nil {
		return err
	}
	switch {
	case act == "set":
		err = rule.readURL(words)
	case act == "retry":
		err = chosen.readIDs(words)
	case len(words) > 0:
		err = usageError("callback %s: unexpected argument %q", act, words[0])
	}
	if err != nil {
		return err
	}
	o, closeAll, err := cl.operator(ctx)
	if err != nil {
		return err
	}
	defer closeAll()
	switch act {
	case "set":
		return setCallbackRule(ctx, o, rule.CallbackRule, *by, chosen.json, cl.stdout)
	case "unset":
		return unsetCallbackRule(ctx, o, rule.CallbackRule, *by, chosen.json, cl.stdout)
	case "rules":
		return listRules(ctx, o, chosen.json, cl.stdout)
	}
	return chosen.act(ctx, cl, o, func(ctx context.Context, ids []uuid.UUID) ([]operator.Answer, error) {
		return o.RetryCallbacks(ctx, ids, *by)
	})
}

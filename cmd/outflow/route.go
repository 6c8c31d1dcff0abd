package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/program"
	"github.com/outflowhq/outflow/operator"
)

const routeUsage = `outflow route sets where messages of a type go that are enqueued by route.

Usage:
  outflow route set -type T DESTINATION
  outflow route unset -type T DESTINATION [-force]
  outflow route list [-type T] [-json]

A producer enqueues by route with the destination "routes": each route of the message's
type makes one message. A type without a route is refused, and with it the producer's
transaction.

set adds a route for what is enqueued from then on, at most 32 to a type. The destination
is sqs://orders, a queue URL or an ARN, or any other; it need not be there yet. The
destination none makes no message: a type that has it alone is accepted, and goes nowhere.

unset deletes a route. Messages that were enqueued before still go there. The last route
of a type wants -force, or the route none beside it.

Flags:
  -type       the message type
  -force      unset the last route of the type too
  -json       an answer, or a route, a line
  -who, -why  for the audit (default of -who: OUTFLOW_WHO, else you at this host)

Needs only the database. Exit codes: 0 done, 1 failure, 2 a mistake on the command line,
3 there is no such route, or it is the last.
`

var routeActs = []act{
	{"set", []string{"type"}}, {"unset", []string{"type", "force"}}, {"list", []string{"type"}},
}

func route(ctx context.Context, cl commandLine, args []string) error {
	flags := flag.NewFlagSet("route", flag.ContinueOnError)
	var r operator.Route
	typeFlag(flags, &r.Type)
	force := flags.Bool("force", false, "")
	asJSON := flags.Bool("json", false, "")
	by := cl.actorFlags(flags)
	words, err := cl.parse(flags, routeUsage, args)
	if err != nil {
		return err
	}
	chosen, words, err := chooseAct(flags, words, routeActs)
	if err != nil {
		return err
	}
	if chosen == "list" && len(words) > 0 {
		return usageError("route list: unexpected argument %q", words[0])
	}
	if chosen != "list" {
		if r, err = readRoute(chosen, r.Type, words); err != nil {
			return err
		}
	}
	o, closeAll, err := cl.operator(ctx)
	if err != nil {
		return err
	}
	defer closeAll()
	switch chosen {
	case "set":
		return setRoute(ctx, o, r, *by, *asJSON, cl.stdout)
	case "unset":
		return unsetRoute(ctx, o, r, *force, *by, *asJSON, cl.stdout)
	}
	return listRoutes(ctx, o, r.Type, *asJSON, cl.stdout)
}

// readRoute returns the route of a type to the destination that is the only word.
func readRoute(act, messageType string, words []string) (operator.Route, error) {
	switch {
	case messageType == "":
		return operator.Route{}, usageError("route %s: wants -type", act)
	case len(words) != 1:
		return operator.Route{}, usageError("route %s: wants one destination, or none", act)
	case words[0] == outflow.RouteToNowhere:
		return operator.Route{Type: messageType, Destination: words[0]}, nil
	}
	d, err := outflow.ParseDestination(words[0])
	if err != nil {
		return operator.Route{}, usageError("route %s: the destination wants none, or: %w", act, err)
	}
	return operator.Route{Type: messageType, Destination: d.String()}, nil
}

func setRoute(
	ctx context.Context, o *operator.Operator, r operator.Route, by operator.Actor, asJSON bool, out io.Writer,
) error {
	err := o.SetRoute(ctx, r, by)
	var invalid *operator.InvalidRuleError
	switch {
	case errors.As(err, &invalid):
		return usageError("route set: %w", invalid)
	case err != nil:
		return err
	case asJSON:
		return writeLine(out, r)
	}
	_, err = fmt.Fprintf(out, "%s: route to %s\n", r.Type, outflow.DisplayDestination(r.Destination))
	return err
}

func unsetRoute(
	ctx context.Context, o *operator.Operator, r operator.Route, force bool, by operator.Actor,
	asJSON bool, out io.Writer,
) error {
	shown := outflow.DisplayDestination(r.Destination)
	found, err := o.UnsetRoute(ctx, r, force, by)
	switch {
	case errors.Is(err, operator.ErrLastRoute):
		first := "the route none"
		if r.Destination == outflow.RouteToNowhere {
			first = "another route"
		}
		return program.ExitError{Code: exitRefused, Err: fmt.Errorf(
			"%s: the route to %s is the last: without one, producers that enqueue by route are refused; "+
				"set %s first, or unset this one with -force", r.Type, shown, first)}
	case err != nil:
		return err
	case !found:
		return program.ExitError{Code: exitRefused, Err: fmt.Errorf("%s: there is no route to %s", r.Type, shown)}
	case asJSON:
		return writeLine(out, r)
	}
	_, err = fmt.Fprintf(out, "%s: no route to %s any more\n", r.Type, shown)
	return err
}

func listRoutes(ctx context.Context, o *operator.Operator, messageType string, asJSON bool, out io.Writer) error {
	routes, err := o.Routes(ctx, messageType)
	if err != nil {
		return err
	}
	return writeRules(out, routes, asJSON, "no routes", "TYPE\tDESTINATION", func(r operator.Route) string {
		return r.Type + "\t" + outflow.DisplayDestination(r.Destination)
	})
}

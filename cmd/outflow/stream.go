package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"strconv"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/config"
	"github.com/outflowhq/outflow/internal/program"
	"github.com/outflowhq/outflow/internal/text"
	"github.com/outflowhq/outflow/operator"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/workflows"
)

const streamUsage = `outflow stream delivers the backlog of a queue, topic or exchange by one run.

Usage:
  outflow stream list [-json]
  outflow stream set D -above N|off
  outflow stream unset D
  outflow stream start D
  outflow stream stop D

A stream delivers what is due for a destination, instead of a run for each message: faster
by far, with the same promises. It takes only messages that nobody has claimed yet, and
ends when nothing has been due for half a minute. Messages to https and temporal
destinations have no streams.

set has starters begin a stream above so many due messages, whatever their
OUTFLOW_STREAM_ABOVE says; off has them begin none. unset has that setting apply again.

start begins a stream now, however much is due. stop asks it to end: requests under way
are waited for, and starters deliver what is left. A minute later they may begin another,
above the bound; "set -above off" before the stop keeps them from it.

list shows each bound and each destination's last stream: whether it is running, paused, or
silent (its worker was lost), or why it ended: drained, failing or cancelled.

Flags:
  -destination  another way to write D: sqs://orders, a queue URL or an ARN, …
  -above        due messages, 1 to 100000; or off
  -json         an answer, or a stream, a line
  -who, -why    for the audit (default of -who: OUTFLOW_WHO, else you at this host)

start and stop need Temporal and the database, the rest only the database.
OUTFLOW_OUTBOX and OUTFLOW_TASK_QUEUE must be those of the starters.
Exit codes: 0 done, or a stream runs already, 1 failure, 2 a mistake on the command line,
3 there is no such bound, no stream to stop, or no message is known to have the destination.
`

var streamActs = []act{
	{"list", nil}, {"set", []string{"destination", "above"}}, {"unset", []string{"destination"}},
	{"start", []string{"destination"}}, {"stop", []string{"destination"}},
}

// streams is an operator.Operator.
type streams interface {
	SetStream(ctx context.Context, destination string, above int, by operator.Actor) (was *int, err error)
	UnsetStream(ctx context.Context, destination string, by operator.Actor) (found bool, err error)
	StartStream(
		ctx context.Context, destination, taskQueue string, by operator.Actor,
	) (operator.StartedStream, error)
	StopStream(ctx context.Context, destination string, by operator.Actor) error
	KnownDestinations(ctx context.Context, destination string) ([]string, error)
}

var _ streams = (*operator.Operator)(nil)

// streamAct is an act on the stream of one destination.
type streamAct struct {
	name        string
	destination string // canonical
	above       *int
	taskQueue   string
	by          operator.Actor
	json        bool
	out, errs   io.Writer
}

func stream(ctx context.Context, cl commandLine, args []string) error {
	flags := flag.NewFlagSet("stream", flag.ContinueOnError)
	a := streamAct{out: cl.stdout, errs: cl.stderr, taskQueue: cl.taskQueue()}
	destinationVar(flags, &a.destination, "destination")
	flags.Func("above", "", func(s string) error {
		n, err := config.ParseStreamAbove(s)
		a.above = &n
		return err
	})
	flags.BoolVar(&a.json, "json", false, "")
	by := cl.actorFlags(flags)
	words, err := cl.parse(flags, streamUsage, args)
	if err != nil {
		return err
	}
	if a.name, words, err = chooseAct(flags, words, streamActs); err != nil {
		return err
	}
	if err := a.read(words); err != nil {
		return err
	}
	a.by = *by
	o, closeAll, err := cl.operator(ctx)
	if err != nil {
		return err
	}
	defer closeAll()
	if a.name == "list" {
		return listStreams(ctx, o, a.json, cl.stdout)
	}
	err = a.do(ctx, o)
	var invalid *operator.InvalidRuleError
	if errors.As(err, &invalid) {
		return usageError("stream %s: %w", a.name, invalid)
	}
	return err
}

// read completes the act with its words: its destination is a word, or a flag.
func (a *streamAct) read(words []string) error {
	switch {
	case a.name == "list" && len(words) > 0:
		return usageError("stream list: unexpected argument %q", words[0])
	case a.name == "list":
		return nil
	case len(words) > 1 || len(words) == 1 && a.destination != "" || len(words) == 0 && a.destination == "":
		return usageError("stream %s: wants one destination", a.name)
	case len(words) == 1:
		d, err := outflow.ParseDestination(words[0])
		if err != nil {
			return usageError("stream %s: %w", a.name, err)
		}
		a.destination = d.String()
	}
	if why := outbox.WhyNoStream(a.destination); why != "" && (a.name == "set" || a.name == "start") {
		return usageError("stream %s: destination: %s", a.name, why)
	}
	if a.name == "set" && a.above == nil {
		return usageError("stream set: wants -above")
	}
	return nil
}

func (a *streamAct) do(ctx context.Context, o streams) error {
	switch a.name {
	case "set":
		return a.set(ctx, o)
	case "unset":
		return a.unset(ctx, o)
	case "start":
		return a.start(ctx, o)
	}
	return a.stop(ctx, o)
}

func (a *streamAct) shown() string { return outflow.DisplayDestination(a.destination) }

// answer writes what was done: a line of JSON, or of text.
func (a *streamAct) answer(v any, format string, args ...any) error {
	if a.json {
		return writeLine(a.out, v)
	}
	_, err := fmt.Fprintf(a.out, a.shown()+": "+format+"\n", args...)
	return err
}

func (a *streamAct) refused(format string, args ...any) error {
	return program.ExitError{Code: exitRefused, Err: fmt.Errorf(a.shown()+": "+format, args...)}
}

func (a *streamAct) set(ctx context.Context, o streams) error {
	was, err := o.SetStream(ctx, a.destination, *a.above, a.by)
	if err != nil {
		return err
	}
	if hint, err := unknownDestination(ctx, o, a.destination); err == nil && hint != "" {
		fmt.Fprintln(a.errs, hint)
	}
	before := ""
	if was != nil && *was != *a.above {
		before = ", was " + bound(was)
	}
	if *a.above == 0 {
		return a.answer(a.result(), "starters begin no stream%s", before)
	}
	return a.answer(a.result(), "starters begin a stream above %d due messages%s", *a.above, before)
}

// result is what was asked for, for programs.
func (a *streamAct) result() any {
	return struct {
		Destination string `json:"destination"`
		Above       *int   `json:"above,omitempty"`
	}{a.destination, a.above}
}

func (a *streamAct) unset(ctx context.Context, o streams) error {
	switch found, err := o.UnsetStream(ctx, a.destination, a.by); {
	case err != nil:
		return err
	case !found:
		return a.refused("there is no bound of its own")
	}
	return a.answer(a.result(), "starters begin a stream as their OUTFLOW_STREAM_ABOVE says")
}

func (a *streamAct) start(ctx context.Context, o streams) error {
	switch hint, err := unknownDestination(ctx, o, a.destination); {
	case err != nil:
		return err
	case hint != "":
		return program.ExitError{Code: exitRefused, Err: errors.New(hint)}
	}
	started, err := o.StartStream(ctx, a.destination, a.taskQueue, a.by)
	if err != nil {
		return err
	}
	was := "started"
	if started.RunID == "" {
		was = "its run is open already"
	}
	switch id := started.WorkflowID; {
	case started.State == string(outbox.StreamPaused):
		return a.answer(started, "%s, and paused: workflow %s\n  %s", was, id, unpause(id))
	case started.State != operator.StreamRuns:
		return a.answer(started, "%s, and no worker goes on with it yet: workflow %s\n"+
			"  \"outflow doctor\" says whether a worker polls task queue %s",
			was, id, workflows.StreamTaskQueue(a.taskQueue))
	case started.RunID == "":
		return a.answer(started, "a stream runs already: workflow %s", id)
	default:
		return a.answer(started, "a stream delivers what is due: workflow %s", id)
	}
}

// unpause has a paused stream go on.
func unpause(workflowID string) string {
	return "temporal activity unpause --activity-id " + workflows.ActivityIDStream + " -w " + text.ShellWord(workflowID)
}

func (a *streamAct) stop(ctx context.Context, o streams) error {
	switch err := o.StopStream(ctx, a.destination, a.by); {
	case errors.Is(err, operator.ErrNoRun):
		return a.refused("no stream runs")
	case err != nil:
		return err
	}
	return a.answer(a.result(), "its stream was asked to end; starters deliver what is left\n"+
		"  A minute later they may begin another, above the bound; to keep them from it:\n"+
		"  outflow stream set %s -above off", text.ShellWord(a.destination))
}

func listStreams(ctx context.Context, o interface {
	Streams(ctx context.Context) ([]operator.Stream, error)
}, asJSON bool, out io.Writer) error {
	all, err := o.Streams(ctx)
	if err != nil {
		return err
	}
	return writeRules(out, all, asJSON, "no streams",
		"DESTINATION\tABOVE\tSTREAM\tSINCE\tDELIVERED\tDEAD\tHANDED OVER\tRATE",
		func(s operator.Stream) string {
			since, rate := s.EndedAt, "-"
			if s.State == operator.StreamRuns {
				since, rate = s.StartedAt, strconv.Itoa(s.PerSecond)+"/s"
			}
			at := "-"
			if since != nil {
				at = text.Stamp(*since)
			}
			return fmt.Sprintf("%s\t%s\t%s\t%s\t%d\t%d\t%d\t%s", outflow.DisplayDestination(s.Destination), bound(s.Above),
				s.State, at, s.Delivered, s.Dead, s.HandedOver, rate)
		})
}

// bound is above how many messages starters begin a stream.
func bound(above *int) string {
	switch {
	case above == nil:
		return "default"
	case *above == 0:
		return "off"
	}
	return strconv.Itoa(*above)
}

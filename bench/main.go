// Command bench measures Outflow beside the same work done in other ways, on one devstack: see
// README.md.
//
// The invariants: every variant runs as processes of its own, against the same Postgres, Temporal
// and queue service, in turn; settings of the environment change nothing, nothing but the loopback
// address is talked to; and no process outlives this one.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends at once
	err := run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr)
	stop()
	var usage usageError
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
	case errors.As(err, &usage):
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(2)
	default:
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// usageError is a mistake on the command line.
type usageError struct{ error }

// The variants, in the order of the table.
const (
	floor      = "floor"
	floorTwo   = "floor-two"
	naive      = "naive"
	naiveEager = "naive-eager"
	tracked    = "tracked"
	stream     = "stream"
)

var variants = []string{
	floor, floorTwo, naive, naiveEager, tracked, riverPeer, dbosPeer, watermillPeer, stream, queueAlone,
}

// settings are what the command line asks for.
type settings struct {
	rounds, messages, fastMessages int
	only                           []string
	latency, paced, growth, far    time.Duration
	payloads                       bool
}

// run is the program without its process. The environment's one use is to build Outflow's programs;
// the first argument may name a part that bench runs as a process of its own.
func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) error {
	if len(args) > 0 {
		if part, ok := parts[args[0]]; ok {
			return part(ctx, args[1:], stdout)
		}
	}
	s, err := parse(args, stdout)
	if err != nil {
		return err
	}
	return bench(ctx, s, getenv, stdout, stderr)
}

// parts are the sub-commands that bench itself starts.
var parts = map[string]func(ctx context.Context, args []string, stdout io.Writer) error{
	"part-queue":            queuePart,
	"part-" + floor:         floorPart(false),
	"part-" + floorTwo:      floorPart(true),
	"part-" + naive:         naivePart(false),
	"part-" + naiveEager:    naivePart(true),
	"part-" + riverPeer:     riverPart,
	"part-" + dbosPeer:      dbosPart,
	"part-" + watermillPeer: watermillPart,
	"part-" + queueAlone:    alonePart,
	"part-" + byWake:        wakePart,
	"part-" + eagerStarts:   eagerStartsPart,
}

func parse(args []string, stdout io.Writer) (settings, error) {
	s := settings{}
	fs := flag.NewFlagSet("bench", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	fs.Usage = func() {} // the error names the mistake
	fs.IntVar(&s.rounds, "rounds", 3, "how many times each variant runs")
	fs.IntVar(&s.messages, "messages", 1000, "messages in each backlog of a variant that runs a workflow for each")
	fs.IntVar(&s.fastMessages, "fast-messages", 100_000, "messages in each backlog of the other variants")
	fs.DurationVar(&s.latency, "latency", 15*time.Second,
		"how long latency and idle costs are measured, with each trigger; 0 for not at all")
	fs.DurationVar(&s.paced, "paced", 10*time.Second,
		"how long the latency of each variant is measured, at two rates; 0 for not at all")
	fs.DurationVar(&s.far, "far", 20*time.Millisecond,
		"drain the fast variants a second time, while the queue service answers this much later; 0 for not at all")
	fs.DurationVar(&s.growth, "growth", 0,
		"measure nothing but drains of large tables, for this long each; 10s is a good window")
	fs.BoolVar(&s.payloads, "payloads", false, "measure nothing but drains of payloads of other sizes")
	only := fs.String("only", "", "run these variants alone, with commas between: "+strings.Join(variants, ","))
	if err := fs.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			fmt.Fprint(stdout, "bench measures Outflow beside the same work done in other ways.\n\nFlags:\n")
			fs.SetOutput(stdout)
			fs.PrintDefaults()
			return s, err
		}
		return s, usageError{err}
	}
	var errs []error
	if fs.NArg() > 0 {
		errs = append(errs, fmt.Errorf("unexpected argument %q", fs.Arg(0)))
	}
	if s.rounds < 1 {
		errs = append(errs, fmt.Errorf("-rounds: wants 1 or more (got %d)", s.rounds))
	}
	if s.messages < 1 {
		errs = append(errs, fmt.Errorf("-messages: wants 1 or more (got %d)", s.messages))
	}
	if s.fastMessages < 1 {
		errs = append(errs, fmt.Errorf("-fast-messages: wants 1 or more (got %d)", s.fastMessages))
	}
	for name, d := range map[string]time.Duration{
		"latency": s.latency, "paced": s.paced, "far": s.far, "growth": s.growth,
	} {
		if d < 0 {
			errs = append(errs, fmt.Errorf("-%s: wants 0 or more (got %s)", name, d))
		}
	}
	s.only = variants
	if *only != "" {
		s.only = strings.Split(*only, ",")
	}
	for _, name := range s.only {
		if !slices.Contains(variants, name) {
			errs = append(errs, fmt.Errorf("-only: wants %s (got %q)", strings.Join(variants, ", "), name))
		}
	}
	errs = append(errs, s.checkModes()...)
	if err := errors.Join(errs...); err != nil {
		return s, usageError{err}
	}
	return s, nil
}

// checkModes returns the mistakes of what is measured in place of rounds.
func (s settings) checkModes() (errs []error) {
	if s.growth > 0 && s.payloads {
		errs = append(errs, errors.New("-growth and -payloads: wants one of the two"))
	}
	for _, mode := range []struct {
		name     string
		asked    bool
		variants []string
	}{{"-growth", s.growth > 0, grow}, {"-payloads", s.payloads, payloadsOf}} {
		if mode.asked && len(chosen(s.only, mode.variants)) == 0 {
			errs = append(errs, fmt.Errorf("-only: wants one of %s with %s (got %s)",
				strings.Join(mode.variants, ", "), mode.name, strings.Join(s.only, ",")))
		}
	}
	return errs
}

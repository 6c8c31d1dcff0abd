// Command chaos breaks everything that Outflow stands on, at random times, under
// load, and says whether a message was lost. `make chaos` runs it.
//
// The invariant: exit code 0 means that every scenario asked for ran to its end,
// that no committed message was lost, and that no bound was broken. The seed
// alone decides what breaks when.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"os/signal"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/outflowhq/outflow/devstack/faults"
	"github.com/outflowhq/outflow/devstack/rabbitmq"
)

func main() {
	faults.ServeEngine()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second Ctrl-C ends at once
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	switch {
	case err == nil, errors.Is(err, flag.ErrHelp):
		return
	case errors.As(err, new(usageError)):
		fmt.Fprintln(os.Stderr, "chaos:", err)
		os.Exit(2)
	}
	fmt.Fprintln(os.Stderr, "chaos:", err)
	os.Exit(1)
}

// usageError is a mistake on the command line.
type usageError struct{ error }

// options are the command line's.
type options struct {
	minutes  float64
	seed     uint64
	only     string
	keep     bool
	programs string
	rate     int
	rounds   int
	kills    int
}

// scenarios in the order in which they run.
var scenarios = []struct {
	name string
	run  func(context.Context, *chaos) error
}{
	{"random", random},
	{"isolation", isolation},
	{"hosts", hosts},
	{"poison", poison},
	{"outage", outage},
	{"signup", signup},
	{"callback", callback},
	{"receivers", receivers},
	{"order", order},
	{"stream", stream},
	{"rabbitmq", rabbitScenario},
}

func scenarioNames() (names []string) {
	for _, s := range scenarios {
		names = append(names, s.name)
	}
	return names
}

func parse(args []string, stderr io.Writer) (options, error) {
	var o options
	flags := flag.NewFlagSet("chaos", flag.ContinueOnError)
	flags.SetOutput(stderr)
	flags.Float64Var(&o.minutes, "minutes", 10,
		"length of the scenario random, and of order at most; that of outage is 5 at most, of signup 3; "+
			"for each of them, 10 at most, the streams of stream get 20,000 messages and two kills")
	flags.Uint64Var(&o.seed, "seed", 0, "decides what breaks when; 0 takes one by chance")
	flags.StringVar(&o.only, "only", "", "one scenario ("+strings.Join(scenarioNames(),
		", ")+"), a kind of fault for random, a trouble for isolation or hosts, or a part of stream, to keep to")
	flags.BoolVar(&o.keep, "keep", false, "keep data and logs; a failure keeps them too")
	flags.StringVar(&o.programs, "programs", "bin", "folder of Outflow's programs")
	flags.IntVar(&o.rate, "rate", 40, "messages a second")
	flags.IntVar(&o.rounds, "rounds", 7, "rounds with a trouble, each between two without, of which the median counts")
	flags.IntVar(&o.kills, "kills", 30, "processes that the scenario callback kills; stream kills 20 at most")
	if err := flags.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return o, err
		}
		return o, usageError{err}
	}
	if o.minutes <= 0 || o.rate < 1 || o.rounds < 1 || o.kills < 1 {
		return o, usageError{errors.New("-minutes, -rate, -rounds and -kills want more than 0")}
	}
	if o.only != "" && scenarioOf(o.only) == "" {
		return o, usageError{fmt.Errorf("-only wants one of %s (got %q)",
			strings.Join(slices.Concat(scenarioNames(), kindNames(), troubleNames(), hostNames(), streamParts()), ", "), o.only)}
	}
	if o.seed == 0 {
		o.seed = uint64(rand.Uint32())
	}
	return o, nil
}

// scenarioOf is the scenario that a value of -only asks for, or "".
func scenarioOf(only string) string {
	switch {
	case slices.Contains(kindNames(), only):
		return "random"
	case slices.Contains(troubleNames(), only):
		return "isolation"
	case slices.Contains(hostNames(), only):
		return "hosts"
	case slices.Contains(streamParts(), only):
		return "stream"
	}
	for _, s := range scenarios {
		if s.name == only {
			return only
		}
	}
	return ""
}

// runs reports whether a scenario is asked for.
func (o options) runs(name string) bool { return o.only == "" || scenarioOf(o.only) == name }

func run(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	o, err := parse(args, stderr)
	if err != nil {
		return err
	}
	fmt.Fprintf(stdout, "seed %d\n", o.seed)
	stack, err := faults.Up(ctx)
	if err != nil {
		return err
	}
	c := &chaos{options: o, stack: stack, out: stdout, began: time.Now()}
	var errs []error
	for _, s := range scenarios {
		if !o.runs(s.name) || ctx.Err() != nil {
			continue
		}
		if s.name == "rabbitmq" && o.only == "" && !rabbitmq.Installed() {
			fmt.Fprintf(stdout, "== %s: skipped, for RabbitMQ is not installed (%s)\n", s.name, rabbitmq.HowToInstall)
			continue
		}
		fmt.Fprintf(stdout, "== %s\n", s.name)
		if err := s.run(ctx, c); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", s.name, err))
		}
	}
	for _, b := range c.broken {
		errs = append(errs, errors.New(b))
	}
	keep := o.keep || len(errs) > 0
	if keep {
		fmt.Fprintf(stdout, "logs: %s\n", stack.Logs())
	}
	return errors.Join(append(errs, ctx.Err(), stack.Down(keep))...)
}

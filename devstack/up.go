package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"path/filepath"
	"strconv"
	"time"

	"github.com/outflowhq/outflow/devstack/rabbitmq"
	"github.com/outflowhq/outflow/devstack/stack"
)

const usage = `devstack brings up what Outflow needs: Postgres, Temporal with its Web UI, SQS and SNS, and RabbitMQ
where asked. No Docker.

  devstack up  [flags]                     bring all up, and stay until Ctrl-C
  devstack run [flags] -- COMMAND [ARG…]   bring all up, run COMMAND in its environment, take all down;
                                           the exit code is the command's
  devstack missing                         say in one line which optional part this machine lacks
  devstack help

Flags:
  --data DIR                 keep the data in DIR (up: default .devstack)
  --ephemeral                keep no data (run: the default)
  --durable                  with --ephemeral: Postgres keeps every commit through a crash; slower
  --env-file PATH            write the environment there (up: default .devstack/env)
  --queue NAME               make this SQS queue; more than once for more (they live in memory)
  --rabbitmq                 RabbitMQ, too, which must be installed; --rabbitmq=if-installed: only where it is
  --postgres-port N, --temporal-port N, --ui-port N, --sqs-port N, --rabbitmq-port N
                             ports on 127.0.0.1; default 0: that of the last stack on the same data where
                             it is free, else another
  --database-url URL         use this Postgres, not an own one
  --temporal-address H:P     use this Temporal, not an own one

A shell finds the stack with: set -a; . .devstack/env; set +a
Nothing in the environment changes what devstack does.
`

// parseFlags reads the flags that both commands share; what is left is the command of run.
func parseFlags(name string, args []string) (stack.Options, []string, error) {
	var o stack.Options
	fs := flag.NewFlagSet(name, flag.ContinueOnError)
	fs.SetOutput(io.Discard) // the error says it, and `devstack help` the rest
	fs.StringVar(&o.DataDir, "data", "", "")
	fs.BoolVar(&o.Ephemeral, "ephemeral", false, "")
	fs.BoolVar(&o.Durable, "durable", false, "")
	fs.StringVar(&o.EnvFile, "env-file", "", "")
	fs.Func("queue", "", func(name string) error {
		o.Queues = append(o.Queues, name)
		return nil
	})
	fs.BoolFunc("rabbitmq", "", func(value string) (err error) {
		if value == "if-installed" {
			o.RabbitMQ = rabbitmq.Installed()
			return nil
		}
		o.RabbitMQ, err = strconv.ParseBool(value)
		return err
	})
	fs.IntVar(&o.RabbitMQPort, "rabbitmq-port", 0, "")
	fs.IntVar(&o.PostgresPort, "postgres-port", 0, "")
	fs.IntVar(&o.TemporalPort, "temporal-port", 0, "")
	fs.IntVar(&o.UIPort, "ui-port", 0, "")
	fs.IntVar(&o.QueuePort, "sqs-port", 0, "")
	fs.StringVar(&o.DatabaseURL, "database-url", "", "")
	fs.StringVar(&o.TemporalAddress, "temporal-address", "", "")
	if err := fs.Parse(args); err != nil {
		return o, nil, usageError{err}
	}
	return o, fs.Args(), nil
}

func up(ctx context.Context, args []string, stdout, stderr io.Writer) error {
	o, rest, err := parseFlags("up", args)
	if errors.Is(err, flag.ErrHelp) {
		_, err := fmt.Fprint(stdout, usage)
		return err
	}
	if err != nil {
		return err
	}
	if len(rest) > 0 {
		return usageError{fmt.Errorf("up takes no argument %q: see `devstack help`", rest[0])}
	}
	if o.EnvFile == "" {
		o.EnvFile = filepath.Join(stack.DefaultDir, "env")
	}
	s, err := start(ctx, o)
	if err != nil || s == nil {
		return err
	}
	if err := s.WriteTable(stdout); err != nil {
		return errors.Join(err, s.Down())
	}
	fmt.Fprintf(stderr, "devstack: up after %.1f s; Ctrl-C takes all down\n", s.took.Seconds())
	select {
	case <-ctx.Done():
		return s.Down()
	case <-s.PostgresDone():
		return errors.Join(errors.New("postgres ended by itself; its log may say why"), s.Down())
	}
}

// running is a stack and how long it took to come up.
type running struct {
	*stack.Stack
	took time.Duration
}

// start brings the stack up. A Ctrl-C meanwhile is no error: it returns nothing at all.
func start(ctx context.Context, o stack.Options) (*running, error) {
	began := time.Now()
	s, err := stack.Up(ctx, o)
	switch {
	case err != nil && ctx.Err() != nil:
		return nil, nil
	case errors.As(err, new(stack.OptionsError)):
		return nil, usageError{err}
	case err != nil:
		return nil, err
	}
	return &running{Stack: s, took: time.Since(began)}, nil
}

// missing says what this machine lacks, and nothing where it has everything.
func missing(stdout io.Writer) error {
	if rabbitmq.Installed() {
		return nil
	}
	_, err := fmt.Fprintf(stdout, "skipped: the tests with RabbitMQ, which is not installed (%s)\n",
		rabbitmq.HowToInstall)
	return err
}

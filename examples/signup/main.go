// Command signup shows the transactional outbox: a service that signs people up, the consumer of
// its messages, and the worker of a workflow that a message starts. Outflow runs between them.
//
// The invariant: a user exists if and only if its messages do.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"

	awsconfig "github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outflowhq/outflow/inbox/migrate"
	"github.com/outflowhq/outflow/outboxdb"
	"github.com/outflowhq/outflow/outboxdb/wait"
)

const usage = `signup is an example of Outflow: a sign-up service and the consumer of its messages.

Usage:
  signup serve [-listen 127.0.0.1:8080] [-welcome temporal://signup/Welcome]
                   answer POST /users {"name": "Ada", "email": "ada@example.com"};
                   with -welcome, each sign-up starts a workflow, too
  signup consume   write the welcome e-mails, and show them
  signup welcome   run the workflows

Settings: DATABASE_URL, AWS_REGION, AWS_ENDPOINT_URL_SQS and the other variables of AWS's SDKs;
for the workflows TEMPORAL_ADDRESS and the other variables of Temporal's.
`

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	context.AfterFunc(ctx, stop) // a second signal ends the process at once
	err := run(ctx, os.Args[1:], os.Getenv, os.Stdout, os.Stderr)
	var mistake usageError
	switch {
	case errors.As(err, &mistake):
		fmt.Fprintf(os.Stderr, "signup: %v\nSee \"signup help\".\n", err)
		os.Exit(2)
	case err != nil:
		fmt.Fprintln(os.Stderr, "signup:", err)
		os.Exit(1)
	}
}

// usageError is a mistake on the command line.
type usageError struct{ error }

func run(ctx context.Context, args []string, getenv func(string) string, stdout, stderr io.Writer) error {
	if len(args) == 0 {
		return usageError{errors.New("wants serve, consume or welcome")}
	}
	flags := flag.NewFlagSet("signup "+args[0], flag.ContinueOnError)
	flags.SetOutput(io.Discard)
	var do func(context.Context, *pgxpool.Pool, *slog.Logger) error
	switch args[0] {
	case "serve":
		listen := flags.String("listen", "127.0.0.1:8080", "")
		workflow := flags.String("welcome", "", "")
		do = func(ctx context.Context, pool *pgxpool.Pool, log *slog.Logger) error {
			return serve(ctx, pool, *listen, *workflow, stdout, log)
		}
	case "consume":
		do = func(ctx context.Context, pool *pgxpool.Pool, log *slog.Logger) error {
			return consume(ctx, pool, stdout, log)
		}
	case "welcome":
		do = func(ctx context.Context, pool *pgxpool.Pool, log *slog.Logger) error {
			return welcome(ctx, pool, stdout, log)
		}
	case "help", "-h", "-help", "--help":
		_, err := fmt.Fprint(stdout, usage)
		return err
	default:
		return usageError{fmt.Errorf("unknown command %q", args[0])}
	}
	switch err := flags.Parse(args[1:]); {
	case errors.Is(err, flag.ErrHelp):
		_, err := fmt.Fprint(stdout, usage)
		return err
	case err != nil:
		return usageError{err}
	case flags.NArg() > 0:
		return usageError{fmt.Errorf("unexpected argument %q", flags.Arg(0))}
	}
	pool, err := pgxpool.New(ctx, getenv("DATABASE_URL"))
	if err != nil {
		return fmt.Errorf("DATABASE_URL: %w", err)
	}
	defer pool.Close()
	return do(ctx, pool, slog.New(slog.NewTextHandler(stderr, nil)))
}

// serve runs the service. It creates the queues before the first sign-up: a message to a queue
// that does not exist ends dead. workflow is the destination that starts the welcome workflow; ""
// starts none.
func serve(
	ctx context.Context, pool *pgxpool.Pool, address, workflow string, out io.Writer, log *slog.Logger,
) error {
	if err := outboxdb.New(pool).Ping(ctx); err != nil {
		return err
	}
	if _, err := pool.Exec(ctx, createUsers); err != nil {
		return fmt.Errorf("creating the table users: %w", err)
	}
	client, err := newSQS(ctx)
	if err != nil {
		return err
	}
	if client.Options().Region != "" { // otherwise another process creates them
		if _, err := createQueues(ctx, client); err != nil {
			return err
		}
	}
	waiter := wait.New(pool)
	defer waiter.Close()
	return listenAndServe(ctx, address, newHandler(&signUps{pool, workflow}, waiter, waitTimeout, log), out)
}

// consume runs one consumer for each queue.
func consume(ctx context.Context, pool *pgxpool.Pool, out io.Writer, log *slog.Logger) error {
	if _, err := migrate.Up(ctx, pool); err != nil {
		return fmt.Errorf("preparing the inbox: %w", err)
	}
	if _, err := pool.Exec(ctx, createEmails); err != nil {
		return fmt.Errorf("creating the table emails: %w", err)
	}
	client, err := newSQS(ctx)
	if err != nil {
		return err
	}
	urls, err := createQueues(ctx, client)
	if err != nil {
		return err
	}
	c := &consumer{pool: pool, queue: client, out: out, log: log}
	fmt.Fprintf(out, "consuming %s\n", strings.Join(urls, ", "))
	var running sync.WaitGroup
	for _, url := range urls {
		running.Go(func() { c.run(ctx, url) })
	}
	running.Wait()
	return nil
}

func newSQS(ctx context.Context) (*sqs.Client, error) {
	c, err := awsconfig.LoadDefaultConfig(ctx)
	if err != nil {
		return nil, fmt.Errorf("reading AWS's settings: %w", err)
	}
	return sqs.NewFromConfig(c), nil
}

// createQueues returns the queues' URLs. A queue that exists stays as it is.
func createQueues(ctx context.Context, client *sqs.Client) ([]string, error) {
	var urls []string
	for _, name := range []string{userRegistered, welcomeEmail} {
		created, err := client.CreateQueue(ctx, &sqs.CreateQueueInput{QueueName: &name})
		if err != nil {
			return nil, fmt.Errorf("creating the queue %s: %w", name, err)
		}
		urls = append(urls, *created.QueueUrl)
	}
	return urls, nil
}

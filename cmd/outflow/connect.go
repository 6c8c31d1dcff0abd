package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.temporal.io/sdk/client"
	sdklog "go.temporal.io/sdk/log"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/config"
	"github.com/outflowhq/outflow/namespace"
	"github.com/outflowhq/outflow/operator"
	"github.com/outflowhq/outflow/workflows"
)

// operator opens the database and, once an act needs it, Temporal. The returned function closes
// both.
func (cl commandLine) operator(ctx context.Context) (o *operator.Operator, closeAll func(), err error) {
	pool, err := openPool(ctx, cl.getenv)
	if err != nil {
		return nil, nil, err
	}
	runs, closeClient := cl.runs(ctx)
	return operator.New(pool, runs, cl.outbox()), func() {
		closeClient()
		pool.Close()
	}, nil
}

func (cl commandLine) runs(ctx context.Context) (r operator.Runs, closeClient func()) {
	return operator.ConnectLater(func() (client.Client, error) {
		c, _, err := cl.temporal(ctx)
		return c, err
	})
}

func openPool(ctx context.Context, getenv func(string) string) (*pgxpool.Pool, error) {
	c, err := config.Database(getenv)
	if err != nil {
		return nil, err
	}
	pool, err := pgxpool.NewWithConfig(ctx, c)
	if err != nil {
		return nil, fmt.Errorf("opening the database: %w", err)
	}
	return pool, nil
}

// withAdvice adds what to do to an error of the database that does not say so itself.
func withAdvice(err error) error {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return err
	}
	switch pg.Code { // https://www.postgresql.org/docs/current/errcodes-appendix.html
	case "3F000", "42P01", "42703", "42883": // no such schema, table, column, function
		return fmt.Errorf("%w: the schema is missing or older than this command: run \"outflow migrate up\"", err)
	case "42501":
		return fmt.Errorf("%w: \"outflow grants -operator ROLE\" prints the rights that it needs", err)
	}
	return err
}

// dialTimeout is how long Temporal may take to answer at all.
const dialTimeout = 5 * time.Second

// temporal connects to the namespace that the settings name.
func (cl commandLine) temporal(ctx context.Context) (client.Client, namespace.Target, error) {
	options, err := config.Temporal(cl.getenv)
	if err = errors.Join(err, config.Names(cl.getenv)); err != nil {
		return nil, namespace.Target{}, err
	}
	target := targetOf(options)
	ctx, cancel := context.WithTimeout(ctx, dialTimeout)
	defer cancel()
	c, err := dial(ctx, options)
	return c, target, err
}

// dial connects to Temporal. The SDK's log would only repeat what the commands say.
func dial(ctx context.Context, options client.Options) (client.Client, error) {
	options.Logger = sdklog.NewStructuredLogger(slog.New(slog.DiscardHandler))
	c, err := client.DialContext(ctx, options)
	if err != nil {
		return nil, fmt.Errorf("connecting to Temporal at %s: %w", targetOf(options).Address, err)
	}
	return c, nil
}

func targetOf(options client.Options) namespace.Target {
	return namespace.Target{
		Address:   cmp.Or(options.HostPort, client.DefaultHostPort),
		Namespace: cmp.Or(options.Namespace, client.DefaultNamespace),
	}
}

func (cl commandLine) outbox() string {
	return cmp.Or(cl.getenv("OUTFLOW_OUTBOX"), outflow.DefaultOutbox)
}

func (cl commandLine) taskQueue() string {
	return cmp.Or(cl.getenv("OUTFLOW_TASK_QUEUE"), workflows.TaskQueueFor(cl.outbox()))
}

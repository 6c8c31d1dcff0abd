package service

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"time"

	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"

	"github.com/outflowhq/outflow/internal/telemetry"
	"github.com/outflowhq/outflow/outboxdb"
)

const (
	// tryPause lies between two tries to reach a part at the start.
	tryPause = 500 * time.Millisecond
	// tryTimeout bounds one try: an address that drops packets never answers.
	tryTimeout = 10 * time.Second
	// waitLogInterval lies between two log lines about the part that a start waits for.
	waitLogInterval = 5 * time.Second
)

// startup opens the parts that a program needs.
type startup struct {
	log    *slog.Logger
	health *health
	// metrics are nil where none are collected.
	metrics *telemetry.Metrics
	// once ends the start at the first error.
	once bool
}

// until tries to reach a part until it is there. It returns early when ctx ends, and when final
// says that waiting does not fix the error.
func (s startup) until(
	ctx context.Context, part string, try func(context.Context) error, final func(error) bool,
) error {
	var logged time.Time
	for {
		err := tryOnce(ctx, try)
		switch {
		case err == nil && !logged.IsZero():
			s.log.Info("no longer waiting", "for", part)
			return nil
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case s.once || final(err):
			return err
		}
		s.health.waitingFor(part)
		if time.Since(logged) >= waitLogInterval {
			s.log.Warn("waiting at the start", "for", part, "error", err)
			logged = time.Now()
		}
		select {
		case <-time.After(tryPause):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func tryOnce(ctx context.Context, try func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, tryTimeout)
	defer cancel()
	return try(ctx)
}

// reachDatabase waits for a database that answers and has the schema.
func (s startup) reachDatabase(ctx context.Context, store *outboxdb.Store) error {
	return s.until(ctx, partDatabase, func(ctx context.Context) error {
		if err := store.Ping(ctx); err != nil {
			return err
		}
		_, err := store.DatabaseID(ctx) // the store remembers it, so that no task waits for it
		return err
	}, databaseRefuses)
}

// dial connects to Temporal and waits until it has the namespace.
func (s startup) dial(ctx context.Context, o client.Options) (client.Client, error) {
	var connected client.Client
	var namespace namespaceWait
	err := s.until(ctx, partTemporal, func(ctx context.Context) error {
		c, err := client.DialContext(ctx, o)
		if err == nil {
			err = hasNamespace(ctx, c, cmp.Or(o.Namespace, client.DefaultNamespace))
			if err == nil {
				connected = c
				return nil
			}
			c.Close()
		}
		return fmt.Errorf("connecting to Temporal at %s (TEMPORAL_ADDRESS): %w", o.HostPort, err)
	}, namespace.isOver)
	return connected, err
}

func hasNamespace(ctx context.Context, c client.Client, namespace string) error {
	_, err := c.WorkflowService().DescribeNamespace(ctx,
		&workflowservice.DescribeNamespaceRequest{Namespace: namespace})
	var old *serviceerror.Unimplemented // of a proxy that only passes a worker's calls on
	if err == nil || errors.As(err, &old) {
		return nil
	}
	return fmt.Errorf("looking for the namespace %q (TEMPORAL_NAMESPACE): %w", namespace, err)
}

// startWorker starts a worker. The SDK starts a worker once, so each try has a new one.
func (s startup) startWorker(ctx context.Context, newWorker func() worker.Worker) (started worker.Worker, err error) {
	err = s.until(ctx, partTemporal, func(context.Context) error {
		w := newWorker()
		if err := w.Start(); err != nil {
			return fmt.Errorf("starting the worker: %w", err)
		}
		started = w
		return nil
	}, temporalRefuses)
	return started, err
}

package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/dbos-inc/dbos-transact-golang/dbos"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

// DBOS: a workflow for each message, enqueued in the producer's transaction, with one step that
// sends.
//
//   - The queue has no limit of rate and no global limit: a limit of all processes makes them
//     dequeue one after the other, a limit of this process does not.
//     https://docs.dbos.dev/golang/reference/queues
//   - What is dequeued in a poll is at most what this limit allows, so the limit and the interval
//     between polls (1 s by default) bound its throughput. No limit at all was not faster here, and
//     neither were 2,000.
//   - The pool is larger than the 20 connections that it has by default; 64 were not faster.
//     https://docs.dbos.dev/golang/reference/configuration
const (
	dbosApplication = "bench"
	dbosQueue       = "outbox"
	dbosWorkflow    = "deliver"
	dbosConcurrency = 1000
	dbosPoll        = 10 * time.Millisecond
	dbosDatabase    = 32
	dbosStopWithin  = 10 * time.Second
)

// dbosTables are those of workflows, their inputs, outputs and steps.
const dbosTables = "dbos.workflow_status, dbos.workflow_input, dbos.workflow_output, dbos.operation_outputs"

// dbosRun has the workflow and its step.
type dbosRun struct{ sender peerSender }

func (d *dbosRun) deliver(ctx dbos.Context, m peerMessage) (string, error) {
	return dbos.RunAsStep(ctx, func(ctx context.Context) (string, error) { return "", d.sender.send(ctx, m) })
}

func dbosPart(ctx context.Context, args []string, _ io.Writer) error {
	a, err := parsePeerArgs(dbosPeer, args)
	if err != nil {
		return err
	}
	pool, err := a.pool(ctx, dbosDatabase)
	if err != nil {
		return err
	}
	defer pool.Close()
	d, err := dbos.NewContext(context.WithoutCancel(ctx), dbos.Config{
		AppName: dbosApplication, ApplicationVersion: "1", SystemDBPool: pool, Logger: slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return fmt.Errorf("setting DBOS up: %w", err)
	}
	run := &dbosRun{newPeerSender(a.queues)}
	dbos.RegisterWorkflow(d, run.deliver, dbos.WithWorkflowName(dbosWorkflow))
	if err := dbos.Launch(d); err != nil {
		return fmt.Errorf("launching DBOS: %w", err)
	}
	_, err = dbos.RegisterQueue(d, dbosQueue, dbos.WithWorkerConcurrency(dbosConcurrency),
		dbos.WithQueueBasePollingInterval(dbosPoll))
	if err == nil {
		<-ctx.Done()
	}
	if stopped := dbos.Shutdown(d, dbosStopWithin); err == nil {
		err = stopped
	}
	return err
}

// prepareDBOS creates DBOS's tables, and the client that producers enqueue with. They enqueue in
// transactions of their own: the client uses the pool when it is made, and not after that.
func prepareDBOS(ctx context.Context, pool *pgxpool.Pool) (dbos.Client, error) {
	quiet := slog.New(slog.DiscardHandler)
	d, err := dbos.NewContext(ctx, dbos.Config{
		AppName: dbosApplication, DatabaseURL: pool.Config().ConnString(), Logger: quiet,
	})
	if err != nil {
		return nil, fmt.Errorf("creating DBOS's tables: %w", err)
	}
	if err := dbos.Shutdown(d, dbosStopWithin); err != nil {
		return nil, fmt.Errorf("creating DBOS's tables: %w", err)
	}
	c, err := dbos.NewClient(ctx, dbos.ClientConfig{AppName: dbosApplication, SystemDBPool: pool, Logger: quiet})
	if err != nil {
		return nil, fmt.Errorf("setting DBOS's client up: %w", err)
	}
	return c, nil
}

func dbosSource(client dbos.Client) source {
	return source{
		tables: dbosTables,
		insert: func(_ context.Context, tx pgx.Tx, queue string, bodies []string) ([]string, error) {
			all, ids := peerMessages(queue, bodies)
			for _, m := range all {
				_, err := dbos.Enqueue[string](client, dbosQueue, dbosWorkflow, m, dbos.WithEnqueueTransaction(tx))
				if err != nil {
					return nil, err
				}
			}
			return ids, nil
		},
		left: `SELECT EXISTS (SELECT FROM dbos.workflow_status WHERE status IN ('ENQUEUED', 'PENDING'))`,
	}
}

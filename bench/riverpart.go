package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/riverqueue/river"
	"github.com/riverqueue/river/riverdriver/riverpgxv5"
	"github.com/riverqueue/river/rivermigrate"
)

// River: a job for each message, inserted in the producer's transaction.
//
//   - FetchCooldown limits its throughput ("Throughput is limited by this value", Config's
//     documentation). It and FetchPollInterval are those of River's own benchmark, which were
//     chosen for throughput:
//     https://github.com/riverqueue/river/blob/v0.51.1/cmd/river/riverbench/river_bench.go
//   - MaxWorkers was the fastest here of 100, 500, 1,000, and the 2,000 of that benchmark, whose
//     jobs do nothing.
//   - A backlog is inserted with InsertManyFastTx, which uses COPY:
//     https://riverqueue.com/docs/batch-job-insertion
//   - The jobs are done one by one, and completed in batches by River itself. Batches of jobs are
//     part of River Pro alone.
const (
	riverSchema     = "river"
	riverCooldown   = 2 * time.Millisecond
	riverPoll       = 20 * time.Millisecond
	riverWorkers    = 500
	riverDatabase   = 16
	riverStopWithin = 10 * time.Second
)

// riverArgs are a job's.
type riverArgs struct{ peerMessage }

func (riverArgs) Kind() string { return "send" }

// riverWorker sends a job's message.
type riverWorker struct {
	river.WorkerDefaults[riverArgs]
	sender peerSender
}

func (w *riverWorker) Work(ctx context.Context, job *river.Job[riverArgs]) error {
	return w.sender.send(ctx, job.Args.peerMessage)
}

func riverPart(ctx context.Context, args []string, _ io.Writer) error {
	a, err := parsePeerArgs(riverPeer, args)
	if err != nil {
		return err
	}
	pool, err := a.pool(ctx, riverDatabase)
	if err != nil {
		return err
	}
	defer pool.Close()
	workers := river.NewWorkers()
	river.AddWorker(workers, &riverWorker{sender: newPeerSender(a.queues)})
	client, err := river.NewClient(riverpgxv5.New(pool), &river.Config{
		Schema: riverSchema, Workers: workers,
		Queues:        map[string]river.QueueConfig{river.QueueDefault: {MaxWorkers: riverWorkers}},
		FetchCooldown: riverCooldown, FetchPollInterval: riverPoll, SoftStopTimeout: riverStopWithin,
		Logger: slog.New(slog.NewTextHandler(os.Stderr, &slog.HandlerOptions{Level: slog.LevelWarn})),
	})
	if err != nil {
		return fmt.Errorf("setting River up: %w", err)
	}
	if err := client.Start(ctx); err != nil {
		return fmt.Errorf("starting River: %w", err)
	}
	<-client.Stopped()
	return nil
}

// prepareRiver creates River's tables.
func prepareRiver(ctx context.Context, pool *pgxpool.Pool) error {
	if _, err := pool.Exec(ctx, "CREATE SCHEMA "+riverSchema); err != nil {
		return fmt.Errorf("creating River's schema: %w", err)
	}
	migrator, err := rivermigrate.New(riverpgxv5.New(pool), &rivermigrate.Config{
		Schema: riverSchema, Logger: slog.New(slog.DiscardHandler),
	})
	if err == nil {
		_, err = migrator.Migrate(ctx, rivermigrate.DirectionUp, nil)
	}
	if err != nil {
		return fmt.Errorf("creating River's tables: %w", err)
	}
	return nil
}

var riverSource = source{
	tables: riverSchema + ".river_job", insert: insertRiver,
	left: `SELECT EXISTS (SELECT FROM river.river_job
		WHERE state IN ('available', 'running', 'retryable', 'scheduled', 'pending'))`,
}

func insertRiver(ctx context.Context, tx pgx.Tx, queue string, bodies []string) ([]string, error) {
	client, err := river.NewClient(riverpgxv5.New(nil), &river.Config{Schema: riverSchema})
	if err != nil {
		return nil, fmt.Errorf("setting River up: %w", err)
	}
	all, ids := peerMessages(queue, bodies)
	jobs := make([]river.InsertManyParams, 0, len(all))
	for _, m := range all {
		jobs = append(jobs, river.InsertManyParams{Args: riverArgs{m}})
	}
	_, err = client.InsertManyFastTx(ctx, tx, jobs)
	return ids, err
}

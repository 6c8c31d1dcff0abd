package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"
	"golang.org/x/sync/errgroup"

	"github.com/outflowhq/outflow/publish/awssqs"
)

// naiveSchema is a plain outbox: no rules that a row must keep, and one index for the poller.
const naiveSchema = `
CREATE SCHEMA naive;
CREATE TABLE naive.outbox (
    id         uuid        PRIMARY KEY,
    queue      text        NOT NULL,
    body       text        NOT NULL,
    created_at timestamptz NOT NULL DEFAULT now(),
    started_at timestamptz,
    sent_at    timestamptz
);
CREATE INDEX outbox_new ON naive.outbox (created_at) WHERE started_at IS NULL;`

const naivePick = `
UPDATE naive.outbox SET started_at = now()
 WHERE id IN (SELECT id FROM naive.outbox WHERE started_at IS NULL ORDER BY created_at LIMIT $1 FOR UPDATE SKIP LOCKED)
RETURNING id, queue, body`

const naiveMark = `UPDATE naive.outbox SET sent_at = now() WHERE id = $1`

const (
	naiveBatch = 100
	naivePoll  = 250 * time.Millisecond
)

// naiveRow is a row as the poller reads it, and the workflow's input.
type naiveRow struct {
	ID    uuid.UUID `db:"id"`
	Queue string    `db:"queue"`
	Body  string    `db:"body"`
}

// naivePart is what a competent team writes first: a poller, a workflow for each row, an activity
// that sends it and one that marks it, a worker with the SDK's defaults, all in one process.
// Arguments: database, address, task queue, queue service.
func naivePart(eager bool) func(context.Context, []string, io.Writer) error {
	return func(ctx context.Context, args []string, _ io.Writer) error {
		if len(args) != 4 {
			return errors.New("naive wants a database, an address, a task queue and a queue service")
		}
		pool, err := pgxpool.New(ctx, args[0])
		if err != nil {
			return fmt.Errorf("opening the database: %w", err)
		}
		defer pool.Close()
		c, err := client.DialContext(ctx, client.Options{HostPort: args[1], Logger: quiet{}})
		if err != nil {
			return fmt.Errorf("connecting to Temporal: %w", err)
		}
		defer c.Close()
		n := &naiveRun{pool: pool, client: c, taskQueue: args[2], eager: eager, sqs: newSQS(args[3]),
			queueURL: args[3] + "/000000000000/"}
		w := worker.New(c, n.taskQueue, worker.Options{WorkerStopTimeout: 15 * time.Second})
		w.RegisterWorkflow(naiveDeliver)
		w.RegisterActivity(n.Send)
		w.RegisterActivity(n.Mark)
		if err := w.Start(); err != nil {
			return fmt.Errorf("starting the worker: %w", err)
		}
		defer w.Stop()
		return n.poll(ctx)
	}
}

// newSQS is a client with fake keys, for the loopback address.
func newSQS(endpoint string) *sqs.Client {
	return sqs.New(sqs.Options{
		Region: "us-east-1", BaseEndpoint: &endpoint,
		Credentials: aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{AccessKeyID: "bench", SecretAccessKey: "bench"}, nil
		}),
	})
}

type naiveRun struct {
	pool      *pgxpool.Pool
	client    client.Client
	taskQueue string
	eager     bool
	sqs       *sqs.Client
	queueURL  string
}

// poll starts what is new, without a pause while there is more.
func (n *naiveRun) poll(ctx context.Context) error {
	for {
		rows, err := n.pool.Query(ctx, naivePick, naiveBatch)
		if err == nil {
			var picked []naiveRow
			if picked, err = pgx.CollectRows(rows, pgx.RowToStructByName[naiveRow]); err == nil {
				err = n.startAll(ctx, picked)
			}
			if err == nil && len(picked) == naiveBatch {
				continue
			}
		}
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return fmt.Errorf("polling: %w", err)
		}
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(naivePoll):
		}
	}
}

func (n *naiveRun) startAll(ctx context.Context, rows []naiveRow) error {
	var g errgroup.Group
	g.SetLimit(inFlight)
	for _, row := range rows {
		g.Go(func() error {
			options := client.StartWorkflowOptions{ID: n.taskQueue + "/" + row.ID.String(), TaskQueue: n.taskQueue,
				EnableEagerStart: n.eager}
			if _, err := n.client.ExecuteWorkflow(ctx, options, naiveDeliver, row); err != nil {
				return fmt.Errorf("starting the workflow of %s: %w", row.ID, err)
			}
			return nil
		})
	}
	return g.Wait()
}

// naiveDeliver sends a row, then marks it.
func naiveDeliver(ctx workflow.Context, row naiveRow) error {
	ctx = workflow.WithActivityOptions(ctx, workflow.ActivityOptions{StartToCloseTimeout: 10 * time.Second})
	var n *naiveRun
	if err := workflow.ExecuteActivity(ctx, n.Send, row).Get(ctx, nil); err != nil {
		return err
	}
	return workflow.ExecuteActivity(ctx, n.Mark, row.ID).Get(ctx, nil)
}

// Send is an activity: one message, one request.
func (n *naiveRun) Send(ctx context.Context, row naiveRow) error {
	_, err := n.sqs.SendMessage(ctx, &sqs.SendMessageInput{
		QueueUrl: aws.String(n.queueURL + row.Queue), MessageBody: &row.Body,
		MessageAttributes: map[string]types.MessageAttributeValue{
			awssqs.AttributeMessageID: {DataType: aws.String("String"), StringValue: aws.String(row.ID.String())},
		},
	})
	return err
}

// Mark is an activity: one row, one statement.
func (n *naiveRun) Mark(ctx context.Context, id uuid.UUID) error {
	_, err := n.pool.Exec(ctx, naiveMark, id)
	return err
}

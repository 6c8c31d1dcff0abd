package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/publish/awssqs"
)

// createSeen makes the consumer's own table: the message IDs that had their
// effect.
const createSeen = `CREATE TABLE IF NOT EXISTS seen (
	message_id uuid        PRIMARY KEY,
	seen_at    timestamptz NOT NULL DEFAULT clock_timestamp())`

// insertSeen returns no row for a duplicate. One that another consumer is
// handling right now is waited for, until that consumer commits or rolls back.
const insertSeen = `INSERT INTO seen (message_id) VALUES ($1) ON CONFLICT DO NOTHING RETURNING seen_at`

// queue is what a consumer needs of SQS.
type queue interface {
	ReceiveMessage(context.Context, *sqs.ReceiveMessageInput, ...func(*sqs.Options)) (*sqs.ReceiveMessageOutput, error)
	DeleteMessage(context.Context, *sqs.DeleteMessageInput, ...func(*sqs.Options)) (*sqs.DeleteMessageOutput, error)
}

var _ queue = (*sqs.Client)(nil)

// consumer handles each message once, though SQS and Outflow deliver at least
// once.
type consumer struct {
	pool  *pgxpool.Pool
	queue queue
	out   io.Writer
	log   *slog.Logger
}

// run handles the messages of one queue until ctx ends.
func (c *consumer) run(ctx context.Context, url string) {
	for ctx.Err() == nil {
		// 20 seconds is the longest poll that SQS offers, 10 messages the most.
		received, err := c.queue.ReceiveMessage(ctx, &sqs.ReceiveMessageInput{
			QueueUrl: &url, WaitTimeSeconds: 20, MaxNumberOfMessages: 10, MessageAttributeNames: []string{"All"},
		})
		if ctx.Err() != nil {
			return
		}
		if err != nil {
			c.log.Warn("receiving; trying again in a second", "queue", url, "error", err)
			pause(ctx, time.Second)
			continue
		}
		for _, m := range received.Messages {
			// What was received is finished, though a stop was asked for meanwhile.
			c.take(context.WithoutCancel(ctx), url, m)
		}
	}
}

// take handles a message and deletes it from the queue. One that can't be
// handled stays there and comes back, until the queue's redrive policy moves
// it to a dead-letter queue.
func (c *consumer) take(ctx context.Context, url string, received types.Message) {
	if err := c.handle(ctx, received); err != nil {
		c.log.Error("handling a message; it stays in the queue", "queue", url, "sqs_message_id", *received.MessageId, "error", err)
		return
	}
	_, err := c.queue.DeleteMessage(ctx, &sqs.DeleteMessageInput{QueueUrl: &url, ReceiptHandle: received.ReceiptHandle})
	if err != nil {
		c.log.Warn("deleting a message; it comes back and is skipped", "queue", url, "error", err)
	}
}

// handle marks the message as seen in the transaction of its effect. An e-mail
// can't be rolled back: a crash between printing and committing sends it
// again, which is better than never. An effect in the database happens once.
func (c *consumer) handle(ctx context.Context, received types.Message) error {
	m, err := awssqs.Decode(received)
	if err != nil {
		return err
	}
	var u user
	if err := json.Unmarshal(m.Payload, &u); err != nil {
		return fmt.Errorf("reading the payload of message %s: %w", m.ID, err)
	}
	return pgx.BeginFunc(ctx, c.pool, func(tx pgx.Tx) error {
		var seenAt time.Time
		err := tx.QueryRow(ctx, insertSeen, m.ID).Scan(&seenAt)
		if errors.Is(err, pgx.ErrNoRows) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("noting message %s as seen: %w", m.ID, err)
		}
		// Both times are the database's, and the first is from before the commit.
		return c.act(m, u, seenAt.Sub(u.RegisteredAt))
	})
}

func (c *consumer) act(m outflow.Message, u user, after time.Duration) error {
	var did string
	switch m.Type {
	case welcomeEmail:
		did = "welcome e-mail to " + u.String()
	case userRegistered:
		did = "user-registered: " + u.String()
	default:
		return fmt.Errorf("message %s: unknown type %q", m.ID, m.Type)
	}
	_, err := fmt.Fprintf(c.out, "%-50s  %s  after %4d ms\n", did, m.ID, after.Milliseconds())
	return err
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

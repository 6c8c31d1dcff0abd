package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/inbox"
	"github.com/outflowhq/outflow/publish/awssqs"
)

// consumerName is what the inbox knows this consumer by, however many processes
// run it.
const consumerName = "signup"

// createEmails makes the consumer's own table: the e-mails to send. A real
// consumer has migrations and, in most cases, a database of its own.
const createEmails = `CREATE TABLE IF NOT EXISTS emails (
	id         bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	message_id uuid        NOT NULL,
	recipient  text        NOT NULL,
	written_at timestamptz NOT NULL DEFAULT clock_timestamp())`

const insertEmail = `INSERT INTO emails (message_id, recipient) VALUES ($1, $2)`

const (
	// pollWithin is longer than a poll takes, 20 s, so that a connection which has
	// gone silent does not hold it for ever.
	pollWithin = 30 * time.Second
	// takeWithin is the queue's visibility timeout, unless somebody set another: a
	// message that took longer is received again anyway.
	takeWithin = 30 * time.Second
)

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
		received, err := c.receive(ctx, url)
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

func (c *consumer) receive(ctx context.Context, url string) (*sqs.ReceiveMessageOutput, error) {
	ctx, cancel := context.WithTimeout(ctx, pollWithin)
	defer cancel()
	// 20 seconds is the longest poll that SQS offers, 10 messages the most.
	return c.queue.ReceiveMessage(ctx, &sqs.ReceiveMessageInput{
		QueueUrl: &url, WaitTimeSeconds: 20, MaxNumberOfMessages: 10, MessageAttributeNames: []string{"All"},
	})
}

// take handles a message and deletes it from the queue. One that can't be
// handled stays there and comes back, until the queue's redrive policy moves
// it to a dead-letter queue.
func (c *consumer) take(ctx context.Context, url string, received types.Message) {
	ctx, cancel := context.WithTimeout(ctx, takeWithin)
	defer cancel()
	if err := c.handle(ctx, received); err != nil {
		c.log.Error("handling a message; it stays in the queue", "queue", url, "sqs_message_id", *received.MessageId, "error", err)
		return
	}
	_, err := c.queue.DeleteMessage(ctx, &sqs.DeleteMessageInput{QueueUrl: &url, ReceiptHandle: received.ReceiptHandle})
	if err != nil {
		c.log.Warn("deleting a message; it comes back and is skipped", "queue", url, "error", err)
	}
}

// handle notes the message in the transaction of its effect: an e-mail is written
// once. To hand it to a mail server is a step of its own, with the message ID as
// its idempotency key, since nothing rolls that back; here a line shows it.
func (c *consumer) handle(ctx context.Context, received types.Message) error {
	m, err := awssqs.Decode(received)
	if err != nil {
		return err
	}
	var u user
	if err := json.Unmarshal(m.Payload, &u); err != nil {
		return fmt.Errorf("reading the payload of message %s: %w", m.ID, err)
	}
	var line string
	err = pgx.BeginFunc(ctx, c.pool, func(tx pgx.Tx) error {
		first, err := inbox.Once(ctx, tx, consumerName, m.ID)
		if err != nil || !first {
			return err
		}
		line, err = act(ctx, tx, m, u)
		return err
	})
	if err != nil || line == "" {
		return err
	}
	if _, err := io.WriteString(c.out, line); err != nil {
		// It has had its effect, so it must not come again.
		c.log.Warn("showing what was done", "message_id", m.ID, "error", err)
	}
	return nil
}

// act is the message's effect, all of it in tx. It returns a line to show.
func act(ctx context.Context, tx pgx.Tx, m outflow.Message, u user) (string, error) {
	var did string
	switch m.Type {
	case welcomeEmail:
		if _, err := tx.Exec(ctx, insertEmail, m.ID, u.Email); err != nil {
			return "", fmt.Errorf("writing the e-mail of message %s: %w", m.ID, err)
		}
		did = "welcome e-mail to " + u.String()
	case userRegistered:
		did = "user-registered: " + u.String()
	default:
		return "", fmt.Errorf("message %s: unknown type %q", m.ID, m.Type)
	}
	var now time.Time // the database's, as the user's is
	if err := tx.QueryRow(ctx, `SELECT clock_timestamp()`).Scan(&now); err != nil {
		return "", fmt.Errorf("reading the time: %w", err)
	}
	return fmt.Sprintf("%-50s  %s  after %4d ms\n", did, m.ID, now.Sub(u.RegisteredAt).Milliseconds()), nil
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

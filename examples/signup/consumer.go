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

// consumerName is this consumer's name in the inbox. All its processes share it.
const consumerName = "signup"

// createEmails creates the consumer's own table: the e-mails to send. A real consumer has
// migrations and usually a database of its own.
const createEmails = `CREATE TABLE IF NOT EXISTS emails (
	id         bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
	message_id uuid        NOT NULL,
	recipient  text        NOT NULL,
	written_at timestamptz NOT NULL DEFAULT clock_timestamp())`

const insertEmail = `INSERT INTO emails (message_id, recipient) VALUES ($1, $2)`

const (
	// pollTimeout is longer than a poll, 20 s: a dead connection must not block it forever.
	pollTimeout = 30 * time.Second
	// handleTimeout is SQS's default visibility timeout: a message that takes longer is
	// received again.
	handleTimeout = 30 * time.Second
)

// consumer handles each message once, though SQS and Outflow deliver at least once.
type consumer struct {
	pool  *pgxpool.Pool
	queue *sqs.Client
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
			// A message that was received is handled, though ctx may have ended.
			c.process(context.WithoutCancel(ctx), url, m)
		}
	}
}

func (c *consumer) receive(ctx context.Context, url string) (*sqs.ReceiveMessageOutput, error) {
	ctx, cancel := context.WithTimeout(ctx, pollTimeout)
	defer cancel()
	// 20 seconds and 10 messages are the maxima of SQS.
	return c.queue.ReceiveMessage(ctx, &sqs.ReceiveMessageInput{
		QueueUrl: &url, WaitTimeSeconds: 20, MaxNumberOfMessages: 10, MessageAttributeNames: []string{"All"},
	})
}

// process handles a message and deletes it from the queue. A message that can't be handled
// stays there and comes again, until the queue's redrive policy moves it to a dead-letter
// queue.
func (c *consumer) process(ctx context.Context, url string, received types.Message) {
	ctx, cancel := context.WithTimeout(ctx, handleTimeout)
	defer cancel()
	if err := c.handle(ctx, received); err != nil {
		c.log.Error("handling a message; it stays in the queue",
			"queue", url, "sqs_message_id", *received.MessageId, "error", err)
		return
	}
	_, err := c.queue.DeleteMessage(ctx, &sqs.DeleteMessageInput{QueueUrl: &url, ReceiptHandle: received.ReceiptHandle})
	if err != nil {
		c.log.Warn("deleting a message; it comes again and is skipped", "queue", url, "error", err)
	}
}

// handle writes the message's ID in the transaction of its effect: an e-mail is written once.
// Sending it to a mail server is a step of its own, with the message ID as idempotency key: it
// can't be rolled back. Here a line shows it.
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
		line, err = apply(ctx, tx, m, u)
		return err
	})
	if err != nil || line == "" {
		return err
	}
	if _, err := io.WriteString(c.out, line); err != nil {
		// The message has had its effect: it must not come again.
		c.log.Warn("printing a line", "message_id", m.ID, "error", err)
	}
	return nil
}

// apply has the message's effect, all of it in tx. It returns a line to show.
func apply(ctx context.Context, tx pgx.Tx, m outflow.Message, u user) (string, error) {
	var effect string
	switch m.Type {
	case welcomeEmail:
		if _, err := tx.Exec(ctx, insertEmail, m.ID, u.Email); err != nil {
			return "", fmt.Errorf("writing the e-mail of message %s: %w", m.ID, err)
		}
		effect = "welcome e-mail to " + u.String()
	case userRegistered:
		effect = "user-registered: " + u.String()
	default:
		return "", fmt.Errorf("message %s: unknown type %q", m.ID, m.Type)
	}
	var now time.Time // by the database's clock, as RegisteredAt is
	if err := tx.QueryRow(ctx, `SELECT clock_timestamp()`).Scan(&now); err != nil {
		return "", fmt.Errorf("reading the time: %w", err)
	}
	return fmt.Sprintf("%-50s  %s  after %4d ms\n", effect, m.ID, now.Sub(u.RegisteredAt).Milliseconds()), nil
}

func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/ThreeDotsLabs/watermill"
	watermillsqs "github.com/ThreeDotsLabs/watermill-aws/sqs"
	watermillsql "github.com/ThreeDotsLabs/watermill-sql/v4/pkg/sql"
	"github.com/ThreeDotsLabs/watermill/components/forwarder"
	"github.com/ThreeDotsLabs/watermill/message"
	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sync/errgroup"

	"github.com/outflowhq/outflow/publish/awssqs"
)

// Watermill: a message in an envelope, published to a topic in Postgres in the producer's
// transaction, and a forwarder that publishes it to SQS.
// https://watermill.io/advanced/forwarder/ and https://watermill.io/pubsubs/sql/
//
//   - A forwarder handles its topic's messages one after the other, and reads a hundred at a time
//     (the default). So there are several topics, each with a forwarder, and producers spread their
//     messages. Sixteen were the fastest here of 1, 4, 16, 32 and 64. One topic, as in the
//     documentation's example, is a third as fast.
//   - The schema is the default one with BYTEA, as in Watermill's own benchmark:
//     https://github.com/ThreeDotsLabs/watermill-benchmark/blob/master/pkg/pubsub.go
//   - Its SQS publisher has no batches: https://watermill.io/pubsubs/aws/
const (
	watermillSchema = "watermill"
	watermillTopics = 16
	watermillPoll   = 100 * time.Millisecond
	// watermillInsert is how many messages an INSERT has: three parameters each, of 65,535.
	watermillInsert = 1000
)

func watermillTopic(i int) string { return fmt.Sprintf("outbox_%d", i) }

func watermillTable(topic string) string { return watermillSchema + "." + topic }

func watermillOffsets(topic string) string { return watermillSchema + "." + topic + "_offsets" }

func watermillAdapter() watermillsql.DefaultPostgreSQLSchema {
	return watermillsql.DefaultPostgreSQLSchema{
		GenerateMessagesTableName: watermillTable, GeneratePayloadType: func(string) string { return "BYTEA" },
	}
}

func watermillPart(ctx context.Context, args []string, _ io.Writer) error {
	a, err := parsePeerArgs(watermillPeer, args)
	if err != nil {
		return err
	}
	pool, err := a.pool(ctx, 2*watermillTopics)
	if err != nil {
		return err
	}
	defer pool.Close()
	logger := watermill.NopLogger{}
	publisher, err := watermillsqs.NewPublisher(watermillsqs.PublisherConfig{
		AWSConfig: aws.Config{
			Region: "us-east-1", Credentials: newSQS(a.queues).Options().Credentials, HTTPClient: peerHTTP(),
		},
		OptFns: []func(*sqs.Options){func(o *sqs.Options) { o.BaseEndpoint = &a.queues }},
	}, logger)
	if err != nil {
		return fmt.Errorf("setting Watermill's publisher up: %w", err)
	}
	var running errgroup.Group
	for i := range watermillTopics {
		subscriber, err := newWatermillSubscriber(pool)
		if err != nil {
			return err
		}
		f, err := forwarder.NewForwarder(subscriber, publisher, logger, forwarder.Config{ForwarderTopic: watermillTopic(i)})
		if err != nil {
			return fmt.Errorf("setting Watermill's forwarder up: %w", err)
		}
		running.Go(func() error { return errors.Join(f.Run(ctx), subscriber.Close()) })
	}
	return running.Wait()
}

func newWatermillSubscriber(pool *pgxpool.Pool) (*watermillsql.Subscriber, error) {
	s, err := watermillsql.NewSubscriber(watermillsql.BeginnerFromPgx(pool), watermillsql.SubscriberConfig{
		SchemaAdapter:  watermillAdapter(),
		OffsetsAdapter: watermillsql.DefaultPostgreSQLOffsetsAdapter{GenerateMessagesOffsetsTableName: watermillOffsets},
		PollInterval:   watermillPoll,
	}, watermill.NopLogger{})
	if err != nil {
		return nil, fmt.Errorf("setting Watermill's subscriber up: %w", err)
	}
	return s, nil
}

// prepareWatermill creates the topics' tables.
func prepareWatermill(ctx context.Context, pool *pgxpool.Pool) error {
	if _, err := pool.Exec(ctx, "CREATE SCHEMA "+watermillSchema); err != nil {
		return fmt.Errorf("creating Watermill's schema: %w", err)
	}
	subscriber, err := newWatermillSubscriber(pool)
	if err != nil {
		return err
	}
	for i := range watermillTopics {
		if err := subscriber.SubscribeInitialize(watermillTopic(i)); err != nil {
			return fmt.Errorf("creating Watermill's tables: %w", err)
		}
	}
	return subscriber.Close()
}

func watermillSource() source {
	var tables, left []string
	for i := range watermillTopics {
		messages, offsets := watermillTable(watermillTopic(i)), watermillOffsets(watermillTopic(i))
		tables = append(tables, messages)
		left = append(left, fmt.Sprintf(`EXISTS (SELECT FROM %s AS m, %s AS o
			WHERE (m.transaction_id, m."offset") > (o.last_processed_transaction_id, o.offset_acked))`, messages, offsets))
	}
	return source{
		tables: strings.Join(tables, ", "), insert: insertWatermill, left: "SELECT " + strings.Join(left, " OR "),
	}
}

// insertWatermill spreads the messages over the topics.
func insertWatermill(ctx context.Context, tx pgx.Tx, queue string, bodies []string) ([]string, error) {
	p, err := watermillsql.NewPublisher(watermillsql.TxFromPgx(tx),
		watermillsql.PublisherConfig{SchemaAdapter: watermillAdapter()}, watermill.NopLogger{})
	if err != nil {
		return nil, fmt.Errorf("setting Watermill's publisher up: %w", err)
	}
	all, ids := peerMessages(queue, bodies)
	topics := make([][]*message.Message, watermillTopics)
	// A single message goes to any topic.
	first := rand.IntN(watermillTopics)
	for i, m := range all {
		topic := (first + i) % watermillTopics
		out := message.NewMessageWithContext(ctx, m.ID, []byte(m.Body))
		out.Metadata.Set(awssqs.AttributeMessageID, m.ID)
		topics[topic] = append(topics[topic], out)
	}
	for i, all := range topics {
		f := forwarder.NewPublisher(p, forwarder.PublisherConfig{ForwarderTopic: watermillTopic(i)})
		for len(all) > 0 {
			some := all[:min(len(all), watermillInsert)]
			if err := f.Publish(queue, some...); err != nil {
				return nil, err
			}
			all = all[len(some):]
		}
	}
	return ids, nil
}

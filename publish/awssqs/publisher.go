// Package awssqs publishes messages to Amazon SQS, standard and FIFO queues.
//
// The invariant:
//
//   - A message is reported as published only where SQS named it among a batch's successful
//     entries.
//   - It is reported as permanently failed only where SQS refused it by itself, where nothing
//     was sent because no queue could take it, or where sending it alone panicked.
//   - It is sent again within one Publish only where SQS accepted nothing, or where the request
//     that it shared panicked.
//
// Concurrent publishes to one queue share SendMessageBatch requests of up to ten messages and
// 1 MiB. A destination is a queue's name, with region and account where they are not the
// client's. The queue's URL is looked up once, and again when the queue was recreated. The
// queue's own size limit is left to SQS, so that it counts as it is at the moment. The sender
// needs the permissions sqs:SendMessage and sqs:GetQueueUrl. Decode is the consumer's side, and
// DecodeNotification that of a queue which is subscribed to an SNS topic.
//
//	cfg, err := config.LoadDefaultConfig(ctx) // honours AWS_REGION, AWS_ENDPOINT_URL_SQS, …
//	publisher := awssqs.New(sqs.NewFromConfig(cfg))
package awssqs

import (
	"context"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"go.opentelemetry.io/otel/metric"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/publish"
	"github.com/outflowhq/outflow/publish/internal/awsbatch"
)

// API is what the Publisher needs of a client; *sqs.Client has it.
type API interface {
	GetQueueUrl(
		context.Context, *sqs.GetQueueUrlInput, ...func(*sqs.Options),
	) (*sqs.GetQueueUrlOutput, error)
	SendMessageBatch(
		context.Context, *sqs.SendMessageBatchInput, ...func(*sqs.Options),
	) (*sqs.SendMessageBatchOutput, error)
}

// Publisher publishes to SQS. It is safe for concurrent use, holds no goroutine while idle, and
// needs no closing.
type Publisher struct {
	api     API
	batches *awsbatch.Publisher
}

var (
	_ publish.BatchPublisher = (*Publisher)(nil)
	_ publish.Checker        = (*Publisher)(nil)
	_ publish.Refuser        = (*Publisher)(nil)
	_ API                    = (*sqs.Client)(nil)
)

// Option changes a default of New. A value that makes no sense (zero or less, except for
// WithLinger) keeps the default.
type Option = awsbatch.Option

// WithLinger sets how long a message waits for others to share its request; 0 for not at all. While
// several messages share each request, it is four times that. By default it is 5 ms, and a message
// before which none has come for 10 ms waits for no other.
func WithLinger(d time.Duration) Option { return awsbatch.Linger(d) }

// WithMaxRequests sets how many requests of Publish to one destination may be under way at once;
// 8 by default. The SDK's HTTP client keeps 10 idle connections to a region's endpoint: give it
// more where many queues are busy.
func WithMaxRequests(n int) Option { return awsbatch.MaxRequests(n) }

// WithMeterProvider sets the provider of the metrics of requests. The default is OpenTelemetry's
// global provider, which records nothing unless the program sets one up.
func WithMeterProvider(p metric.MeterProvider) Option { return awsbatch.MeterProvider(p) }

// DefaultTimeout bounds a request with its retries: 1 MiB at 1 Mbit/s.
const DefaultTimeout = awsbatch.DefaultTimeout

// WithTimeout sets how long a request may take with its retries: DefaultTimeout by default,
// outflow.MaxCallTime at most. Where Publish's context has no time for it, as on the fast path,
// a request has outflow.FastPathCallTime.
//
// A queue that is not known yet is looked up first, for as long as the context leaves the
// request its time. The look-up goes on beside the call, for as long as a request may take.
func WithTimeout(d time.Duration) Option { return awsbatch.Timeout(d) }

// New returns a Publisher over client, usually an *sqs.Client. It uses the client's endpoint,
// credentials and region, and not its retry settings.
func New(client API, opts ...Option) *Publisher {
	c := caller{api: client}
	p := &Publisher{api: client}
	p.batches = awsbatch.New(awsbatch.Service{
		Scheme: outflow.SchemeSQS, Errors: service, MaxBytes: maxBytes, BatchBytes: maxBytes, Verifies: true,
		Finder: c.finder, Send: c.send,
	}, opts...)
	return p
}

// Scheme is "sqs".
func (*Publisher) Scheme() string { return outflow.SchemeSQS }

// Publish sends m to its queue and returns SQS's message ID. See publish.Publisher for what it
// promises.
func (p *Publisher) Publish(ctx context.Context, m outflow.Message) (brokerMessageID string, err error) {
	return p.batches.Publish(ctx, m)
}

// PublishBatch sends messages to one queue, in requests of up to ten messages and 1 MiB, one
// after the other. See publish.BatchPublisher for what it promises.
//
// On a FIFO queue no request has two messages of one ordering key, and those that follow a failed
// one of their key are not sent: SQS can refuse one entry of a request and accept a later one.
func (p *Publisher) PublishBatch(
	ctx context.Context, destination string, messages []outflow.Message,
) []publish.Result {
	return p.batches.PublishBatch(ctx, destination, messages)
}

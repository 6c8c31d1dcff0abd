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
// needs the permissions sqs:SendMessage and sqs:GetQueueUrl. Decode is the consumer's side.
//
//	cfg, err := config.LoadDefaultConfig(ctx) // honours AWS_REGION, AWS_ENDPOINT_URL_SQS, …
//	publisher := awssqs.New(sqs.NewFromConfig(cfg))
package awssqs

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"go.opentelemetry.io/otel/metric"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/metrics"
	"github.com/outflowhq/outflow/internal/panics"
	"github.com/outflowhq/outflow/publish"
	"github.com/outflowhq/outflow/publish/internal/aws"
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
	settings
	queues queues
}

var (
	_ publish.Publisher = (*Publisher)(nil)
	_ publish.Checker   = (*Publisher)(nil)
	_ API               = (*sqs.Client)(nil)
)

type settings struct {
	api         API
	linger      time.Duration
	maxRequests int
	timeout     time.Duration
	maxQueues   int
	meters      metric.MeterProvider
	// record is made at the first send: the program may set up its metrics later.
	record func() *metrics.Recorder
}

// Option changes a default of New. A value that makes no sense (zero or less, except for
// WithLinger) keeps the default.
type Option func(*settings)

// WithLinger sets how long a message waits for others to share its request; 5 ms by default, 0
// for not at all. While several messages share each request, it is four times that.
func WithLinger(d time.Duration) Option { return func(s *settings) { s.linger = max(d, 0) } }

// WithMaxRequests sets how many requests to one destination may be under way at once; 8 by
// default. The SDK's HTTP client keeps 10 idle connections to a region's endpoint: give it more
// where many queues are busy.
func WithMaxRequests(n int) Option {
	return func(s *settings) {
		if n > 0 {
			s.maxRequests = n
		}
	}
}

// WithMeterProvider sets the provider of the metrics of requests. The default is OpenTelemetry's
// global provider, which records nothing unless the program sets one up.
func WithMeterProvider(p metric.MeterProvider) Option { return func(s *settings) { s.meters = p } }

// DefaultTimeout bounds a request with its retries: 1 MiB at 1 Mbit/s.
const DefaultTimeout = 10 * time.Second

// WithTimeout sets how long a request may take with its retries: DefaultTimeout by default,
// outflow.MaxCallTime at most. Where Publish's context has no time for it, as on the fast path,
// a request has outflow.FastPathCallTime.
//
// A queue that is not known yet is looked up first, for as long as the context leaves the
// request its time. The look-up goes on beside the call, for as long as a request may take.
func WithTimeout(d time.Duration) Option {
	return func(s *settings) {
		if d > 0 {
			s.timeout = min(d, outflow.MaxCallTime)
		}
	}
}

// New returns a Publisher over client, usually an *sqs.Client. It uses the client's endpoint,
// credentials and region, and not its retry settings.
func New(client API, opts ...Option) *Publisher {
	s := settings{
		api: client, linger: 5 * time.Millisecond, maxRequests: 8, timeout: DefaultTimeout,
		// A queue takes a few hundred bytes; dropping one costs a look-up.
		maxQueues: 1000,
	}
	for _, opt := range opts {
		opt(&s)
	}
	s.record = sync.OnceValue(func() *metrics.Recorder { return metrics.New(s.meters) })
	return &Publisher{settings: s}
}

// Scheme is "sqs".
func (*Publisher) Scheme() string { return outflow.SchemeSQS }

// Publish sends m to its queue and returns SQS's message ID. See publish.Publisher for what it
// promises.
func (p *Publisher) Publish(ctx context.Context, m outflow.Message) (brokerMessageID string, err error) {
	d, err := outflow.ParseDestination(m.Destination)
	if err != nil {
		return "", outflow.Permanent(fmt.Errorf(
			"reading the destination: %w; redirect the message to a valid one", err))
	}
	sending := "sending to " + d.String()
	defer panics.Catch(func(p *panics.Error) { err = outflow.Permanent(panics.OfPublisher(sending, p)) })
	if d.Scheme != outflow.SchemeSQS {
		return "", outflow.Permanent(fmt.Errorf("%s: only sqs:// is published here; redirect the message", sending))
	}
	e, err := encode(m, d.FIFO())
	if err != nil {
		return "", outflow.Permanent(fmt.Errorf(
			"encoding message %s for %s: %w (%s)", m.ID, d, err, service.Advice(aws.Content)))
	}
	size := sizeOf(e)
	if size > maxBytes {
		return "", tooLarge(d, size)
	}
	q := p.acquire(d)
	defer p.queues.release(q)
	requests, callTime := q.durable, publish.CallTime(ctx, p.timeout)
	if callTime < p.timeout {
		requests = q.fastPath
	}
	to, err := q.url.address(ctx, callTime, nil)
	if err != nil {
		return "", err
	}
	brokerMessageID, err = requests.Do(ctx, entry{SendMessageBatchRequestEntry: e, size: size, to: to})
	var classified *outflow.Failure
	if err != nil && !errors.As(err, &classified) {
		// Refused before its batch was sealed, or the shared call died.
		err = outflow.Retryable(fmt.Errorf("%s: %w", sending, err))
	}
	return brokerMessageID, err
}

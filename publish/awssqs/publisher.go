// Package awssqs publishes messages to Amazon SQS, standard and FIFO queues.
//
// The invariant: a message is reported as published only where SQS named it
// among a batch's successful entries; as permanently failed only where SQS
// refused it by itself, or where nothing was sent because no queue could take
// it, or where sending it alone panicked; and it is sent again within one Publish
// only where SQS accepted nothing, or where the request that it shared panicked.
//
// Concurrent publishes to one queue share SendMessageBatch requests of up to ten
// messages and 1 MiB. A destination is a queue's name, with region and account
// where they are not the client's; its URL is looked up once and again when the
// queue was recreated. A size limit of the queue's own is left to SQS, so that it counts
// as it is at the moment. The sender needs the permissions sqs:SendMessage and
// sqs:GetQueueUrl. Decode is the consumer's side.
//
//	cfg, err := config.LoadDefaultConfig(ctx) // honours AWS_REGION, AWS_ENDPOINT_URL_SQS, …
//	publisher := awssqs.New(sqs.NewFromConfig(cfg))
package awssqs

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"go.opentelemetry.io/otel/metric"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/metrics"
	"github.com/outflowhq/outflow/publish"
)

// API is what the Publisher needs of a client; *sqs.Client has it.
type API interface {
	GetQueueUrl(context.Context, *sqs.GetQueueUrlInput, ...func(*sqs.Options)) (*sqs.GetQueueUrlOutput, error)
	SendMessageBatch(context.Context, *sqs.SendMessageBatchInput, ...func(*sqs.Options)) (*sqs.SendMessageBatchOutput, error)
}

// Publisher publishes to SQS. It is safe for concurrent use, holds no goroutine
// while idle, and needs no closing.
type Publisher struct {
	settings
	lanes lanes
}

var (
	_ publish.Publisher = (*Publisher)(nil)
	_ API               = (*sqs.Client)(nil)
)

type settings struct {
	api         API
	linger      time.Duration
	maxRequests int
	timeout     time.Duration
	maxLanes    int
	meters      metric.MeterProvider
	record      *metrics.Recorder
}

// Option changes a default of New. A value that makes no sense (zero or less,
// except for WithLinger) keeps the default.
type Option func(*settings)

// WithLinger sets how long a message waits for others to share its request;
// 5 ms by default, 0 for not at all. While requests are shared anyway, it is four
// times that.
func WithLinger(d time.Duration) Option { return func(s *settings) { s.linger = max(d, 0) } }

// WithMaxRequests sets how many requests to one destination may be under way at
// once; 8 by default. The SDK's HTTP client keeps 10 idle connections to a
// region's endpoint: give it more where many queues are busy.
func WithMaxRequests(n int) Option {
	return func(s *settings) {
		if n > 0 {
			s.maxRequests = n
		}
	}
}

// WithMeterProvider has the metrics of requests recorded by p; the default is
// OpenTelemetry's global provider, which records none unless somebody has set one up.
func WithMeterProvider(p metric.MeterProvider) Option { return func(s *settings) { s.meters = p } }

// DefaultTimeout bounds a request with its retries: 1 MiB at 1 Mbit/s.
const DefaultTimeout = 10 * time.Second

// WithTimeout sets how long a request may take with its retries: DefaultTimeout by
// default, outflow.MaxCallTime at most. Where Publish's context has no time for it, as
// on the fast path, a request has outflow.FastPathCallTime. A queue that is not known yet is
// looked up before, as long as the context leaves the request its time; the lookup goes
// on beside, for as long as a request may.
func WithTimeout(d time.Duration) Option {
	return func(s *settings) {
		if d > 0 {
			s.timeout = min(d, outflow.MaxCallTime)
		}
	}
}

// New returns a Publisher over client, usually an *sqs.Client. The client's
// endpoint, credentials and region are used; its retry settings are not.
func New(client API, opts ...Option) *Publisher {
	s := settings{
		api: client, linger: 5 * time.Millisecond, maxRequests: 8, timeout: DefaultTimeout,
		// A lane is a few hundred bytes; losing one costs two lookups.
		maxLanes: 1000,
	}
	for _, opt := range opts {
		opt(&s)
	}
	s.record = metrics.New(s.meters)
	return &Publisher{settings: s}
}

// Scheme is "sqs".
func (*Publisher) Scheme() string { return outflow.SchemeSQS }

// Publish sends m to its queue and returns SQS's message ID. What it promises
// is written at publish.Publisher.
func (p *Publisher) Publish(ctx context.Context, m outflow.Message) (brokerMessageID string, err error) {
	d, err := outflow.ParseDestination(m.Destination)
	if err != nil {
		return "", outflow.Permanent(fmt.Errorf("reading the destination: %w; redirect the message to a valid one", err))
	}
	defer func() {
		if v := recover(); v != nil {
			err = outflow.Permanent(fmt.Errorf("sending to %s: %w", d, publish.Recovered(v)))
		}
	}()
	if d.Scheme != outflow.SchemeSQS {
		return "", outflow.Permanent(fmt.Errorf("sending to %s: only sqs:// is published here; redirect the message", d))
	}
	e, err := encode(m, d.FIFO())
	if err != nil {
		return "", outflow.Permanent(fmt.Errorf("encoding message %s for %s: %w (%s)", m.ID, d, err, badContent.next))
	}
	size := sizeOf(e)
	if size > maxBytes {
		return "", tooLarge(d, size)
	}
	lane := p.acquire(d)
	defer p.lanes.release(lane)
	batches, call := lane.patient, publish.CallTime(ctx, p.timeout)
	if call < p.timeout {
		batches = lane.quick
	}
	to, err := lane.queue.address(ctx, call, nil)
	if err != nil {
		return "", err
	}
	brokerMessageID, err = batches.Do(ctx, entry{SendMessageBatchRequestEntry: e, size: size, to: to})
	var classified *outflow.Failure
	if err != nil && !errors.As(err, &classified) {
		// Refused before its batch was sealed, or the shared call died.
		err = outflow.Retryable(fmt.Errorf("sending to %s: %w", d, err))
	}
	return brokerMessageID, err
}

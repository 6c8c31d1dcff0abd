// Package awssns publishes messages to Amazon SNS, standard and FIFO topics.
//
// The invariant:
//
//   - A message is reported as published only where SNS named it among a batch's successful
//     entries.
//   - It is reported as permanently failed only where SNS refused it by itself, where nothing
//     was sent because no topic could take it, or where sending it alone panicked.
//   - It is sent again within one Publish only where SNS accepted nothing, or where the request
//     that it shared panicked.
//
// Concurrent publishes to one topic share PublishBatch requests of up to ten messages and
// 256 KiB. A larger message, 1 MiB at most, has a request of its own: a topic takes it where its
// MaximumMessageSize says so. Messages look as in SQS, so that awssqs.Decode and
// awssqs.DecodeNotification read what a subscribed queue gets, and filter policies see the
// attributes. The header HeaderSubject also becomes the Subject.
//
// A destination is a topic's name, with region and account where they are not the client's. A
// request wants the topic's ARN, which has the account in it: see New for where that is from. The
// sender needs the permission sns:Publish alone.
//
//	cfg, err := config.LoadDefaultConfig(ctx) // honours AWS_REGION, AWS_ENDPOINT_URL_SNS, …
//	publisher := awssns.New(sns.NewFromConfig(cfg), awssns.WithIdentity(sts.NewFromConfig(cfg)))
package awssns

import (
	"context"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/sns"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"go.opentelemetry.io/otel/metric"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/publish"
	"github.com/outflowhq/outflow/publish/internal/awsbatch"
)

// API is what the Publisher needs of a client; *sns.Client has it.
type API interface {
	PublishBatch(
		context.Context, *sns.PublishBatchInput, ...func(*sns.Options),
	) (*sns.PublishBatchOutput, error)
	// GetTopicAttributes is for Check alone.
	GetTopicAttributes(
		context.Context, *sns.GetTopicAttributesInput, ...func(*sns.Options),
	) (*sns.GetTopicAttributesOutput, error)
}

// IdentityAPI finds out whose credentials a client has; *sts.Client has it.
type IdentityAPI interface {
	GetCallerIdentity(
		context.Context, *sts.GetCallerIdentityInput, ...func(*sts.Options),
	) (*sts.GetCallerIdentityOutput, error)
}

// Publisher publishes to SNS. It is safe for concurrent use, holds no goroutine while idle, and
// needs no closing.
type Publisher struct {
	caller  *caller
	batches *awsbatch.Publisher
}

var (
	_ publish.BatchPublisher = (*Publisher)(nil)
	_ publish.Checker        = (*Publisher)(nil)
	_ publish.Refuser        = (*Publisher)(nil)
	_ API                    = (*sns.Client)(nil)
	_ IdentityAPI            = (*sts.Client)(nil)
)

// Option changes a default of New. A value that makes no sense (zero or less, except for
// WithLinger) keeps the default.
type Option func(*settings)

type settings struct {
	identity IdentityAPI
	batches  []awsbatch.Option
}

func forBatches(o awsbatch.Option) Option {
	return func(s *settings) { s.batches = append(s.batches, o) }
}

// WithIdentity sets the client, usually an *sts.Client, that is asked for the account of
// destinations that name none, where the credentials do not know theirs. The request needs no
// permission, and is made once.
// https://docs.aws.amazon.com/STS/latest/APIReference/API_GetCallerIdentity.html
func WithIdentity(client IdentityAPI) Option { return func(s *settings) { s.identity = client } }

// WithLinger sets how long a message waits for others to share its request; 0 for not at all. While
// several messages share each request, it is four times that. By default it is 5 ms, and a message
// before which none has come for 10 ms waits for no other.
func WithLinger(d time.Duration) Option { return forBatches(awsbatch.Linger(d)) }

// WithMaxRequests sets how many requests of Publish to one topic may be under way at once; 8 by
// default. The SDK's HTTP client keeps 10 idle connections to a region's endpoint: give it more
// where many topics are busy.
func WithMaxRequests(n int) Option { return forBatches(awsbatch.MaxRequests(n)) }

// WithMeterProvider sets the provider of the metrics of requests. The default is OpenTelemetry's
// global provider, which records nothing unless the program sets one up.
func WithMeterProvider(p metric.MeterProvider) Option { return forBatches(awsbatch.MeterProvider(p)) }

// DefaultTimeout bounds a request with its retries: 1 MiB at 1 Mbit/s.
const DefaultTimeout = awsbatch.DefaultTimeout

// WithTimeout sets how long a request may take with its retries: DefaultTimeout by default,
// outflow.MaxCallTime at most. Where Publish's context has no time for it, as on the fast path,
// a request has outflow.FastPathCallTime.
//
// The account of the credentials is looked up before the first message that needs it, for as long
// as the context leaves the request its time. The look-up goes on beside the call.
func WithTimeout(d time.Duration) Option { return forBatches(awsbatch.Timeout(d)) }

// New returns a Publisher over client, usually an *sns.Client. It uses the client's endpoint,
// credentials and region, and not its retry settings.
//
// The account of a destination that names none is that of the client's credentials, if they know
// it: AWS_ACCOUNT_ID sets it, and most of AWS's sources of credentials have it. Otherwise the
// client of WithIdentity is asked. Without one, such messages wait (see Refusal).
func New(client API, opts ...Option) *Publisher {
	var s settings
	for _, opt := range opts {
		opt(&s)
	}
	c := &caller{api: client, identity: s.identity}
	return &Publisher{caller: c, batches: awsbatch.New(awsbatch.Service{
		Scheme: outflow.SchemeSNS, Errors: service, MaxBytes: maxBytes, BatchBytes: defaultMaxBytes,
		Amend: addSubject, Finder: c.finder, Checker: c.checker, Send: c.send,
	}, s.batches...)}
}

// Scheme is "sns".
func (*Publisher) Scheme() string { return outflow.SchemeSNS }

// Publish sends m to its topic and returns SNS's message ID. See publish.Publisher for what it
// promises.
func (p *Publisher) Publish(ctx context.Context, m outflow.Message) (brokerMessageID string, err error) {
	return p.batches.Publish(ctx, m)
}

// PublishBatch sends messages to one topic, in requests of up to ten messages and 256 KiB, one
// after the other. See publish.BatchPublisher for what it promises.
//
// On a FIFO topic no request has two messages of one ordering key, and those that follow a failed
// one of their key are not sent: SNS can refuse one entry of a request and accept a later one.
func (p *Publisher) PublishBatch(
	ctx context.Context, destination string, messages []outflow.Message,
) []publish.Result {
	return p.batches.PublishBatch(ctx, destination, messages)
}

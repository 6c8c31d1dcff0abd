// Package rabbitmq publishes messages to the exchanges of RabbitMQ, by AMQP 0-9-1.
//
// The invariant:
//
//   - A message is reported as published only where RabbitMQ confirmed it (basic.ack) and did not
//     return it.
//   - It is reported as missing its destination only where RabbitMQ returned it (no queue is
//     bound), or does not know the exchange.
//   - What is not confirmed on a channel that closed is a lost answer, never a refusal, unless it
//     was the only message that the channel waited for.
//   - Nothing is sent twice within one Publish.
//
// There is one connection, made when a message needs it, and a channel for each exchange, because
// RabbitMQ closes a channel for one message that it refuses. Messages are persistent. Up to 500 of
// an exchange wait for their confirm at once. While an alarm of the broker (memory, disk) blocks
// the connection, nothing is sent, and each message fails with the reason. Decode is the consumer's
// side.
//
//	address, err := rabbitmq.ParseAddress(os.Getenv("AMQP_URL"))
//	publisher := rabbitmq.New(address)
//	defer publisher.Close()
//
// What RabbitMQ does after its confirm is its own: a message counts as delivered where only an
// alternate exchange routes it, where its time to live ends in the queue, and where the queue is
// full and drops it.
package rabbitmq

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/publish"
)

// Publisher publishes to RabbitMQ. It is safe for concurrent use. It holds a connection from the
// first message on, until Close.
type Publisher struct {
	settings
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	// draining ends closeGrace after that: no connection waits for confirms any more.
	draining context.Context
	drained  context.CancelFunc
	work     sync.WaitGroup

	log atomic.Pointer[slog.Logger] // nil until WarnTo

	mu      sync.Mutex
	closed  bool
	current *session
	connector
}

var (
	_ publish.Publisher      = (*Publisher)(nil)
	_ publish.BatchPublisher = (*Publisher)(nil)
	_ publish.Checker        = (*Publisher)(nil)
)

type settings struct {
	address     func() Address
	timeout     time.Duration
	maxChannels int
	idle        time.Duration
}

// Option changes a default of New. A value that makes no sense (zero or less) keeps the default.
type Option func(*settings)

// DefaultTimeout bounds the wait for a confirm: as long as SQS has to answer.
const DefaultTimeout = 10 * time.Second

// WithTimeout sets how long RabbitMQ has to confirm a message: DefaultTimeout by default,
// outflow.MaxCallTime at most. Where Publish's context has no time for it, as on the fast path, it
// has outflow.FastPathCallTime. A connection or a channel that is not there yet has as long before
// that, if the context has, and is made beside the call.
func WithTimeout(d time.Duration) Option {
	return func(s *settings) {
		if d > 0 {
			s.timeout = min(d, outflow.MaxCallTime)
		}
	}
}

// WithCurrentAddress sets a function that returns the address as it is now, such as that of a file
// that is rotated. It is called for each message and must be quick. A new address is connected to
// beside the old connection, and replaces it once that worked. Where it does not work, the old
// connection stays in use, and a warning is logged: see WarnTo.
func WithCurrentAddress(current func() Address) Option {
	return func(s *settings) {
		if current != nil {
			s.address = current
		}
	}
}

// New returns a Publisher, which connects when there is something to publish.
func New(address Address, opts ...Option) *Publisher {
	p := &Publisher{settings: settings{
		address: func() Address { return address }, timeout: DefaultTimeout,
		// A channel is some hundred kilobytes of the broker's memory. RabbitMQ allows 2,047 by
		// default. https://www.rabbitmq.com/docs/channels#channel-max
		maxChannels: 100, idle: 5 * time.Minute,
	}}
	for _, opt := range opts {
		opt(&p.settings)
	}
	p.ctx, p.cancel = context.WithCancel(context.Background())
	p.draining, p.drained = context.WithCancel(context.Background())
	return p
}

// WarnTo sets where warnings go that are no failure of a message: why a new address does not work
// while the old connection does, each reason once. The default is slog.Default().
func (p *Publisher) WarnTo(log *slog.Logger) { p.log.Store(log) }

// Scheme is "rabbitmq".
func (*Publisher) Scheme() string { return outflow.SchemeRabbitMQ }

// closeGrace is how long Close waits for the confirms of what is under way.
const closeGrace = outflow.FastPathCallTime

// Close ends the connection and returns when nothing of the Publisher goes on. It waits for the
// confirms of messages that were sent, for 2.5 s at most, and not where an alarm blocks the
// connection. Any other message that was sent fails as unavailable, one that was not, and any later
// one, as not attempted.
func (p *Publisher) Close() {
	p.mu.Lock()
	p.closed = true
	s := p.current
	p.mu.Unlock()
	p.cancel()
	grace := time.AfterFunc(closeGrace, p.drained)
	defer grace.Stop()
	if s != nil {
		s.close(p.draining)
	}
	p.work.Wait()
	p.drained()
}

// Publish sends m to its exchange and waits for RabbitMQ's confirm. RabbitMQ has no ID of its own
// for a message: the one returned is empty. See publish.Publisher for what it promises.
func (p *Publisher) Publish(ctx context.Context, m outflow.Message) (brokerMessageID string, err error) {
	d, err := destinationOf(m.Destination)
	if err != nil {
		return "", err
	}
	return "", p.answer(ctx, d, m, p.send(ctx, d, m))
}

// answer waits for a message's answer. A message that was not sent, because its channel or
// connection closed, is sent on another.
func (p *Publisher) answer(ctx context.Context, d outflow.Destination, m outflow.Message, c call) error {
	for end := time.Now().Add(p.timeout); ; c = p.send(ctx, d, m) {
		err := p.wait(c)
		if !errors.Is(err, errUnsent) {
			return err
		}
		if time.Now().After(end) {
			return notAttempted(doing(d), err)
		}
	}
}

// errHeldBack is why a message was not sent that would overtake another.
var errHeldBack = errors.New("an earlier message of its ordering key failed")

// PublishBatch sends all messages before it waits for their confirms, on one channel, in their
// order. A message with an ordering key waits for the confirm of the one before of its key, and is
// not attempted where that failed. See publish.BatchPublisher for what else it promises.
func (p *Publisher) PublishBatch(ctx context.Context, destination string, messages []outflow.Message) []publish.Result {
	results := make([]publish.Result, len(messages))
	d, err := destinationOf(destination)
	if err != nil {
		for i := range results {
			results[i].Err = err
		}
		return results
	}
	calls := make([]call, len(messages))
	waiting := make([]bool, len(messages))
	end := func(i int) error {
		if waiting[i] {
			waiting[i], results[i].Err = false, p.answer(ctx, d, messages[i], calls[i])
		}
		return results[i].Err
	}
	last := map[string]int{} // the last message of each ordering key
	for i, m := range messages {
		before, isLater := last[m.OrderingKey]
		if m.OrderingKey != "" {
			last[m.OrderingKey] = i
		}
		if isLater && end(before) != nil {
			results[i].Err = notAttempted(doing(d), errHeldBack)
			continue
		}
		calls[i], waiting[i] = p.send(ctx, d, m), true
	}
	for i := range messages {
		end(i)
	}
	return results
}

func destinationOf(destination string) (outflow.Destination, error) {
	d, err := outflow.ParseDestination(destination)
	if err != nil {
		return d, outflow.Permanent(fmt.Errorf("reading the destination: %w; redirect the message to a valid one", err))
	}
	if d.Scheme != outflow.SchemeRabbitMQ {
		return d, outflow.Permanent(fmt.Errorf(
			"sending to %s: only rabbitmq:// is published here; redirect the message", d))
	}
	return d, nil
}

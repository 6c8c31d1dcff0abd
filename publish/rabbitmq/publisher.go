// Package rabbitmq publishes messages to the exchanges of RabbitMQ, by AMQP 0-9-1.
//
// The invariant:
//
//   - A message is reported as published only where RabbitMQ confirmed it (basic.ack) and did not
//     return it.
//   - It is reported as missing its destination only where RabbitMQ returned it (no queue is bound),
//     or does not know the exchange.
//   - What is not confirmed on a channel that closed is a lost answer, never a refusal, unless it was
//     the only message that the channel waited for.
//   - Nothing is sent twice within one Publish.
//
// There is one connection, made when a message needs it, and a channel for each exchange, because
// RabbitMQ closes a channel for one message that it refuses. Messages are persistent. Up to 500 of
// an exchange wait for their confirm at once. While an alarm of the broker (memory, disk) blocks the
// connection, nothing is sent, and each message is told why. Decode is the consumer's side.
//
//	address, err := rabbitmq.ParseAddress(os.Getenv("AMQP_URL"))
//	publisher := rabbitmq.New(address)
//	defer publisher.Close()
//
// What RabbitMQ does after its confirm is its own: a message counts as delivered where only an
// alternate exchange routes it, where its time to live ends in the queue, and where the queue is full
// and drops it.
package rabbitmq

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/panics"
	"github.com/outflowhq/outflow/internal/text"
	"github.com/outflowhq/outflow/publish"
)

// Publisher publishes to RabbitMQ. It is safe for concurrent use. It holds a connection from the
// first message on, until Close.
type Publisher struct {
	settings
	ctx    context.Context // ends with Close
	cancel context.CancelFunc
	work   sync.WaitGroup

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
// beside the old connection, and replaces it once that worked.
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
	return p
}

// Scheme is "rabbitmq".
func (*Publisher) Scheme() string { return outflow.SchemeRabbitMQ }

// closeGrace is how long Close waits for the confirms of what is under way.
const closeGrace = outflow.FastPathCallTime

// Close ends the connection and returns when nothing of the Publisher goes on. It waits for the
// confirms of messages that are under way, for 2.5 s at most, and not where an alarm blocks the
// connection. Any other message under way fails as unavailable, a later one as not attempted.
func (p *Publisher) Close() {
	p.mu.Lock()
	p.closed = true
	s := p.current
	p.mu.Unlock()
	p.cancel()
	if s != nil {
		s.close(closeGrace)
	}
	p.work.Wait()
}

// Publish sends m to its exchange and waits for RabbitMQ's confirm. RabbitMQ has no ID of its own
// for a message: the one returned is empty. See publish.Publisher for what it promises.
func (p *Publisher) Publish(ctx context.Context, m outflow.Message) (brokerMessageID string, err error) {
	d, err := destinationOf(m.Destination)
	if err != nil {
		return "", err
	}
	for end := time.Now().Add(p.timeout); ; {
		if err = p.wait(p.send(ctx, d, m)); !errors.Is(err, errUnsent) {
			return "", err
		}
		if time.Now().After(end) {
			return "", notAttempted(doing(d), err)
		}
	}
}

// PublishBatch sends all messages before it waits for their confirms. See publish.BatchPublisher for
// what it promises. Messages are sent in their order, on one channel.
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
	for i, m := range messages {
		calls[i] = p.send(ctx, d, m)
	}
	for i, c := range calls {
		if err := p.wait(c); errors.Is(err, errUnsent) {
			results[i].Err = notAttempted(doing(d), err)
		} else {
			results[i].Err = err
		}
	}
	return results
}

func destinationOf(destination string) (outflow.Destination, error) {
	d, err := outflow.ParseDestination(destination)
	if err != nil {
		return d, outflow.Permanent(fmt.Errorf("reading the destination: %w; redirect the message to a valid one", err))
	}
	if d.Scheme != outflow.SchemeRabbitMQ {
		return d, outflow.Permanent(fmt.Errorf("sending to %s: only rabbitmq:// is published here; redirect the message", d))
	}
	return d, nil
}

// doing is what an error begins with. Escaped names can be longer than an error may be.
func doing(d outflow.Destination) string { return "sending to " + text.Limit(d.String(), 300) }

// call is a message that was handed over, or why it was not.
type call struct {
	*sending
	err error
	// on is the message's exchange, to be released.
	on *exchange
	// deadline is when its answer is late; cutShort says that this is before the publisher's own.
	deadline time.Time
	took     time.Duration
	cutShort bool
}

// send hands a message over to the connection.
func (p *Publisher) send(ctx context.Context, d outflow.Destination, m outflow.Message) (c call) {
	doing := doing(d)
	defer panics.Catch(func(e *panics.Error) {
		c = call{err: outflow.Permanent(panics.OfPublisher(doing, e))}
	})
	published, err := encode(m)
	switch {
	case err != nil:
		return call{err: outflow.Permanent(fmt.Errorf("encoding message %s for %s: %w "+
			"(correct the message and enqueue it again, or redirect it)", m.ID, text.Limit(d.String(), 300), err))}
	case len(m.Payload) > maxPayload:
		return call{err: outflow.Permanent(fmt.Errorf("%s: the payload has %d bytes, and %d are sent to RabbitMQ at most "+
			"(enqueue a reference to the content instead)", doing, len(m.Payload), maxPayload))}
	}
	took := publish.CallTime(ctx, p.timeout)
	t, stop := p.prepare(ctx, doing, took)
	defer stop()
	s := &sending{doing: doing, destination: d, publishing: published, settled: make(chan struct{})}
	on, err := p.handOver(s, t)
	for errors.Is(err, errUnsent) && t.until.Err() == nil { // in its place: no later message was sent
		on.leave()
		on, err = p.handOver(s, t)
	}
	return call{sending: s, err: err, on: on, deadline: time.Now().Add(took), took: took, cutShort: took < p.timeout}
}

// handOver hands a message to the connection, on the channel of its exchange, which must be left.
func (p *Publisher) handOver(m *sending, t preparing) (*exchange, error) {
	if t.until.Err() != nil {
		return nil, notAttempted(t.doing, t.why(errors.New("too little time is left")))
	}
	s, err := p.connected(t)
	if err != nil {
		return nil, about(t.doing, err)
	}
	if reason := s.blocked(); reason != "" {
		return nil, blocked(t.doing, reason)
	}
	if size, most := headerFrame(m.publishing), s.conn.Config.FrameSize; most > 0 && size > most {
		return nil, outflow.Permanent(fmt.Errorf("%s: the headers have %d bytes, and a frame of this broker %d "+
			"(raise frame_max in rabbitmq.conf and retry the message; or enqueue it with fewer headers)", t.doing, size, most))
	}
	x := s.exchange(m.destination.Name)
	c, err := x.open(t)
	switch {
	case errors.Is(err, errUnsent):
		return x, err
	case errors.Is(err, errNoExchange):
		return x, noExchange(t.doing, m.destination, s.conn.Config.Vhost)
	case err != nil:
		return x, about(t.doing, err)
	}
	return x, c.hand(m, t)
}

// about names the destination in an error that callers share.
func about(doing string, err error) error {
	if strings.HasPrefix(err.Error(), doing) {
		return err
	}
	return fmt.Errorf("%s: %w", doing, err)
}

// wait waits for a message's answer. The end of the caller's context does not end it: RabbitMQ may
// have the message.
func (p *Publisher) wait(c call) error {
	defer c.on.leave()
	if c.err != nil {
		return c.err
	}
	late := time.NewTimer(time.Until(c.deadline))
	defer late.Stop()
	select {
	case <-c.settled:
		return c.sending.err
	case <-late.C:
	}
	if reason := c.on.session.blocked(); reason != "" {
		return heldUp(c.doing, reason)
	}
	return unanswered(c.doing, c.took, c.cutShort)
}

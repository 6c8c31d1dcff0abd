package rabbitmq

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/panics"
	"github.com/outflowhq/outflow/internal/text"
	"github.com/outflowhq/outflow/publish"
)

// sending is a message on its way.
type sending struct {
	doing       string
	destination outflow.Destination
	publishing  amqp.Publishing

	channel *channel
	weight  int64 // its part of the window
	// Under the channel's lock.
	sent    bool
	confirm *amqp.DeferredConfirmation
	left    chan struct{} // closed when it is not outstanding any more; nil while nobody waits

	settled chan struct{} // closed once err is set
	err     error
}

func (m *sending) settle(err error) {
	m.err = err
	close(m.settled)
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
		return call{err: outflow.Permanent(fmt.Errorf("%s: the payload has %d bytes, and %d are sent to RabbitMQ "+
			"at most (enqueue a reference to the content instead)", doing, len(m.Payload), maxPayload))}
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
	if err := t.over(); err != nil {
		return nil, err
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
			"(raise frame_max in rabbitmq.conf and retry the message; or enqueue it with fewer headers)",
			t.doing, size, most))
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
	select {
	case <-c.settled: // while later messages of its batch were sent
		return c.sending.err
	default:
	}
	if reason := c.on.session.blocked(); reason != "" {
		return heldUp(c.doing, reason)
	}
	return unanswered(c.doing, c.took, c.cutShort)
}

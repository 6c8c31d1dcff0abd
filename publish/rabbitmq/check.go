package rabbitmq

import (
	"context"
	"errors"
	"fmt"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/outflowhq/outflow"
)

// Check asks RabbitMQ whether an exchange exists, or for the default exchange whether the queue
// does, on a channel of its own, and sends nothing. Whether the user may write there, and whether a
// queue is bound, shows only when a message is sent. Errors carry an outflow.Class, as Publish's
// do.
func (p *Publisher) Check(ctx context.Context, destination string) error {
	d, err := destinationOf(destination)
	if err != nil {
		return err
	}
	t, stop := p.prepare(ctx, "looking up "+d.String(), 0)
	defer stop()
	for {
		if err = p.lookUp(t, d); !errors.Is(err, errUnsent) {
			return err
		}
	}
}

// lookUp is Check on the connection that there is now. errUnsent says that it closed.
func (p *Publisher) lookUp(t preparing, d outflow.Destination) error {
	s, err := p.connected(t)
	if err != nil {
		return about(t.doing, err)
	}
	if reason := s.blocked(); reason != "" {
		return blocked(t.doing, reason)
	}
	found := make(chan error, 1)
	if !s.goOn(func() { found <- s.lookUp(t.doing, d) }) {
		return errUnsent
	}
	select {
	case err := <-found:
		return err
	case <-t.until.Done():
		return outflow.Unavailable(fmt.Errorf("%s: %w (%s)", t.doing, context.Cause(t.until), seeURL+" and the broker"))
	}
}

func (s *session) lookUp(doing string, d outflow.Destination) error {
	ch, err := s.newChannel()
	if err != nil {
		return about(doing, err)
	}
	defer ch.Close()
	if d.Name != "" {
		err = ch.ExchangeDeclarePassive(d.Name, "direct", true, false, false, false, nil)
	} else {
		_, err = ch.QueueDeclarePassive(d.RoutingKey, true, false, false, false, nil)
	}
	var e *amqp.Error
	switch {
	case err == nil:
		return nil
	case !errors.As(err, &e) || s.ended():
		return about(doing, s.openFailed(err))
	case e.Code == amqp.NotFound && d.Name != "":
		return noExchange(doing, d, s.conn.Config.Vhost)
	case e.Code == amqp.NotFound:
		return unroutable(doing, d, s.conn.Config.Vhost)
	case e.Code == amqp.ResourceLocked: // another connection's own queue is there
		return nil
	}
	return refused(doing, e)
}

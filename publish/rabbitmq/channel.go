package rabbitmq

import (
	"context"
	"errors"
	"sync"

	amqp "github.com/rabbitmq/amqp091-go"
	"golang.org/x/sync/semaphore"
)

const (
	// maxOutstanding is how many messages of one exchange wait for their confirm at once.
	maxOutstanding = 500
	// provenFromTheStart is a payload that every broker takes, whatever its max_message_size.
	provenFromTheStart = 64 << 10
)

// channel is a channel in confirm mode that one exchange has to itself: RabbitMQ closes a channel
// for one message that it refuses.
//
// A message that no queue gets comes back (basic.return) before it is confirmed, on another Go
// channel. Whoever judges a confirm first takes all that came back, under the lock. So there are
// never more messages outstanding than returns has room for: the client library drops what finds no
// room.
type channel struct {
	session  *session
	exchange *exchange
	ch       *amqp.Channel
	returns  chan amqp.Return
	closes   chan *amqp.Error
	// window bounds what is outstanding. A message that goes alone takes all of it.
	window *semaphore.Weighted

	mu sync.Mutex
	// outstanding has the messages without a confirm, and unroutable those that came back, by
	// message ID. Of two messages with one ID the second waits until the first is not.
	outstanding map[string]*sending
	unroutable  map[string]bool
	end         *ending // once it has closed
}

// ending is how a channel closed.
type ending struct {
	err *amqp.Error // nil where this side closed it
	// alone says that one message was outstanding: what RabbitMQ refused is that message.
	alone bool
}

func newChannel(s *session, x *exchange, ch *amqp.Channel) *channel {
	return &channel{
		session: s, exchange: x, ch: ch,
		returns:     ch.NotifyReturn(make(chan amqp.Return, maxOutstanding)),
		closes:      ch.NotifyClose(make(chan *amqp.Error, 1)),
		window:      semaphore.NewWeighted(maxOutstanding),
		outstanding: map[string]*sending{}, unroutable: map[string]bool{},
	}
}

func (c *channel) ended() bool { return c.ch.IsClosed() }

// retire closes a channel that nobody uses.
func (c *channel) retire() { _ = c.ch.Close() }

// drainOutstanding waits until no message is outstanding, or for the end of ctx.
func (c *channel) drainOutstanding(ctx context.Context) {
	if c.window.Acquire(ctx, maxOutstanding) == nil {
		c.window.Release(maxOutstanding)
	}
}

// errUnsent says of a message that it was not sent because its channel or connection had closed by
// then: another channel may take it at once.
var errUnsent = errors.New("the channel had closed")

// hand gives a message to the goroutine that writes, where there is room for it. From then on it is
// outstanding until it is settled. An error says that nothing was sent.
func (c *channel) hand(m *sending, t preparing) error {
	s := c.session
	m.channel, m.weight = c, 1
	if c.exchange.sendsAlone(len(m.publishing.Body)) {
		m.weight = maxOutstanding
	}
	if err := c.acquire(m.weight, t); err != nil {
		return err
	}
	for left := c.enter(m); left != nil; left = c.enter(m) {
		select {
		case <-left:
		case <-s.closing.Done():
			c.window.Release(m.weight)
			return errUnsent
		case <-t.until.Done():
			c.window.Release(m.weight)
			return t.noRoom(s, "a message of the same ID waits for RabbitMQ's confirm")
		}
	}
	if c.ended() || s.closing.Err() != nil { // while it waited
		c.leave(m)
		return errUnsent
	}
	select {
	case s.queue <- m:
		return nil
	case <-s.gone:
		c.leave(m)
		return errUnsent
	case <-s.closing.Done():
		c.leave(m)
		return errUnsent
	case <-t.until.Done():
		c.leave(m)
		return t.noRoom(s, "RabbitMQ has not taken the message before it")
	}
}

// acquire takes a part of the window.
func (c *channel) acquire(weight int64, t preparing) error {
	if err := t.over(); err != nil {
		return err
	}
	if c.window.TryAcquire(weight) {
		return nil
	}
	ctx, cancel := context.WithCancel(t.until)
	defer cancel()
	defer context.AfterFunc(c.session.closing, cancel)()
	switch err := c.window.Acquire(ctx, weight); {
	case err == nil:
		return nil
	case c.session.closing.Err() != nil:
		return errUnsent
	}
	return t.noRoom(c.session, "the messages before it wait for RabbitMQ's confirm")
}

// enter notes a message as outstanding. Where another of the same ID is, it returns what is closed
// when that one no longer is.
func (c *channel) enter(m *sending) (left <-chan struct{}) {
	c.mu.Lock()
	defer c.mu.Unlock()
	before := c.outstanding[m.publishing.MessageId]
	if before == nil {
		c.outstanding[m.publishing.MessageId] = m
		return nil
	}
	if before.left == nil {
		before.left = make(chan struct{})
	}
	return before.left
}

// leave says that a message is not outstanding any more.
func (c *channel) leave(m *sending) {
	c.mu.Lock()
	delete(c.outstanding, m.publishing.MessageId)
	if m.left != nil {
		close(m.left)
		m.left = nil
	}
	c.mu.Unlock()
	c.window.Release(m.weight)
}

// drop settles a message that has no confirm to wait for.
func (c *channel) drop(m *sending, err error) {
	c.leave(m)
	m.settle(err)
}

// publish writes a message to the connection.
func (c *channel) publish(m *sending) {
	if reason := c.session.blocked(); reason != "" {
		c.drop(m, blocked(m.doing, reason))
		return
	}
	c.mu.Lock()
	m.sent = true
	c.mu.Unlock()
	const mandatory, immediate = true, false
	confirm, err := c.ch.PublishWithDeferredConfirm(
		c.exchange.name, m.destination.RoutingKey, mandatory, immediate, m.publishing)
	switch {
	case err == nil:
	case errors.Is(err, amqp.ErrClosed): // so it was not written as a whole
		c.drop(m, errUnsent)
		return
	default:
		c.session.kill()
		c.drop(m, lost(m.doing, &amqp.Error{Reason: err.Error()}))
		return
	}
	c.mu.Lock()
	m.confirm = confirm
	c.mu.Unlock()
	c.session.work.Go(func() { c.judge(m) })
}

// judge waits for a message's confirm and says what it means.
func (c *channel) judge(m *sending) {
	<-m.confirm.Done() // the end of the channel, too
	err := c.verdict(m)
	if err == nil {
		c.session.prove(len(m.publishing.Body))
	}
	c.drop(m, err)
}

func (c *channel) verdict(m *sending) error {
	acked, id := m.confirm.Acked(), m.publishing.MessageId
	c.mu.Lock()
	defer c.mu.Unlock()
	c.takeReturns()
	cameBack := c.unroutable[id]
	delete(c.unroutable, id)
	switch {
	case acked && cameBack:
		return unroutable(m.doing, m.destination, c.session.conn.Config.Vhost)
	case acked:
		return nil
	case !c.ended():
		return nacked(m.doing)
	}
	end := c.ending()
	size := len(m.publishing.Body)
	limit, isSize := limitIn(end.err)
	switch {
	case isSize && size > limit: // of all that are outstanding, RabbitMQ takes none of those
		return tooLarge(m.doing, size, limit)
	case !end.alone:
		return lost(m.doing, end.err)
	case end.err.Code == amqp.NotFound:
		return noExchange(m.doing, m.destination, c.session.conn.Config.Vhost)
	}
	return refused(m.doing, end.err)
}

// takeReturns takes what came back and waits in the buffer. It runs under the lock.
func (c *channel) takeReturns() {
	for {
		select {
		case r, open := <-c.returns:
			if !open {
				return
			}
			c.unroutable[r.MessageId] = true
		default:
			return
		}
	}
}

// ending says how the channel closed. It runs under the lock. All confirms that came have been
// noted by the time that the first message without one is woken.
func (c *channel) ending() *ending {
	if c.end != nil {
		return c.end
	}
	c.end = &ending{err: <-c.closes}
	e := c.end.err
	if e == nil || !e.Server || !e.Recover || c.session.ended() {
		return c.end // of the connection, or closed here
	}
	unconfirmed := 0
	for _, m := range c.outstanding {
		if m.sent && (m.confirm == nil || !m.confirm.Acked()) {
			unconfirmed++
		}
	}
	c.end.alone = unconfirmed == 1
	if e.Code != amqp.NotFound { // an exchange that is gone is asked for before the next message
		c.exchange.beCareful()
	}
	return c.end
}

// prove notes the size of a payload that was confirmed.
func (s *session) prove(size int) {
	for {
		largest := s.proven.Load()
		if int64(size) <= largest || s.proven.CompareAndSwap(largest, int64(size)) {
			return
		}
	}
}

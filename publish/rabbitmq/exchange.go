package rabbitmq

import (
	"errors"
	"fmt"
	"sync"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/outflowhq/outflow/internal/panics"
)

// carefulFor is how long an exchange's messages go one at a time after RabbitMQ closed its channel:
// the next time that it does, it is clear which message it refused.
const carefulFor = time.Minute

// exchange is what is kept for one exchange: its channel, opened when a message needs it.
type exchange struct {
	session *session
	name    string

	// Under the session's lock.
	users int
	used  time.Time

	mu      sync.Mutex
	channel *channel // nil, or closed: the next message opens one
	opening *opening
	careful time.Time // until then messages go one at a time
}

type opening struct {
	done    chan struct{}
	channel *channel
	err     error
}

// leave says that a call needs the exchange no more. It does nothing for nil.
func (x *exchange) leave() {
	if x == nil {
		return
	}
	x.session.mu.Lock()
	defer x.session.mu.Unlock()
	x.users--
	x.used = time.Now()
	x.session.offer(x)
}

// errNoExchange says that RabbitMQ does not know the exchange. Nothing was sent.
var errNoExchange = errors.New("no such exchange")

var errOpening = errors.New("the channel is opened beside this attempt")

// current is the channel that is open, or nil.
func (x *exchange) current() *channel {
	x.mu.Lock()
	defer x.mu.Unlock()
	if x.channel == nil || x.channel.ended() {
		return nil
	}
	return x.channel
}

func (x *exchange) isOpening() bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return x.opening != nil
}

// open returns the exchange's channel, and opens it where there is none. Concurrent callers share
// one try. The error is errNoExchange or errUnsent, or is classified.
func (x *exchange) open(t preparing) (*channel, error) {
	x.mu.Lock()
	if c := x.channel; c != nil && !c.ended() {
		x.mu.Unlock()
		return c, nil
	}
	o := x.opening
	if o == nil {
		o = &opening{done: make(chan struct{})}
		if !x.session.goOn(func() { x.run(o) }) {
			x.mu.Unlock()
			return nil, errUnsent
		}
		x.opening = o
	}
	x.mu.Unlock()
	select {
	case <-o.done:
		return o.channel, o.err
	case <-t.until.Done():
		return nil, t.late(nil, errOpening)
	}
}

func (x *exchange) run(o *opening) {
	defer func() {
		x.mu.Lock()
		defer x.mu.Unlock()
		x.opening = nil
		if o.err == nil {
			x.channel = o.channel
		}
		close(o.done)
	}()
	defer panics.Catch(func(p *panics.Error) {
		o.err = unreachable("opening a channel", panics.OfPublisher("opening a channel", p))
	})
	o.channel, o.err = x.session.channel(x)
}

// channel opens a channel in confirm mode, and asks whether its exchange exists. Without that, a
// message would find out, and take the answers of its neighbours with the channel. RabbitMQ asks
// for no permission here. The default exchange is always there, and can't be asked for.
// https://www.rabbitmq.com/docs/access-control#authorisation
func (s *session) channel(x *exchange) (*channel, error) {
	ch, err := s.newChannel()
	if err != nil {
		return nil, err
	}
	c := newChannel(s, x, ch)
	if x.name != "" {
		// kind, durable and the rest are not compared
		if err := ch.ExchangeDeclarePassive(x.name, "direct", true, false, false, false, nil); err != nil {
			var e *amqp.Error
			if errors.As(err, &e) && e.Code == amqp.NotFound {
				return nil, errNoExchange // which has closed the channel
			}
			_ = ch.Close()
			return nil, s.openFailed(err)
		}
	}
	if err := ch.Confirm(false); err != nil {
		_ = ch.Close()
		return nil, s.openFailed(err)
	}
	return c, nil
}

func (s *session) openFailed(err error) error {
	var e *amqp.Error
	switch {
	case s.ended(), s.closing.Err() != nil:
		return errUnsent // another connection may have it at once
	case errors.Is(err, amqp.ErrChannelMax):
		return unreachable("opening a channel", fmt.Errorf("all %d channels that a connection may have are in use: "+
			"raise channel_max in rabbitmq.conf, or in AMQP_URL", s.conn.Config.ChannelMax))
	case errors.As(err, &e):
		return unreachable("opening a channel", errors.New(said(e)))
	}
	return unreachable("opening a channel", err)
}

// sendsAlone reports whether a payload of this size goes alone, with nothing else outstanding on
// the channel: after a refusal, and where it is the largest so far. RabbitMQ refuses a message that
// is too large by closing the channel, and with it go the answers of others.
func (x *exchange) sendsAlone(size int) bool {
	x.mu.Lock()
	defer x.mu.Unlock()
	return int64(size) > x.session.proven.Load() || time.Now().Before(x.careful)
}

func (x *exchange) beCareful() {
	x.mu.Lock()
	defer x.mu.Unlock()
	x.careful = time.Now().Add(carefulFor)
}

package rabbitmq

import (
	"errors"
	"slices"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// spareWait is how often it is looked for a channel that closed by itself.
const spareWait = 50 * time.Millisecond

// newChannel opens a channel. Where as many are open as the broker allows (channel_max), it closes
// the least recently used one that nobody uses, or waits for one.
func (s *session) newChannel() (*amqp.Channel, error) {
	// Whoever waits for the channel has the reason within the time that the call has.
	for end := time.Now().Add(s.timeout / 2); ; {
		ch, err := s.conn.Channel()
		switch {
		case err == nil:
			return ch, nil
		case !errors.Is(err, amqp.ErrChannelMax), s.closing.Err() != nil, time.Now().After(end):
			return nil, s.openFailed(err)
		}
		if c := s.spare(); c != nil {
			c.retire()
		}
	}
}

// spare is an open channel that nobody uses and nobody can get any more; nil where there is none
// within spareWait.
func (s *session) spare() *channel {
	offered := make(chan *channel, 1)
	s.mu.Lock()
	for _, x := range s.unused() {
		if c := s.forget(x); c != nil {
			s.mu.Unlock()
			return c
		}
	}
	s.wanting = append(s.wanting, offered)
	s.mu.Unlock()
	select {
	case c := <-offered:
		return c
	case <-time.After(spareWait):
	case <-s.closing.Done():
	case <-s.gone:
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.wanting = slices.DeleteFunc(s.wanting, func(c chan *channel) bool { return c == offered })
	select {
	case c := <-offered:
		return c
	default:
		return nil
	}
}

// offer gives the channel of an exchange that nobody uses to whoever waits for one. It runs under
// the lock.
func (s *session) offer(x *exchange) {
	if len(s.wanting) == 0 || x.users > 0 || s.exchanges[x.name] != x || x.current() == nil {
		return
	}
	s.wanting[0] <- s.forget(x) // it has room
	s.wanting = s.wanting[1:]
}

package rabbitmq

import (
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/outflowhq/outflow/internal/panics"
)

// closeTimeout is how long a broker has to say goodbye. One that takes no messages says nothing.
const closeTimeout = time.Second

// session is one connection to RabbitMQ with its channels. One goroutine alone writes messages to
// it, so that a write which takes long holds no caller longer than its own time.
type session struct {
	settings
	address Address
	conn    *amqp.Connection
	raw     *socket

	queue chan *sending // to the goroutine that writes; holds nothing
	gone  chan struct{} // closed when the connection has ended
	// reason says why it takes no messages (an alarm); nil where it does.
	reason atomic.Pointer[string]
	// proven is the largest payload that this broker has confirmed.
	proven atomic.Int64

	mu        sync.Mutex
	exchanges map[string]*exchange
	swept     time.Time
	wanting   []chan *channel // of those that wait for a channel to be free, in their order

	running sync.Mutex // taken after any other lock
	// closing ends when no further message is taken.
	closing     context.Context
	stopSending context.CancelFunc
	work        sync.WaitGroup
}

func newSession(address Address, conn *amqp.Connection, raw *socket, o settings) *session {
	s := &session{settings: o, address: address, conn: conn, raw: raw,
		queue: make(chan *sending), gone: make(chan struct{}), exchanges: map[string]*exchange{}, swept: time.Now()}
	s.closing, s.stopSending = context.WithCancel(context.Background())
	s.proven.Store(provenFromTheStart)
	alarms := conn.NotifyBlocked(make(chan amqp.Blocking, 8))
	s.work.Go(func() { s.watch(alarms) })
	s.work.Go(s.write)
	return s
}

// watch notes alarms, until the connection ends.
func (s *session) watch(alarms <-chan amqp.Blocking) {
	for alarm := range alarms {
		if alarm.Active {
			s.reason.Store(&alarm.Reason)
		} else {
			s.reason.Store(nil)
		}
	}
	close(s.gone)
}

func (s *session) ended() bool { return s.conn.IsClosed() }

// blocked returns why the broker takes no messages, or "".
func (s *session) blocked() string {
	if reason := s.reason.Load(); reason != nil {
		return *reason
	}
	return ""
}

// write writes one message after the other, until the connection ends.
func (s *session) write() {
	for {
		select {
		case m := <-s.queue:
			s.publish(m)
		case <-s.gone:
			return
		}
	}
}

func (s *session) publish(m *sending) {
	defer panics.Catch(func(p *panics.Error) {
		m.channel.drop(m, answered(panics.OfPublisher(m.doing, p)))
		s.kill() // it may be written half
	})
	m.channel.publish(m)
}

// kill ends a connection that can't be used any more.
func (s *session) kill() { _ = s.raw.Close() }

// goOn runs f beside the callers, unless the session is closing.
func (s *session) goOn(f func()) bool {
	s.running.Lock()
	defer s.running.Unlock()
	if s.closing.Err() != nil {
		return false
	}
	s.work.Go(f)
	return true
}

// close ends the connection. Before that, it waits for the answers to what was sent: until the end
// of ctx at most, and not where the broker takes no messages.
func (s *session) close(ctx context.Context) {
	s.running.Lock()
	s.stopSending()
	s.running.Unlock()
	for _, c := range s.channels() {
		if s.blocked() == "" && !s.ended() {
			c.drainOutstanding(ctx)
		}
	}
	// The library's own deadline for reads moves with each of the broker's heartbeats.
	kill := time.AfterFunc(closeTimeout, s.kill)
	defer kill.Stop()
	_ = s.conn.CloseDeadline(time.Now().Add(closeTimeout)) // it is closed in any case
	s.work.Wait()
}

func (s *session) channels() (open []*channel) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, x := range s.exchanges {
		if c := x.current(); c != nil {
			open = append(open, c)
		}
	}
	return open
}

// exchange returns what is kept for an exchange, which the caller must leave.
func (s *session) exchange(name string) *exchange {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := time.Now()
	x := s.exchanges[name]
	isNew := x == nil
	if isNew {
		x = &exchange{session: s, name: name}
		s.exchanges[name] = x
	}
	x.users++
	x.used = now
	if isNew || now.Sub(s.swept) > s.idle/2 {
		s.sweep(now)
	}
	return x
}

// sweep closes the channels of exchanges that nobody has used for a while, and the least recently
// used ones beyond the limit. It never closes one in use: their number is bounded by the calls
// under way. It runs under the lock.
func (s *session) sweep(now time.Time) {
	s.swept = now
	for _, x := range s.unused() {
		if len(s.exchanges) <= s.maxChannels && now.Sub(x.used) < s.idle {
			return
		}
		if c := s.forget(x); c != nil {
			s.goOn(c.retire)
		}
	}
}

// unused are the exchanges that nobody uses, the least recently used first. An exchange whose
// channel is being opened is in use. It runs under the lock.
func (s *session) unused() (all []*exchange) {
	for _, x := range s.exchanges {
		if x.users == 0 && !x.isOpening() {
			all = append(all, x)
		}
	}
	slices.SortFunc(all, func(a, b *exchange) int { return a.used.Compare(b.used) })
	return all
}

// forget drops an exchange that nobody uses, and returns its channel, if one is open. It runs under
// the lock.
func (s *session) forget(x *exchange) *channel {
	delete(s.exchanges, x.name)
	return x.current()
}

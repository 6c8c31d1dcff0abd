package rabbitmq

import (
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// WithMaxChannels sets how many channels are kept without a user.
func WithMaxChannels(n int) Option { return func(s *settings) { s.maxChannels = n } }

// WithIdle sets how long a channel is kept that nobody uses.
func WithIdle(d time.Duration) Option { return func(s *settings) { s.idle = d } }

// Channels counts the exchanges of the connection.
func Channels(p *Publisher) int {
	p.mu.Lock()
	s := p.current
	p.mu.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.exchanges)
}

// TryRotationAgain has the next message try a new address.
func TryRotationAgain(p *Publisher) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.rotate = time.Time{}
}

// Tries counts the tries to connect that failed in a row.
func Tries(p *Publisher) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.failures
}

// Refused is the failure of the one message that RabbitMQ refused so, and Lost that of a message
// whose answer was lost so.
func Refused(e *amqp.Error) error { return refused("sending", e) }
func Lost(e *amqp.Error) error    { return lost("sending", e) }

// Codes are the codes that have a class.
func Codes() (all []int) {
	for c := range codes {
		all = append(all, c)
	}
	return all
}

package faults

import (
	"context"
	"fmt"
	"net/url"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/outflowhq/outflow/devstack/rabbitmq"
	"github.com/outflowhq/outflow/internal/timing"
	"github.com/outflowhq/outflow/publish/publishtest/amqprelay"
)

// Rabbit is a RabbitMQ that can die and come back on its data and its port. Programs reach it
// through a relay, which knows what became of each message. What a test itself does goes beside the
// relay.
type Rabbit struct {
	Relay *amqprelay.Relay

	mu     sync.Mutex
	broker *rabbitmq.Broker
	conn   *amqp.Connection
}

// StartRabbit starts a node of its own, whose data and log are in the stack's folder, until the stack
// is down.
func (s *Stack) StartRabbit(ctx context.Context) (*Rabbit, error) {
	name := fmt.Sprintf("rabbitmq-%d", len(s.rabbits))
	broker, err := rabbitmq.Start(ctx, rabbitmq.Options{
		Dir: filepath.Join(s.dir, name), LogFile: filepath.Join(s.Logs(), name+".log"),
	})
	if err != nil {
		return nil, err
	}
	r := &Rabbit{broker: broker}
	if r.Relay, err = amqprelay.New(broker.Address()); err != nil {
		_ = broker.Kill()
		return nil, fmt.Errorf("opening the relay to RabbitMQ: %w", err)
	}
	s.rabbits = append(s.rabbits, r)
	return r, nil
}

// Env has programs publish through the relay.
func (r *Rabbit) Env() []string {
	u, _ := url.Parse(r.broker.URL()) // it is our own
	u.Host = r.Relay.Address()
	return []string{"AMQP_URL=" + u.String()}
}

// Stop shuts RabbitMQ down orderly, Crash kills it: what it has confirmed is there when it is back.
func (r *Rabbit) Stop() error  { return r.end((*rabbitmq.Broker).Stop) }
func (r *Rabbit) Crash() error { return r.end((*rabbitmq.Broker).Kill) }

func (r *Rabbit) end(how func(*rabbitmq.Broker) error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	return how(r.broker)
}

// Start brings it back.
func (r *Rabbit) Start(ctx context.Context) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	broker, err := rabbitmq.Start(ctx, r.broker.Options())
	if err == nil {
		r.broker = broker
	}
	return err
}

// Alarm has RabbitMQ find that it has too little memory, or enough.
func (r *Rabbit) Alarm(ctx context.Context, on bool) error {
	limit := "0.4"
	if on {
		limit = "0.00001"
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	_, err := r.broker.Ctl(ctx, "set_vm_memory_high_watermark", limit)
	return err
}

// Bind declares a durable exchange and a durable queue of the same name, and binds them. What is
// there stays.
func (r *Rabbit) Bind(name, key string) error {
	return r.with(func(ch *amqp.Channel) error {
		if err := ch.ExchangeDeclare(name, "topic", true, false, false, false, nil); err != nil {
			return err
		}
		if _, err := ch.QueueDeclare(name, true, false, false, false, nil); err != nil {
			return err
		}
		return ch.QueueBind(name, key, name, false, nil)
	})
}

// Unbind deletes the queue, with what is in it.
func (r *Rabbit) Unbind(name string) error {
	return r.with(func(ch *amqp.Channel) error {
		_, err := ch.QueueDelete(name, false, false, false)
		return err
	})
}

// Take takes everything out of a queue, and counts it by message ID.
func (r *Rabbit) Take(queue string) (map[uuid.UUID]int, error) {
	ids, err := r.TakeInOrder(queue)
	counts := map[uuid.UUID]int{}
	for _, id := range ids {
		counts[id]++
	}
	return counts, err
}

// TakeInOrder takes everything out of a queue: message IDs, in the order of their arrival.
func (r *Rabbit) TakeInOrder(queue string) (ids []uuid.UUID, err error) {
	err = r.with(func(ch *amqp.Channel) error {
		for {
			d, ok, err := ch.Get(queue, true)
			if err != nil || !ok {
				return err
			}
			id, _ := uuid.Parse(d.MessageId)
			ids = append(ids, id)
		}
	})
	return ids, err
}

// with does something on a channel beside the relay.
func (r *Rabbit) with(do func(*amqp.Channel) error) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	var err error
	if r.conn == nil || r.conn.IsClosed() {
		if r.conn, err = amqp.Dial(r.broker.URL()); err != nil {
			return fmt.Errorf("connecting to RabbitMQ: %w", err)
		}
	}
	ch, err := r.conn.Channel()
	if err != nil {
		return fmt.Errorf("opening a channel of RabbitMQ: %w", err)
	}
	defer ch.Close()
	return do(ch)
}

// close ends everything.
func (r *Rabbit) close() error {
	r.Relay.Close()
	err := r.Crash()
	if r.conn != nil {
		_ = r.conn.Close() // to a broker that is gone
	}
	return err
}

// Again are the copies of messages that were sent more than once: Explained where no confirm of the
// copy before was heard.
type Again struct {
	Explained   int
	Unexplained []string
}

// Judge looks at each copy that came after another one. A confirm is heard unless it was lost, came
// too late for its caller, or was on its way when its connection ended.
func (r *Rabbit) Judge() (a Again) {
	byID := map[string][]amqprelay.Copy{}
	for _, c := range r.Relay.Copies() {
		byID[c.MessageID] = append(byID[c.MessageID], c)
	}
	for id, copies := range byID {
		slices.SortFunc(copies, func(x, y amqprelay.Copy) int { return x.Sent.Compare(y.Sent) })
		for i, c := range copies[:len(copies)-1] {
			late := c.Answered.Sub(c.Sent) >= timing.FastPathCall-onItsWay
			if !c.Heard() || c.Refused || c.Returned || late {
				a.Explained++
				continue
			}
			const clock = "15:04:05.000"
			a.Unexplained = append(a.Unexplained, fmt.Sprintf(
				"%s to %s: sent at %s, confirmed at %s, and sent again at %s", id, c.Exchange, c.Sent.Format(clock),
				c.Answered.Format(clock), copies[i+1].Sent.Format(clock)))
		}
	}
	return a
}

// CutOften ends the connections while confirms are out, about every interval, until ctx ends. It
// returns how many confirms were out in all.
func (r *Rabbit) CutOften(ctx context.Context, every time.Duration) (out int) {
	for {
		select {
		case <-ctx.Done():
			return out
		case <-time.After(every):
		}
		for r.Relay.Unanswered() == 0 && ctx.Err() == nil {
			time.Sleep(time.Millisecond)
		}
		out += r.Relay.Unanswered()
		r.Relay.Cut()
	}
}

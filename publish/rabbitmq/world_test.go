package rabbitmq_test

import (
	"net/url"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/publish/publishtest/amqprelay"
	"github.com/outflowhq/outflow/publish/rabbitmq"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// world is devstack's RabbitMQ with a relay before it, and a connection beside that.
type world struct {
	*teststack.RabbitMQ
	t     *testing.T
	relay *amqprelay.Relay

	mu   sync.Mutex
	conn *amqp.Connection
	ch   *amqp.Channel
}

func newWorld(t *testing.T) *world   { return newWorldOn(t, teststack.NewRabbitMQ(t)) }
func aloneWorld(t *testing.T) *world { return newWorldOn(t, teststack.AloneWithRabbitMQ(t)) }

func newWorldOn(t *testing.T, broker *teststack.RabbitMQ) *world {
	t.Helper()
	relay, err := amqprelay.New(broker.Address)
	require.NoError(t, err)
	w := &world{RabbitMQ: broker, t: t, relay: relay}
	t.Cleanup(func() {
		relay.Close()
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.conn != nil {
			_ = w.conn.Close()
		}
	})
	return w
}

// channel is a channel beside the relay, which is opened again where it was closed.
func (w *world) channel() *amqp.Channel {
	w.t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ch != nil && !w.ch.IsClosed() {
		return w.ch
	}
	var err error
	if w.conn == nil || w.conn.IsClosed() {
		w.conn, err = amqp.Dial(w.URL)
		require.NoError(w.t, err)
	}
	w.ch, err = w.conn.Channel()
	require.NoError(w.t, err)
	return w.ch
}

// address is that of the relay, for a user.
func (w *world) address(user, password string) rabbitmq.Address {
	w.t.Helper()
	u := url.URL{Scheme: "amqp", User: url.UserPassword(user, password), Host: w.relay.Address(), Path: "/"}
	a, err := rabbitmq.ParseAddress(u.String())
	require.NoError(w.t, err)
	return a
}

// publisher publishes through the relay.
func (w *world) publisher(opts ...rabbitmq.Option) *rabbitmq.Publisher {
	w.t.Helper()
	p := rabbitmq.New(w.address("guest", "guest"), opts...)
	w.t.Cleanup(p.Close)
	return p
}

// name is a name that no other test has.
func name(of string) string { return of + "-" + uuid.NewString() }

// exchange declares a durable exchange, which is deleted after the test.
func (w *world) exchange(kind string) string {
	w.t.Helper()
	x := name("exchange")
	require.NoError(w.t, w.channel().ExchangeDeclare(x, kind, true, false, false, false, nil))
	w.t.Cleanup(func() { _ = w.channel().ExchangeDelete(x, false, false) })
	return x
}

// queue declares a durable queue, which is deleted after the test, and binds it.
func (w *world) queue(exchange, key string) string {
	w.t.Helper()
	q := name("queue")
	w.declare(q)
	require.NoError(w.t, w.channel().QueueBind(q, key, exchange, false, nil))
	return q
}

func (w *world) declare(queue string) {
	w.t.Helper()
	_, err := w.channel().QueueDeclare(queue, true, false, false, false, nil)
	require.NoError(w.t, err)
	w.t.Cleanup(func() { _, _ = w.channel().QueueDelete(queue, false, false, false) })
}

// deliveries takes everything that is in a queue.
func (w *world) deliveries(queue string) (all []amqp.Delivery) {
	w.t.Helper()
	for {
		d, ok, err := w.channel().Get(queue, true)
		require.NoError(w.t, err)
		if !ok {
			return all
		}
		all = append(all, d)
	}
}

// counts is how often each message is in a queue.
func (w *world) counts(queue string) map[string]int {
	w.t.Helper()
	counts := map[string]int{}
	for _, d := range w.deliveries(queue) {
		counts[d.MessageId]++
	}
	return counts
}

func to(exchange, key string) string {
	return outflow.Destination{Scheme: outflow.SchemeRabbitMQ, Name: exchange, RoutingKey: key}.String()
}

const marker = "a-secret-of-the-payload"

func message(destination string) outflow.Message {
	return outflow.Message{ID: uuid.Must(uuid.NewV7()), Destination: destination, Type: "user-registered",
		ContentType: "application/json", Payload: []byte(`{"note":"` + marker + `"}`)}
}

func messages(n int, destination string) (all []outflow.Message) {
	for range n {
		all = append(all, message(destination))
	}
	return all
}

// publishAll publishes messages side by side, atOnce at a time, and returns their errors.
func publishAll(t *testing.T, p *rabbitmq.Publisher, atOnce int, all []outflow.Message) []error {
	errs := make([]error, len(all))
	slots := make(chan struct{}, atOnce)
	var wg sync.WaitGroup
	for i, m := range all {
		slots <- struct{}{}
		wg.Go(func() {
			defer func() { <-slots }()
			_, errs[i] = p.Publish(t.Context(), m)
		})
	}
	wg.Wait()
	return errs
}

func noErrors(t *testing.T, errs []error) {
	t.Helper()
	for i, err := range errs {
		if !assert.NoError(t, err, "message %d", i) {
			return
		}
	}
}

// is holds a failure to its class, and to what no text may have.
func is(t *testing.T, class outflow.Class, err error, says ...string) {
	t.Helper()
	require.Error(t, err)
	require.Equal(t, class, outflow.ClassOf(err), "%v", err)
	require.NotContains(t, err.Error(), marker)
	require.NotContains(t, err.Error(), "guest")
	for _, words := range says {
		require.ErrorContains(t, err, words)
	}
}

// eventually waits for a condition for as long as a busy machine may take.
func eventually(t *testing.T, condition func() bool, what string) {
	t.Helper()
	require.Eventually(t, condition, time.Minute, 5*time.Millisecond, what)
}

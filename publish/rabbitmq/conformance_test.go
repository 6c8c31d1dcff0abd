package rabbitmq_test

import (
	"net/url"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/publish"
	"github.com/outflowhq/outflow/publish/publishtest"
	"github.com/outflowhq/outflow/publish/rabbitmq"
)

// TestConformance runs on the real broker. What RabbitMQ itself refuses comes from rabbitmqctl,
// what a network does from a relay and a gate before it.
func TestConformance(t *testing.T) {
	w := aloneWorld(t)
	h := &harness{world: w, gate: publishtest.NewGate(t, w.relay.Address()), user: w.user(".*")}
	publishtest.Run(t, h)
}

type harness struct {
	*world
	gate *publishtest.Gate
	user string
	// restore ends the fault that there is, if any.
	restore func()
}

var _ publishtest.Harness = (*harness)(nil)

func (h *harness) Publisher(t *testing.T) publish.Publisher {
	u := url.URL{Scheme: "amqp", User: url.UserPassword(h.user, password), Host: h.gate.Address(), Path: "/"}
	address, err := rabbitmq.ParseAddress(u.String())
	require.NoError(t, err)
	p := rabbitmq.New(address, rabbitmq.WithTimeout(4500*time.Millisecond))
	t.Cleanup(p.Close)
	return p
}

// Destination is an exchange with a queue of the same name.
func (h *harness) Destination(t *testing.T) string {
	x := h.exchange("topic")
	h.declare(x)
	require.NoError(t, h.channel().QueueBind(x, "key", x, false, nil))
	return to(x, "key")
}

func (*harness) MissingDestination(*testing.T) string { return to(name("missing"), "key") }

func (*harness) MaxBytes() int { return 16 << 20 }

func (*harness) Skip(string) (string, bool) { return "", false }

func (h *harness) Receive(t *testing.T, destination string, n int) (found []outflow.Message) {
	q := exchangeOf(t, destination)
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		for _, d := range h.deliveries(q) {
			m, err := rabbitmq.Decode(d)
			require.NoError(t, err)
			found = append(found, m)
		}
		if len(found) >= n || time.Now().After(deadline) {
			return found
		}
	}
}

func (h *harness) Break(t *testing.T, destination string, f publishtest.Fault) {
	x := exchangeOf(t, destination)
	switch f {
	case publishtest.Throttled: // a queue that is full rejects what it is sent
		h.Control("set_policy", x, "^"+x+"$", `{"max-length":0,"overflow":"reject-publish"}`, "--apply-to", "queues")
		eventually(t, func() bool { return !h.takes(x) }, "the policy is in force")
		h.restore = func() {
			h.Control("clear_policy", x)
			eventually(t, func() bool { return h.takes(x) }, "the policy is gone")
			h.deliveries(x)
		}
	case publishtest.Denied:
		h.Control("set_permissions", h.user, "^$", "^$", "^$")
		h.relay.Cut() // RabbitMQ remembers permissions for a connection
		h.restore = func() { h.Control("set_permissions", h.user, "^$", ".*", "^$"); h.relay.Cut() }
	case publishtest.Broken: // it says 320 CONNECTION_FORCED, and then nothing
		h.Control("stop_app")
		h.restore = func() { h.Control("start_app") }
	case publishtest.AnswerLost:
		h.relay.LoseConfirms(x)
		h.restore = func() { h.relay.Heal(x) }
	case publishtest.Slow:
		h.relay.Delay(x, publishtest.SlowBy)
		h.restore = func() { h.relay.Heal(x) }
	case publishtest.Unreachable:
		h.gate.Shut()
		h.restore = func() { h.gate.Open(t) }
	default:
		t.Fatalf("no such fault: %s", f)
	}
}

// takes reports whether a queue stores what it is sent.
func (h *harness) takes(queue string) bool {
	ch, err := h.conn.Channel()
	require.NoError(h.t, err)
	defer ch.Close()
	require.NoError(h.t, ch.Confirm(false))
	confirm, err := ch.PublishWithDeferredConfirm("", queue, false, false, amqp.Publishing{Body: []byte("probe")})
	require.NoError(h.t, err)
	return confirm.Wait()
}

func (h *harness) Restore(*testing.T, string) {
	if h.restore != nil {
		h.restore()
		h.restore = nil
	}
}

func exchangeOf(t *testing.T, destination string) string {
	t.Helper()
	d, err := outflow.ParseDestination(destination)
	require.NoError(t, err)
	return d.Name
}

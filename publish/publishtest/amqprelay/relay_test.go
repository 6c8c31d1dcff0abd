package amqprelay_test

import (
	"testing"
	"time"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/publish/publishtest/amqprelay"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// client is a channel in confirm mode through a relay.
type client struct {
	t     *testing.T
	relay *amqprelay.Relay
	*amqp.Channel
}

func connect(t *testing.T, relay *amqprelay.Relay) client {
	t.Helper()
	conn, err := amqp.Dial("amqp://" + relay.Address())
	require.NoError(t, err)
	t.Cleanup(func() { _ = conn.Close() })
	ch, err := conn.Channel()
	require.NoError(t, err)
	require.NoError(t, ch.Confirm(false))
	return client{t, relay, ch}
}

// publish sends a message to a queue and returns its confirm.
func (c client) publish(id, queue string) *amqp.DeferredConfirmation {
	c.t.Helper()
	confirm, err := c.PublishWithDeferredConfirm("", queue, true, false, amqp.Publishing{MessageId: id, Type: "t",
		Headers: amqp.Table{"a": "b"}, DeliveryMode: 2, Priority: 1, Body: []byte("body")})
	require.NoError(c.t, err)
	return confirm
}

// copyOf is what became of a message that was sent once.
func copyOf(t *testing.T, relay *amqprelay.Relay, id string) (found amqprelay.Copy) {
	t.Helper()
	for _, c := range relay.Copies() {
		if c.MessageID == id {
			require.Zero(t, found, "it was sent once")
			found = c
		}
	}
	require.Equal(t, id, found.MessageID)
	return found
}

func TestRelay(t *testing.T) {
	broker := teststack.NewRabbitMQ(t)
	relay, err := amqprelay.New(broker.Address)
	require.NoError(t, err)
	defer relay.Close()
	queue := "queue-" + uuid.NewString()
	c := connect(t, relay)
	_, err = c.QueueDeclare(queue, true, false, false, false, nil)
	require.NoError(t, err)
	defer func() { _, _ = connect(t, relay).QueueDelete(queue, false, false, false) }()

	require.True(t, c.publish("confirmed", queue).Wait())
	require.Eventually(t, func() bool { return copyOf(t, relay, "confirmed").Heard() }, time.Minute, time.Millisecond)
	confirmed := copyOf(t, relay, "confirmed")
	assert.Equal(t, queue, confirmed.RoutingKey)
	assert.False(t, confirmed.Returned || confirmed.Refused)

	require.True(t, c.publish("returned", "no-such-queue").Wait())
	assert.True(t, copyOf(t, relay, "returned").Returned)

	relay.Delay("", 300*time.Millisecond)
	began := time.Now()
	require.True(t, c.publish("delayed", queue).Wait())
	assert.GreaterOrEqual(t, time.Since(began), 300*time.Millisecond)
	relay.Heal("")

	relay.LoseConfirms("")
	require.False(t, c.publish("lost", queue).Wait())
	require.Eventually(t, func() bool { return !copyOf(t, relay, "lost").CutAt.IsZero() }, time.Minute,
		time.Millisecond)
	assert.False(t, copyOf(t, relay, "lost").Heard())
	assert.Zero(t, relay.Unanswered())
	relay.Heal("")

	c = connect(t, relay)
	relay.Shut()
	require.Eventually(t, c.IsClosed, time.Minute, time.Millisecond)
	_, err = amqp.Dial("amqp://" + relay.Address())
	require.Error(t, err)
	relay.Open()
	c = connect(t, relay)
	stored := map[string]bool{}
	for {
		d, ok, err := c.Get(queue, true)
		require.NoError(t, err)
		if !ok {
			break
		}
		stored[d.MessageId] = true
	}
	assert.Equal(t, map[string]bool{"confirmed": true, "delayed": true, "lost": true}, stored)
	relay.Cut()
	require.Eventually(t, c.IsClosed, time.Minute, time.Millisecond)
}

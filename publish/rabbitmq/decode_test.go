package rabbitmq_test

import (
	"strings"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/publish/rabbitmq"
)

func TestDecode(t *testing.T) {
	ours := func(change func(*amqp.Delivery)) amqp.Delivery {
		d := amqp.Delivery{MessageId: "0190a5b0-7c3e-7d50-9a2f-000000000001", Type: "order-placed",
			ContentType: "application/json", Body: []byte(`{"id":7}`), Headers: amqp.Table{"tenant": "acme"}}
		change(&d)
		return d
	}
	// What RabbitMQ adds to a message that was dead-lettered.
	m, err := rabbitmq.Decode(ours(func(d *amqp.Delivery) {
		d.Headers["x-death"] = []any{amqp.Table{"count": int64(1)}}
		d.Headers["x-first-death-queue"] = "orders"
		d.Headers["x-delivery-count"] = int64(2)
		d.Headers["outflow-headers"] = `{"CC":"x"}`
	}))
	require.NoError(t, err)
	assert.Equal(t, map[string]string{"tenant": "acme", "CC": "x", "x-first-death-queue": "orders"}, m.Headers)

	m, err = rabbitmq.Decode(ours(func(d *amqp.Delivery) { d.Headers = nil }))
	require.NoError(t, err)
	assert.Nil(t, m.Headers)
	m, err = rabbitmq.Decode(ours(func(d *amqp.Delivery) { d.Headers["outflow-headers"] = "null" }))
	require.NoError(t, err)
	assert.Len(t, m.Headers, 1)

	for name, change := range map[string]func(*amqp.Delivery){
		"no ID": func(d *amqp.Delivery) { d.MessageId = "" }, "no UUID": func(d *amqp.Delivery) { d.MessageId = "7" },
		"the zero UUID":   func(d *amqp.Delivery) { d.MessageId = "00000000-0000-0000-0000-000000000000" },
		"no type":         func(d *amqp.Delivery) { d.Type = "" },
		"no content type": func(d *amqp.Delivery) { d.ContentType = "" },
	} {
		m, err := rabbitmq.Decode(ours(change))
		assert.ErrorIs(t, err, rabbitmq.ErrNotOutflow, name)
		assert.Equal(t, outflow.Message{}, m)
	}
	_, err = rabbitmq.Decode(ours(func(d *amqp.Delivery) { d.Headers["outflow-headers"] = "{" }))
	require.ErrorContains(t, err, "decoding message 0190a5b0-7c3e-7d50-9a2f-000000000001: reading outflow-headers")
}

// TestWhatCannotBeEncoded would break the connection, or arrive as something else.
func TestWhatCannotBeEncoded(t *testing.T) {
	long := strings.Repeat("t", 256)
	for says, change := range map[string]func(*outflow.Message){
		"the type has 256 bytes, and AMQP takes 255":         func(m *outflow.Message) { m.Type = long },
		"the content type has 256 bytes, and AMQP takes 255": func(m *outflow.Message) { m.ContentType = long },
		"the name of a header has 256 bytes, and AMQP takes 255": func(m *outflow.Message) {
			m.Headers = map[string]string{long: "x"}
		},
		`header "CC" is not valid UTF-8`: func(m *outflow.Message) { m.Headers = map[string]string{"CC": "\xff"} },
		"the message has no ID":          func(m *outflow.Message) { m.ID = [16]byte{} },
		"the payload has 16777217 bytes": func(m *outflow.Message) { m.Payload = make([]byte, 16<<20+1) },
	} {
		m := message("rabbitmq://orders/paid")
		change(&m)
		p := rabbitmq.New(rabbitmq.Address{}, rabbitmq.WithTimeout(time.Second)) // which leads nowhere
		_, err := p.Publish(t.Context(), m)
		is(t, outflow.ClassPermanent, err, "rabbitmq://orders/paid", says)
		p.Close()
	}
}

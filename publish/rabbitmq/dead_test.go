package rabbitmq_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/golden"
	"github.com/outflowhq/outflow/internal/text"
	"github.com/outflowhq/outflow/publish"
)

// death is a cause for which a message ends dead, and how to cause it.
type death struct {
	cause       string
	destination string
	change      func(*outflow.Message)
}

// TestWhyMessagesEndDead pins, for each cause, the text that an operator reads: what happened, and
// in brackets or after a semicolon what to do.
func TestWhyMessagesEndDead(t *testing.T) {
	w := aloneWorld(t)
	const limit = 1_000_000
	w.Control("eval", fmt.Sprintf("application:set_env(rabbit, max_message_size, %d).", limit))
	defer w.Control("eval", "application:set_env(rabbit, max_message_size, 134217728).")
	x := w.exchange("topic")
	w.queue(x, "paid")
	long := strings.Repeat("n", 256)
	p := w.publisher()
	var all []golden.Death
	for _, d := range []death{
		{cause: "no routing key", destination: "rabbitmq://orders"},
		{cause: "another scheme", destination: "sqs://orders"},
		{cause: "no such exchange", destination: "rabbitmq://outflow-test-missing/paid"},
		{cause: "no queue is bound", destination: to(x, "refunded")},
		{cause: "no such queue, by the default exchange", destination: "rabbitmq:///outflow-test-missing"},
		{cause: "too large for RabbitMQ", destination: to(x, "paid"),
			change: func(m *outflow.Message) { m.Payload = make([]byte, 16<<20+1) }},
		{cause: "too large for this broker's own limit", destination: to(x, "paid"),
			change: func(m *outflow.Message) { m.Payload = make([]byte, limit+1) }},
		{cause: "too many headers", destination: to(x, "paid"), change: func(m *outflow.Message) {
			m.Headers = map[string]string{}
			for i := range 64 {
				m.Headers[fmt.Sprintf("x-%02d", i)] = strings.Repeat("v", 8<<10)
			}
		}},
		{cause: "a type that AMQP does not take", destination: to(x, "paid"),
			change: func(m *outflow.Message) { m.Type = long }},
		{cause: "a header CC that is not UTF-8", destination: to(x, "paid"),
			change: func(m *outflow.Message) { m.Headers = map[string]string{"CC": "\xff"} }},
	} {
		m := message(d.destination)
		m.ID = uuid.MustParse("0190a5b0-7c3e-7d50-9a2f-000000000001")
		if d.change != nil {
			d.change(&m)
		}
		var err error
		if d.cause == "another scheme" {
			_, err = p.Publish(t.Context(), m)
		} else {
			_, err = publish.NewRouter(p).Publish(t.Context(), m)
		}
		require.True(t, outflow.IsPermanent(err), "%s: %v", d.cause, err)
		require.NotContains(t, err.Error(), marker)
		said := strings.ReplaceAll(text.Clean(err.Error()), x, "orders")
		all = append(all, golden.Death{Cause: d.cause, LastError: said})
	}
	golden.Deaths(t, "publish/rabbitmq", all, all)
}

package rabbitmq

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/outflowhq/outflow"
)

// ErrNotOutflow says that a delivery lacks what every message of Outflow has: another sender sent
// it.
var ErrNotOutflow = errors.New("no message of Outflow: it wants a UUID as message_id, a type and a content_type")

// Decode returns the message that was published: ID, Type, ContentType, Headers, OrderingKey and
// Payload. The trace context is in Headers, under "traceparent" and "tracestate". The other fields,
// Destination among them, stay in the outbox and are zero.
//
// Headers are those with a text as value, together with those that RabbitMQ has added on the way,
// such as x-first-death-queue. Others, such as x-death, are left out. No headers are a nil map.
//
// The error is ErrNotOutflow, or wraps it, for a delivery that Outflow did not write; any other
// names what can't be read. No later delivery of the same message decodes, unless by a newer
// Outflow.
//
// Consumers need nothing else of this package, and it brings neither Temporal nor a database
// driver into their programs. Package inbox makes the effect of the message happen once.
func Decode(received amqp.Delivery) (outflow.Message, error) {
	if received.MessageId == "" || received.Type == "" || received.ContentType == "" {
		return outflow.Message{}, ErrNotOutflow
	}
	id, err := uuid.Parse(received.MessageId)
	if err == nil && id == uuid.Nil {
		err = errors.New("it is the zero UUID")
	}
	if err != nil {
		return outflow.Message{}, fmt.Errorf("%w: %w", ErrNotOutflow, err)
	}
	m := outflow.Message{ID: id, Type: received.Type, ContentType: received.ContentType, Payload: received.Body}
	headers := map[string]string{}
	for name, value := range received.Headers {
		text, isText := value.(string)
		switch {
		case !isText:
		case name == HeaderOrderingKey:
			m.OrderingKey = text
		case name == HeaderHeaders:
			var rest map[string]string
			if err := json.Unmarshal([]byte(text), &rest); err != nil {
				return outflow.Message{}, fmt.Errorf("decoding message %s: reading %s: %w", id, HeaderHeaders, err)
			}
			maps.Copy(headers, rest)
		default:
			headers[name] = text
		}
	}
	if len(headers) > 0 {
		m.Headers = headers
	}
	return m, nil
}

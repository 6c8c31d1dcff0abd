package rabbitmq

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"

	"github.com/outflowhq/outflow"
)

// encode turns m into what is published. Its errors are about the message: all are permanent. What
// it lets through can be written to the connection as a whole: a message that fails half-way would
// take the connection with it.
func encode(m outflow.Message) (amqp.Publishing, error) {
	p := amqp.Publishing{
		MessageId: m.ID.String(), Type: m.Type, ContentType: cmp.Or(m.ContentType, defaultContentType),
		DeliveryMode: amqp.Persistent, Timestamp: madeAt(m.ID), Body: m.Payload,
	}
	switch {
	case m.ID == uuid.Nil:
		return p, errors.New("the message has no ID")
	case len(p.Type) > maxShortString:
		return p, fmt.Errorf("the type has %d bytes, and AMQP takes %d", len(p.Type), maxShortString)
	case len(p.ContentType) > maxShortString:
		return p, fmt.Errorf("the content type has %d bytes, and AMQP takes %d", len(p.ContentType), maxShortString)
	}
	headers, rest := amqp.Table{}, map[string]string{}
	for name, value := range m.Headers {
		switch {
		case len(name) > maxShortString:
			return p, fmt.Errorf("the name of a header has %d bytes, and AMQP takes %d", len(name), maxShortString)
		case routes(name):
			if !utf8.ValidString(value) { // JSON has no way to carry it
				return p, fmt.Errorf("header %q is not valid UTF-8", name)
			}
			rest[name] = value
		default:
			headers[name] = value
		}
	}
	if len(rest) > 0 {
		object, err := json.Marshal(rest) // names are sorted
		if err != nil {
			return p, fmt.Errorf("writing the headers as JSON: %w", err)
		}
		headers[HeaderHeaders] = string(object)
	}
	if m.OrderingKey != "" {
		headers[HeaderOrderingKey] = m.OrderingKey
	}
	p.Headers = headers
	return p, nil
}

// routes reports whether RabbitMQ takes a header for a list of more routing keys. It refuses a
// text there, and closes the channel.
func routes(name string) bool { return name == "CC" || name == "BCC" }

// madeAt is when a UUIDv7 was made, by the clock that made it; zero for other versions. Every copy
// of a message has the same.
func madeAt(id uuid.UUID) time.Time {
	if id.Version() != 7 {
		return time.Time{}
	}
	return time.Unix(id.Time().UnixTime())
}

// headerFrame is the size in bytes of the frame with the properties of p, which AMQP can't split.
// https://www.rabbitmq.com/resources/specs/amqp0-9-1.pdf, 4.2.6.1
func headerFrame(p amqp.Publishing) int {
	const frame, header, fixed = 8, 14, 1 + 8 // a frame's own; class to flags; delivery mode, timestamp
	size := frame + header + fixed + 1 + len(p.ContentType) + 1 + len(p.MessageId) + 1 + len(p.Type)
	size += 4
	for name, value := range p.Headers {
		size += 1 + len(name) + 1 + 4 + len(value.(string))
	}
	return size
}

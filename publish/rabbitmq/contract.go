package rabbitmq

// The wire contract: how a message looks in a queue, for consumers in any language. Names are never
// changed once released. The properties message_id, type and content_type are AMQP's own; the body
// is the payload, byte for byte.
const (
	// HeaderOrderingKey is the message's ordering key; absent where it has none.
	HeaderOrderingKey = "outflow-ordering-key"
	// HeaderHeaders is a JSON object of those headers that are no headers of their own, because
	// RabbitMQ routes by them: CC and BCC.
	// https://www.rabbitmq.com/docs/sender-selected
	HeaderHeaders = "outflow-headers"

	// defaultContentType is what an empty outflow.Message.ContentType means.
	defaultContentType = "application/json"
)

const (
	// maxPayload is the largest payload that is sent: RabbitMQ's own default since 4.0, and what
	// an outbox takes. Before 4.0 the default was 128 MiB. Where a broker is configured to take
	// less (max_message_size), it says so itself.
	// https://github.com/rabbitmq/rabbitmq-server/blob/main/release-notes/4.0.1.md
	maxPayload = 16 << 20

	// maxShortString is the most bytes of a short string of AMQP 0-9-1: a property, or the name of
	// a header.
	maxShortString = 255
)

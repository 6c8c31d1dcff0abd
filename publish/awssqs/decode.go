package awssqs

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"maps"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/google/uuid"

	"github.com/outflowhq/outflow"
)

// ErrNotOutflow says that a message carries no Outflow message ID: another sender sent it, or
// ReceiveMessage did not ask for its attributes.
var ErrNotOutflow = errors.New("no attribute " + AttributeMessageID +
	": ask ReceiveMessage for MessageAttributeNames All; another sender's message has none")

// Decode returns the message that was published: ID, Type, ContentType, Headers, Payload, and
// OrderingKey on a FIFO queue. The trace context is in Headers, under "traceparent" and
// "tracestate". The other fields, Destination among them, stay in the outbox and are zero. An
// empty ContentType comes back as "application/json", no headers as a nil map.
//
// Receive the message with MessageAttributeNames "All" and, for the ordering key,
// MessageSystemAttributeNames "MessageGroupId". A list of single attributes is not enough: it may
// lack AttributeEncoding, which few messages have.
//
// The error is ErrNotOutflow for a message that Outflow did not write; any other names what is
// missing or can't be read. No later delivery of the same message decodes, unless it is received
// with more attributes or by a newer Outflow.
//
// Consumers need nothing else of this package, and it brings neither Temporal nor a database
// driver into their programs. Package inbox makes the effect of the message happen once.
func Decode(received types.Message) (outflow.Message, error) {
	values := make(map[string]string, len(received.MessageAttributes))
	for name, a := range received.MessageAttributes {
		if a.StringValue != nil { // Outflow writes no other kind
			values[name] = *a.StringValue
		}
	}
	remove := func(name string) string {
		value := values[name]
		delete(values, name)
		return value
	}
	text := remove(AttributeMessageID)
	if text == "" {
		return outflow.Message{}, ErrNotOutflow
	}
	id, err := uuid.Parse(text)
	if err == nil && id == uuid.Nil {
		err = errors.New("it is the zero UUID")
	}
	if err != nil {
		return outflow.Message{}, fmt.Errorf("reading %s: %w", AttributeMessageID, err)
	}
	m := outflow.Message{ID: id, Type: remove(AttributeType), ContentType: remove(AttributeContentType)}
	m.Payload, err = payloadOf(m, received, remove(AttributeEncoding))
	if err == nil {
		m.Headers, err = headersOf(values, remove(AttributeHeaders))
	}
	if err != nil {
		return outflow.Message{}, fmt.Errorf("decoding message %s: %w", id, err)
	}
	group := received.Attributes[string(types.MessageSystemAttributeNameMessageGroupId)]
	if group != text { // the message ID stands for "no ordering key"
		m.OrderingKey = group
	}
	return m, nil
}

func payloadOf(m outflow.Message, received types.Message, encoding string) ([]byte, error) {
	// Outflow always writes both. Where one is missing, AttributeEncoding may be missing, too, and
	// base64 would pass for the payload.
	switch "" {
	case m.Type:
		return nil, missingAttribute(AttributeType)
	case m.ContentType:
		return nil, missingAttribute(AttributeContentType)
	}
	body := aws.ToString(received.Body)
	if body == "" {
		return nil, errors.New("no body")
	}
	switch encoding {
	case "":
		return []byte(body), nil
	case EncodingBase64:
		payload, err := base64.StdEncoding.DecodeString(body)
		if err != nil {
			return nil, fmt.Errorf("reading the base64 body: %w", err)
		}
		return payload, nil
	}
	return nil, fmt.Errorf("unknown %s %q; a newer Outflow may know it", AttributeEncoding, encoding)
}

func missingAttribute(attribute string) error {
	return fmt.Errorf("no attribute %s: ask ReceiveMessage for MessageAttributeNames All", attribute)
}

// headersOf adds the headers in object to those that are attributes of their own. Each header is
// in one of the two places.
func headersOf(own map[string]string, object string) (map[string]string, error) {
	if object != "" {
		var rest map[string]string
		err := json.Unmarshal([]byte(object), &rest)
		if err == nil && rest == nil {
			err = errors.New("wants a JSON object (got null)")
		}
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", AttributeHeaders, err)
		}
		maps.Copy(own, rest)
	}
	if len(own) == 0 {
		return nil, nil
	}
	return own, nil
}

package awssqs

import (
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/google/uuid"

	"github.com/outflowhq/outflow"
)

// ErrNotOutflow says that a message carries no Outflow message ID: somebody
// else sent it, or ReceiveMessage did not ask for its attributes.
var ErrNotOutflow = errors.New("no attribute " + AttributeMessageID +
	": ask ReceiveMessage for MessageAttributeNames All; another sender's message has none")

// Decode returns the message that was published: ID, Type, ContentType,
// Headers, Payload, and OrderingKey on a FIFO queue. The other fields stay in
// the outbox and are zero. An empty ContentType comes back as
// "application/json", no headers as a nil map.
//
// The message must have been received with MessageAttributeNames "All" and, for
// the ordering key, MessageSystemAttributeNames "MessageGroupId".
func Decode(received types.Message) (outflow.Message, error) {
	values := make(map[string]string, len(received.MessageAttributes))
	for name, a := range received.MessageAttributes {
		if a.StringValue != nil { // Outflow writes no other kind
			values[name] = *a.StringValue
		}
	}
	take := func(name string) string {
		value := values[name]
		delete(values, name)
		return value
	}
	text := take(AttributeMessageID)
	if text == "" {
		return outflow.Message{}, ErrNotOutflow
	}
	id, err := uuid.Parse(text)
	if err != nil {
		return outflow.Message{}, fmt.Errorf("reading %s: %w", AttributeMessageID, err)
	}
	m := outflow.Message{ID: id, Type: take(AttributeType), ContentType: take(AttributeContentType)}
	if m.Payload, err = payloadOf(received, take(AttributeEncoding)); err != nil {
		return outflow.Message{}, fmt.Errorf("decoding message %s: %w", id, err)
	}
	if object := take(AttributeHeaders); object != "" {
		// Into the same map: a header is in one of the two places only.
		if err := json.Unmarshal([]byte(object), &values); err != nil {
			return outflow.Message{}, fmt.Errorf("decoding message %s: reading %s: %w", id, AttributeHeaders, err)
		}
	}
	if len(values) > 0 {
		m.Headers = values
	}
	group := received.Attributes[string(types.MessageSystemAttributeNameMessageGroupId)]
	if group != text { // the message ID stands for "no ordering key"
		m.OrderingKey = group
	}
	return m, nil
}

func payloadOf(received types.Message, encoding string) ([]byte, error) {
	body := aws.ToString(received.Body)
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

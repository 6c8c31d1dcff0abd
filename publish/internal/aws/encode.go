package aws

import (
	"encoding/base64"
	"errors"

	"github.com/google/uuid"

	"github.com/outflowhq/outflow"
)

const (
	// EncodingBase64 is a value of AttributeEncoding: see package awssqs.
	EncodingBase64 = "base64"

	// AttributeDataType is the data type of every attribute; its name counts towards the size
	// of the message.
	AttributeDataType = "String"

	// MaxAttributes is how many attributes a message has at most. SQS takes no more, and SNS
	// discards a message with more on its way to a queue with raw delivery.
	// https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-messages.html
	// https://docs.aws.amazon.com/sns/latest/dg/sns-message-attributes.html
	MaxAttributes = 10
)

// Encoded is a message as SQS and SNS carry it.
type Encoded struct {
	Body       string
	Attributes map[string]string
	// Group and Deduplication are the IDs that a FIFO destination wants; for others both are
	// empty.
	Group, Deduplication string
	// Subject is SNS's; empty for none.
	Subject string
}

// Encode encodes a message for a FIFO destination or another. Its errors are about the message:
// all are permanent.
func (s *Service) Encode(m outflow.Message, fifo bool) (Encoded, error) {
	if m.ID == uuid.Nil {
		return Encoded{}, errors.New("the message has no ID")
	}
	if len(m.Payload) == 0 {
		return Encoded{}, errors.New("the payload is empty; " + s.Name + " wants at least one byte")
	}
	e := Encoded{Body: string(m.Payload)}
	encoding := ""
	if !XMLSafe(e.Body) {
		e.Body, encoding = base64.StdEncoding.EncodeToString(m.Payload), EncodingBase64
	}
	var err error
	if e.Attributes, err = Attributes(m, encoding, MaxAttributes); err != nil {
		return Encoded{}, err
	}
	if fifo {
		// Each message without an ordering key is a group of its own: it waits for no other.
		e.Group, e.Deduplication = m.ID.String(), m.ID.String()
		if m.OrderingKey != "" {
			e.Group = m.OrderingKey
		}
	}
	return e, nil
}

// Size returns the bytes that AWS counts of a message: body and subject, and the name, the type
// and the value of each attribute.
// https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-message-metadata.html
// https://docs.aws.amazon.com/sns/latest/api/API_MessageAttributeValue.html
func (e Encoded) Size() int {
	size := len(e.Body) + len(e.Subject)
	for name, value := range e.Attributes {
		size += len(name) + len(AttributeDataType) + len(value)
	}
	return size
}

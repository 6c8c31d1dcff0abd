package awssqs

import (
	"encoding/base64"
	"errors"

	sdk "github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/google/uuid"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/publish/internal/aws"
)

// encode turns m into the entry of a batch, without the entry's ID, for a FIFO or a standard
// queue. Its errors are about the message: all are permanent.
func encode(m outflow.Message, fifo bool) (types.SendMessageBatchRequestEntry, error) {
	var e types.SendMessageBatchRequestEntry
	if m.ID == uuid.Nil {
		return e, errors.New("the message has no ID")
	}
	if len(m.Payload) == 0 {
		return e, errors.New("the payload is empty; SQS wants at least one byte")
	}
	body, encoding := string(m.Payload), ""
	if !aws.XMLSafe(body) {
		body, encoding = base64.StdEncoding.EncodeToString(m.Payload), EncodingBase64
	}
	values, err := aws.Attributes(m, encoding, maxAttributes)
	if err != nil {
		return e, err
	}
	e.MessageBody = &body
	e.MessageAttributes = make(map[string]types.MessageAttributeValue, len(values))
	for name, value := range values {
		e.MessageAttributes[name] = types.MessageAttributeValue{
			DataType: sdk.String(attributeType), StringValue: &value,
		}
	}
	if fifo {
		id := m.ID.String()
		// Each message without an ordering key is a group of its own: it waits for no other.
		group := id
		if m.OrderingKey != "" {
			group = m.OrderingKey
		}
		e.MessageGroupId, e.MessageDeduplicationId = &group, &id
	}
	return e, nil
}

// sizeOf returns what AWS counts of a message: the body, and the name, the type and the value of
// each attribute.
// https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-message-metadata.html
func sizeOf(e types.SendMessageBatchRequestEntry) int {
	size := len(sdk.ToString(e.MessageBody))
	for name, a := range e.MessageAttributes {
		size += len(name) + len(sdk.ToString(a.DataType)) + len(sdk.ToString(a.StringValue))
	}
	return size
}

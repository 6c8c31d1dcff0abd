package awssqs

import (
	"encoding/json"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"github.com/outflowhq/outflow"
	internal "github.com/outflowhq/outflow/publish/internal/aws"
)

// notification is the body of a message from SNS without raw message delivery.
// https://docs.aws.amazon.com/sns/latest/dg/sns-large-payload-raw-message-delivery.html
type notification struct {
	Type, Message     string
	MessageAttributes map[string]struct{ Type, Value string }
}

// DecodeNotification is Decode for a queue that is subscribed to an SNS topic, with raw message
// delivery or without: then the body is SNS's JSON, in which the message and its attributes are.
// SNS's own fields, Subject among them, are left out; the header "subject" is in Headers.
//
// Receive the message as for Decode, with MessageAttributeNames "All". Where a subscription has
// raw message delivery and the attributes were not asked for, a payload that looks like SNS's
// JSON would be taken for it. Decode never does that.
//
// SNS's signature is not verified: the queue's policy says who may send to it.
func DecodeNotification(received types.Message) (outflow.Message, error) {
	if received.MessageAttributes[AttributeMessageID].StringValue != nil {
		return Decode(received)
	}
	var n notification
	if json.Unmarshal([]byte(aws.ToString(received.Body)), &n) != nil || n.Type != "Notification" {
		return outflow.Message{}, ErrNotOutflow
	}
	inner := types.Message{
		Body: &n.Message, Attributes: received.Attributes,
		MessageAttributes: make(map[string]types.MessageAttributeValue, len(n.MessageAttributes)),
	}
	for name, a := range n.MessageAttributes {
		if a.Type == internal.AttributeDataType { // Outflow writes no other
			inner.MessageAttributes[name] = types.MessageAttributeValue{StringValue: &a.Value}
		}
	}
	return Decode(inner)
}

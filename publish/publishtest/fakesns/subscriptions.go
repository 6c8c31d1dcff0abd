package fakesns

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strings"

	"github.com/outflowhq/outflow/publish/publishtest/fakesqs"
)

// subscription is that of one queue.
type subscription struct {
	arn, queue string
	raw        bool
	filter     map[string][]string // by attribute
}

// Subscribe subscribes a queue to a topic, which must exist, with attributes such as
// RawMessageDelivery and FilterPolicy.
func (s *Server) Subscribe(topicARN, queueARN string, attributes map[string]string) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	t := s.topics[topicARN]
	if t == nil {
		return fmt.Errorf("no topic %s", topicARN)
	}
	if _, err := s.add(t, queueARN, attributes); err != nil {
		return err
	}
	return nil
}

// subscribe takes queues only.
// https://docs.aws.amazon.com/sns/latest/api/API_Subscribe.html
func (s *Server) subscribe(t *topic, in form) (any, *Error) {
	if protocol := in.get("Protocol"); protocol != "sqs" {
		return nil, invalid("Protocol Reason: fakesns has queues only (got %s)", protocol)
	}
	sub, err := s.add(t, in.get("Endpoint"), in.pairs("Attributes"))
	if err != nil {
		return nil, err
	}
	return subscriptionARN{sub.arn}, nil
}

func (s *Server) add(t *topic, queueARN string, attributes map[string]string) (*subscription, *Error) {
	parts := strings.Split(queueARN, ":")
	switch {
	case len(parts) != 6 || parts[2] != "sqs":
		return nil, invalid("SQS endpoint ARN")
	// FIFO queues are for FIFO topics, which also have standard queues.
	// https://docs.aws.amazon.com/sns/latest/dg/fifo-message-delivery.html
	case !t.fifo && strings.HasSuffix(queueARN, ".fifo"):
		return nil, invalid("Endpoint Reason: FIFO SQS Queues can not be subscribed to standard SNS topics")
	}
	sub := &subscription{queue: queueARN}
	for name, value := range attributes {
		if err := sub.set(name, value); err != nil {
			return nil, err
		}
	}
	for _, other := range t.subscriptions {
		if other.queue == queueARN {
			return other, nil
		}
	}
	if t.limit() > defaultLimit && len(t.subscriptions) >= maxLargeSubscriptions {
		return nil, invalid("SubscriptionLimitExceeded")
	}
	s.made++
	sub.arn = fmt.Sprintf("%s:00000000-0000-4000-8000-%012d", t.arn, s.made)
	t.subscriptions = append(t.subscriptions, sub)
	return sub, nil
}

// set is SetSubscriptionAttributes. Of filter policies it knows exact strings.
// https://docs.aws.amazon.com/sns/latest/api/API_SetSubscriptionAttributes.html
func (sub *subscription) set(name, value string) *Error {
	switch name {
	case "RawMessageDelivery":
		sub.raw = value == "true"
	case "FilterPolicy":
		filter := map[string][]string{}
		if err := json.Unmarshal([]byte(value), &filter); err != nil {
			return invalid("FilterPolicy: fakesns knows lists of strings only: %v", err)
		}
		sub.filter = filter
	default:
		return invalid("AttributeName: fakesns has no %s", name)
	}
	return nil
}

func (s *Server) changeSubscription(action string, in form) (any, *Error) {
	for _, t := range s.topics {
		at := slices.IndexFunc(t.subscriptions,
			func(sub *subscription) bool { return sub.arn == in.get("SubscriptionArn") })
		if at < 0 {
			continue
		}
		if action == "Unsubscribe" {
			t.subscriptions = slices.Delete(t.subscriptions, at, at+1)
			return nil, nil
		}
		return nil, t.subscriptions[at].set(in.get("AttributeName"), in.get("AttributeValue"))
	}
	return nil, &Error{Status: http.StatusNotFound, Code: "NotFound", Message: "Subscription does not exist"}
}

func (t *topic) listSubscriptions() subscriptionList {
	var list subscriptionList
	for _, sub := range t.subscriptions {
		list.Subscriptions = append(list.Subscriptions, subscriptionSummary{
			SubscriptionArn: sub.arn, TopicArn: t.arn, Protocol: "sqs", Endpoint: sub.queue, Owner: strings.Split(t.arn,
				":")[4],
		})
	}
	return list
}

// accepts: "a subscription receives only those messages that have attributes that the policy
// accepts". Each attribute of the policy must have one of its strings.
// https://docs.aws.amazon.com/sns/latest/dg/sns-subscription-filter-policies.html
func (sub *subscription) accepts(attributes map[string]fakesqs.Attribute) bool {
	for name, values := range sub.filter {
		a, ok := attributes[name]
		if !ok || a.DataType != "String" || !slices.Contains(values, a.StringValue) {
			return false
		}
	}
	return true
}

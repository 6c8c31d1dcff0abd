package fakesns

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/outflowhq/outflow/publish/publishtest/internal/fake"
)

type topic struct {
	arn           string
	fifo          bool
	attributes    map[string]string
	subscriptions []*subscription
	published     []Entry
	seen          fake.Seen[accepted] // deduplication IDs
	sequence      int
}

// CreateTopic makes a topic with an ARN such as "arn:aws:sns:eu-west-1:000000000000:news" and
// attributes such as MaximumMessageSize. It does nothing where the topic exists.
func (s *Server) CreateTopic(arn string, attributes map[string]string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.create(arn, attributes)
}

// DeleteTopic deletes a topic with its subscriptions.
func (s *Server) DeleteTopic(arn string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.topics, arn)
}

// Published returns the messages that a topic accepted, in order, without those that FIFO
// deduplication dropped.
func (s *Server) Published(arn string) []Entry {
	s.mu.Lock()
	defer s.mu.Unlock()
	if t := s.topics[arn]; t != nil {
		return slices.Clone(t.published)
	}
	return nil
}

func (s *Server) create(arn string, attributes map[string]string) *topic {
	if t := s.topics[arn]; t != nil {
		return t
	}
	if s.topics == nil {
		s.topics = map[string]*topic{}
	}
	t := &topic{arn: arn, fifo: strings.HasSuffix(arn, ".fifo"), attributes: map[string]string{}}
	maps.Copy(t.attributes, attributes)
	s.topics[arn] = t
	return t
}

// createTopic: "This action is idempotent".
// https://docs.aws.amazon.com/sns/latest/api/API_CreateTopic.html
func (s *Server) createTopic(region string, in form) (any, *Error) {
	name, attributes := in.get("Name"), in.pairs("Attributes")
	if len(name) > 256 || !topicName.MatchString(name) {
		return nil, invalid("Topic Name")
	}
	if fifo := attributes["FifoTopic"] == "true"; fifo != strings.HasSuffix(name, ".fifo") {
		return nil, invalid("Attributes Reason: FIFO topic names must end with .fifo, and FifoTopic must be true")
	}
	t := &topic{attributes: map[string]string{}}
	for attribute, value := range attributes {
		if err := t.set(attribute, value); err != nil {
			return nil, err
		}
	}
	arn := strings.Join([]string{"arn", "aws", "sns", region, s.account(), name}, ":")
	return topicARN{s.create(arn, t.attributes).arn}, nil
}

func (s *Server) listTopics(region string) topicList {
	var list topicList
	for _, arn := range slices.Sorted(maps.Keys(s.topics)) {
		if regionOf(arn) == region {
			list.Topics = append(list.Topics, topicARN{arn})
		}
	}
	return list
}

func regionOf(arn string) string {
	if parts := strings.Split(arn, ":"); len(parts) == 6 {
		return parts[3]
	}
	return ""
}

// find returns the topic of a request. An ARN of another region is an invalid parameter.
// https://docs.aws.amazon.com/sns/latest/api/API_PublishBatch.html#API_PublishBatch_Errors
func (s *Server) find(r Request) (*topic, *Error) {
	if regionOf(r.TopicARN) == "" || regionOf(r.TopicARN) != r.Region {
		return nil, invalid("TopicArn")
	}
	if t := s.topics[r.TopicARN]; t != nil {
		return t, nil
	}
	return nil, &Error{Status: http.StatusNotFound, Code: "NotFound", SenderFault: true,
		Message: "Topic does not exist"}
}

// limit is the most bytes of a message, and of a batch.
func (t *topic) limit() int {
	if n, err := strconv.Atoi(t.attributes["MaximumMessageSize"]); err == nil {
		return n
	}
	return defaultLimit
}

// set is SetTopicAttributes.
// https://docs.aws.amazon.com/sns/latest/api/API_SetTopicAttributes.html
func (t *topic) set(name, value string) *Error {
	if name == "MaximumMessageSize" {
		n, err := strconv.Atoi(value)
		if err != nil || n < minLimit || n > maxLimit ||
			n > defaultLimit && len(t.subscriptions) > maxLargeSubscriptions {
			return invalid("Attributes Reason: MaximumMessageSize")
		}
	}
	t.attributes[name] = value
	return nil
}

func (t *topic) describe() attributeList {
	out := maps.Clone(t.attributes) // MaximumMessageSize is there only where it was set
	out["TopicArn"], out["Owner"] = t.arn, strings.Split(t.arn, ":")[4]
	if t.fifo {
		out["FifoTopic"] = "true"
	}
	out["SubscriptionsConfirmed"] = fmt.Sprint(len(t.subscriptions))
	return attributeList{sortedPairs(out)}
}

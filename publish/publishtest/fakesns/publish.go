package fakesns

import (
	"encoding/base64"
	"encoding/json"
	"fmt"
	"strings"

	"github.com/outflowhq/outflow/publish/publishtest/fakesqs"
)

func (s *Server) publishOne(t *topic, e batchEntry) (any, *Error) {
	if err := checkMessage(e, t.fifo, t.limit()); err != nil {
		return nil, err
	}
	return s.accept(t, e.Entry), nil
}

// publishBatch accepts what it can: "the batch request can result in a combination of successful
// and unsuccessful actions".
// https://docs.aws.amazon.com/sns/latest/api/API_PublishBatch.html
func (s *Server) publishBatch(t *topic, entries []batchEntry, f *Fault) (any, *Error) {
	if err := checkBatch(entries, t.limit()); err != nil {
		return nil, err
	}
	var out batchOutput
	for _, e := range entries {
		err := checkMessage(e, t.fifo, t.limit())
		if refused := f.refuses(e.Entry); refused != nil {
			err = refused
		}
		if err != nil {
			out.Failed = append(out.Failed, failedEntry{e.id, err.Code, err.Message, err.SenderFault})
			continue
		}
		as := s.accept(t, e.Entry)
		if !f.omits(e.Entry) {
			out.Successful = append(out.Successful, successEntry{e.id, as})
		}
	}
	return out, nil
}

// accept stores and delivers a message, unless its deduplication ID came within five minutes: then
// it returns the first message's names.
// https://docs.aws.amazon.com/sns/latest/api/API_PublishBatchRequestEntry.html
func (s *Server) accept(t *topic, e Entry) accepted {
	if first, ok := t.seen.Find(e.MessageDeduplicationId, s.now()); t.fifo && ok {
		return first
	}
	s.made++
	as := accepted{MessageId: fmt.Sprintf("00000000-0000-4000-8000-%012d", s.made)}
	if t.fifo {
		t.sequence++
		as.SequenceNumber = fmt.Sprintf("1%019d", t.sequence)
		t.seen.Add(e.MessageDeduplicationId, s.now(), as)
	}
	note(s, &t.published, e)
	for _, sub := range t.subscriptions {
		if s.Queues == nil || !sub.accepts(e.MessageAttributes) {
			continue
		}
		if err := s.Queues.Deliver(sub.queue, s.delivery(t, sub, e, as)); err != nil {
			note(s, &s.discarded, Discarded{QueueARN: sub.queue, Err: err})
		}
	}
	return as
}

// delivery is a message as a queue gets it: as it is with raw message delivery, else in JSON. Its
// group goes to FIFO queues from FIFO topics, and to standard queues from standard topics.
// https://docs.aws.amazon.com/sns/latest/dg/sns-large-payload-raw-message-delivery.html
// https://docs.aws.amazon.com/sns/latest/dg/fifo-message-grouping.html
func (s *Server) delivery(t *topic, sub *subscription, e Entry, as accepted) fakesqs.Entry {
	out := fakesqs.Entry{MessageBody: e.Message, MessageAttributes: e.MessageAttributes}
	if t.fifo == strings.HasSuffix(sub.queue, ".fifo") {
		out.MessageGroupId, out.MessageDeduplicationId = e.MessageGroupId, e.MessageDeduplicationId
	}
	if sub.raw {
		return out
	}
	type attribute struct{ Type, Value string }
	notification := struct {
		Type, MessageId                                                                 string
		SequenceNumber                                                                  string `json:",omitempty"`
		TopicArn                                                                        string
		Subject                                                                         string `json:",omitempty"`
		Message, Timestamp, SignatureVersion, Signature, SigningCertURL, UnsubscribeURL string

		MessageAttributes map[string]attribute `json:",omitempty"`
	}{
		Type: "Notification", MessageId: as.MessageId, SequenceNumber: as.SequenceNumber, TopicArn: t.arn,
		Subject: e.Subject, Message: e.Message, Timestamp: s.now().UTC().Format("2006-01-02T15:04:05.000Z"),
		SignatureVersion: "1", Signature: "c2lnbmF0dXJl", SigningCertURL: "https://sns.invalid/certificate.pem",
		UnsubscribeURL:    "https://sns.invalid/?Action=Unsubscribe&SubscriptionArn=" + sub.arn,
		MessageAttributes: map[string]attribute{},
	}
	for name, a := range e.MessageAttributes {
		value := a.StringValue
		if a.DataType == "Binary" {
			value = base64.StdEncoding.EncodeToString(a.BinaryValue)
		}
		notification.MessageAttributes[name] = attribute{a.DataType, value}
	}
	body, err := json.Marshal(notification)
	if err != nil {
		panic(fmt.Sprintf("encoding texts: %v", err))
	}
	out.MessageBody, out.MessageAttributes = string(body), nil
	return out
}

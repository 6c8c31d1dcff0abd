package fakesqs

import (
	"context"
	"crypto/md5"
	"encoding/hex"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"
)

type stored struct {
	Entry
	accepted
	visible  time.Time
	receipt  string
	received int
}

// accepted has SQS's names of a message that it accepted.
type accepted struct {
	MessageId        string
	MD5OfMessageBody string
	SequenceNumber   string `json:",omitempty"`
}

type successEntry struct {
	Id string
	accepted
}

type failedEntry struct {
	Id          string
	SenderFault bool
	Code        string
	Message     string
}

type batchOutput struct {
	Successful []successEntry `json:",omitempty"`
	Failed     []failedEntry  `json:",omitempty"`
}

// acceptedMessage is a message that SQS accepted.
type acceptedMessage struct {
	Entry
	deduplicated bool
}

func md5Of(s string) string {
	sum := md5.Sum([]byte(s))
	return hex.EncodeToString(sum[:])
}

// put stores a message, unless its deduplication ID came within five minutes: then it returns the
// first message's names. A queue that drops messages gives it an ID and stores none.
func (q *queue) put(e Entry, now time.Time) (_ accepted, deduplicated bool) {
	if first, ok := q.seen.Find(e.MessageDeduplicationId, now); q.fifo && ok {
		return first, true
	}
	q.sent++
	as := accepted{MessageId: fmt.Sprintf("00000000-0000-4000-8000-%012d", q.sent),
		MD5OfMessageBody: md5Of(e.MessageBody)}
	if q.fifo {
		as.SequenceNumber = fmt.Sprintf("%020d", q.sent)
		q.seen.Add(e.MessageDeduplicationId, now, as)
	}
	if q.drops {
		return as, false
	}
	q.messages = append(q.messages, &stored{Entry: e, accepted: as})
	close(q.arrived)
	q.arrived = make(chan struct{})
	return as, false
}

func (q *queue) sendOne(e sendEntry, now time.Time) (any, []acceptedMessage, *Error) {
	if err := checkMessage(e.Entry, q.fifo, q.number("MaximumMessageSize")); err != nil {
		return nil, nil, err
	}
	as, deduplicated := q.put(e.Entry, now)
	return as, []acceptedMessage{{e.Entry, deduplicated}}, nil
}

// sendBatch accepts what it can: "the batch request can result in a combination
// of successful and unsuccessful actions".
// https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_SendMessageBatch.html
func (q *queue) sendBatch(entries []sendEntry, now time.Time, f *Fault) (any, []acceptedMessage, *Error) {
	if err := checkBatch(entries); err != nil {
		return nil, nil, err
	}
	var out batchOutput
	var all []acceptedMessage
	for _, e := range entries {
		err := checkMessage(e.Entry, q.fifo, q.number("MaximumMessageSize"))
		if refused := f.refuses(e.Entry); refused != nil {
			err = refused
		}
		if err != nil {
			out.Failed = append(out.Failed,
				failedEntry{Id: e.Id, SenderFault: err.SenderFault, Code: err.Code, Message: err.Message})
			continue
		}
		as, deduplicated := q.put(e.Entry, now)
		all = append(all, acceptedMessage{e.Entry, deduplicated})
		if f.corrupts(e.Entry) {
			as.MD5OfMessageBody = md5Of("something else")
		}
		if !f.omits(e.Entry) {
			out.Successful = append(out.Successful, successEntry{Id: e.Id, accepted: as})
		}
	}
	return out, all, nil
}

type receivedMessage struct {
	MessageId         string
	ReceiptHandle     string
	Body              string
	MD5OfBody         string
	Attributes        map[string]string    `json:",omitempty"`
	MessageAttributes map[string]Attribute `json:",omitempty"`
}

// receive answers at once where there are messages, else waits up to
// WaitTimeSeconds, 20 at most. A message is invisible for the visibility
// timeout afterwards.
// https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_ReceiveMessage.html
func (s *Server) receive(ctx context.Context, in input) (any, *Error) {
	wait := time.NewTimer(time.Duration(min(in.WaitTimeSeconds, 20)) * time.Second)
	defer wait.Stop()
	for last := false; ; {
		s.mu.Lock()
		q, err := s.byURL(in.QueueUrl)
		if err != nil {
			s.mu.Unlock()
			return nil, err
		}
		found, arrived := q.take(in, s.now()), q.arrived
		s.mu.Unlock()
		if len(found) > 0 || last || in.WaitTimeSeconds == 0 {
			return map[string]any{"Messages": found}, nil
		}
		select {
		case <-arrived:
		case <-wait.C:
			last = true
		case <-ctx.Done():
			last = true
		}
	}
}

func (q *queue) take(in input, now time.Time) []receivedMessage {
	hidden := q.number("VisibilityTimeout")
	if in.VisibilityTimeout != nil {
		hidden = *in.VisibilityTimeout
	}
	found, busy := []receivedMessage{}, map[string]bool{}
	for _, m := range q.messages {
		if len(found) >= min(max(in.MaxNumberOfMessages, 1), maxEntries) {
			break
		}
		// A FIFO group with a message in flight gives no other one.
		if q.fifo && busy[m.MessageGroupId] {
			continue
		}
		if now.Before(m.visible) {
			busy[m.MessageGroupId] = true
			continue
		}
		m.received++
		m.visible = now.Add(time.Duration(hidden) * time.Second)
		m.receipt = m.MessageId + "/" + strconv.Itoa(m.received)
		found = append(found, m.show(in))
	}
	return found
}

func (m *stored) show(in input) receivedMessage {
	out := receivedMessage{
		MessageId: m.MessageId, ReceiptHandle: m.receipt, Body: m.MessageBody, MD5OfBody: m.MD5OfMessageBody,
		Attributes: map[string]string{}, MessageAttributes: map[string]Attribute{},
	}
	system := slices.Concat(in.AttributeNames, in.MessageSystemAttributeNames)
	for name, value := range map[string]string{
		"MessageGroupId": m.MessageGroupId, "MessageDeduplicationId": m.MessageDeduplicationId,
		"SequenceNumber": m.SequenceNumber, "ApproximateReceiveCount": strconv.Itoa(m.received),
	} {
		if value != "" && wants(system, name) {
			out.Attributes[name] = value
		}
	}
	for name, a := range m.MessageAttributes {
		if wants(in.MessageAttributeNames, name) {
			out.MessageAttributes[name] = a
		}
	}
	return out
}

// delete removes a message by its receipt, also by an older receipt of a standard queue. A message
// that was removed before is no error.
// https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_DeleteMessage.html
func (q *queue) delete(receipt string) *Error {
	id, _, ok := strings.Cut(receipt, "/")
	if !ok {
		return &Error{Code: "ReceiptHandleIsInvalid", SenderFault: true,
			Message: "The specified receipt handle isn't valid."}
	}
	q.messages = slices.DeleteFunc(q.messages, func(m *stored) bool { return m.MessageId == id })
	return nil
}

func (q *queue) deleteBatch(entries []sendEntry) any {
	var out batchOutput
	for _, e := range entries {
		if err := q.delete(e.ReceiptHandle); err != nil {
			out.Failed = append(out.Failed,
				failedEntry{Id: e.Id, SenderFault: true, Code: err.Code, Message: err.Message})
			continue
		}
		out.Successful = append(out.Successful, successEntry{Id: e.Id})
	}
	return out
}

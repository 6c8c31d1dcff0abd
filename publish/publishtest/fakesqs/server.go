// Package fakesqs is a small SQS in memory, as an http.Handler that speaks AWS's
// JSON protocol, so that tests use a real *sqs.Client.
//
// The invariant: it accepts nothing that AWS's pages say SQS refuses; each rule
// cites its page. It also fails on demand (Fault), remembers every request unless
// it Forgets, and takes its time for FIFO deduplication and visibility from a clock
// that tests may set. It knows no signatures, policies, delays, dead-letter queues or
// limits of rate, and keeps everything in memory.
package fakesqs

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"
	"unicode/utf8"

	"github.com/outflowhq/outflow/publish/publishtest/internal/fake"
)

// DefaultAccount is the account of queues that are named without one.
const DefaultAccount = "000000000000"

// Server is the fake. The zero value is ready; it is safe for concurrent use.
// Set its fields before the first request.
type Server struct {
	// Now is the clock; time.Now by default.
	Now func() time.Time
	// URLBase is the first part of queue URLs, such as "http://other.invalid";
	// by default the host of the request. Requests are matched by path alone.
	URLBase string
	// AutoCreate creates each queue that a request names.
	AutoCreate bool
	// Forgets has the Server remember nothing of what it answered: Requests and Acceptances stay
	// empty. It is for a Server that runs for long.
	Forgets bool
	// Drops has the Server store no message that it accepts: none can be received.
	Drops bool

	mu          sync.Mutex
	queues      map[string]*queue // by account/name
	faults      fake.Faults[Fault]
	requests    []Request
	acceptances []*Acceptance
	made        int // queues created so far
}

// Request is what the Server remembers of a request.
type Request struct {
	Action string // such as "SendMessageBatch"
	// Queue and Account are what the request named or its queue URL says.
	Queue, Account string
	// Region and Caller, an access key ID, are those of the request's signature.
	Region, Caller string
	// Host is where the request was sent to.
	Host string
	// Entries are those of a SendMessage or SendMessageBatch.
	Entries []Entry
}

// Error is an error answer of SQS.
type Error struct {
	// Status is the HTTP status; 400 by default.
	Status int
	// Code is the shape's name, such as "QueueDoesNotExist".
	Code string
	// QueryCode is the older spelling, which SQS sends in a header beside it.
	QueryCode string
	// SenderFault is part of a batch's entry.
	SenderFault bool
	Message     string
	// RetryAfter, if set, is sent as the header of that name.
	RetryAfter string
}

func (e *Error) Error() string { return e.Code + ": " + e.Message }

// ServeHTTP answers one request of AWS's JSON protocol 1.0.
// https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-making-api-requests-json.html
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, 16<<20))
	if err != nil {
		return // the client is gone
	}
	_, action, _ := strings.Cut(r.Header.Get("X-Amz-Target"), "AmazonSQS.")
	var in input
	// Go's JSON would replace invalid bytes silently.
	if err := json.Unmarshal(body, &in); err != nil || !utf8.Valid(body) {
		writeError(w, &Error{Code: "SerializationException",
			Message: fmt.Sprintf("the body is not JSON in UTF-8: %v", err)})
		return
	}
	req := Request{Action: action, Host: r.Host}
	req.Caller, req.Region = fake.Signer(r)
	req.Account, req.Queue = in.names()
	for _, e := range in.entries(action) {
		req.Entries = append(req.Entries, e.Entry)
	}
	received := s.now()
	f := s.faultFor(req)
	if !f.before(w, r) {
		return
	}
	var noted []*Acceptance
	out, failed := s.act(r, action, in, f, func(all []acceptedMessage) { noted = s.accept(req, received, all) })
	cut := f != nil && f.CutAfter
	s.answered(noted, cut)
	if cut {
		panic(http.ErrAbortHandler) // the answer is lost
	}
	if failed != nil {
		writeError(w, failed)
		return
	}
	w.Header().Set("Content-Type", "application/x-amz-json-1.0")
	_ = json.NewEncoder(w).Encode(out)
}

// act carries out the request. It calls accept, under the lock, with the messages that are
// accepted.
func (s *Server) act(r *http.Request, action string, in input, f *Fault, accept func([]acceptedMessage)) (any, *Error) {
	switch action {
	case "CreateQueue":
		return s.createQueue(r, in)
	case "DeleteQueue":
		return s.deleteQueue(in)
	case "GetQueueUrl":
		return s.getQueueURL(r, in)
	case "ListQueues":
		return s.listQueues(r, in)
	case "ReceiveMessage":
		return s.receive(r.Context(), in)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	q, err := s.byURL(in.QueueUrl)
	if err != nil {
		return nil, err
	}
	switch action {
	case "GetQueueAttributes":
		return q.describe(), nil
	case "PurgeQueue":
		q.messages = nil
		return struct{}{}, nil
	case "SendMessage":
		out, all, err := q.sendOne(in.single(), s.now())
		accept(all)
		return out, err
	case "SendMessageBatch":
		out, all, err := q.sendBatch(in.Entries, s.now(), f)
		accept(all)
		return out, err
	case "DeleteMessage":
		return struct{}{}, q.delete(in.ReceiptHandle)
	case "DeleteMessageBatch":
		return q.deleteBatch(in.Entries), nil
	}
	return nil, &Error{Code: "UnsupportedOperation", QueryCode: "AWS.SimpleQueueService.UnsupportedOperation",
		Message: fmt.Sprintf("fakesqs has no %q", action)}
}

func (s *Server) now() time.Time {
	if s.Now != nil {
		return s.Now()
	}
	return time.Now()
}

// Requests returns the requests so far; with actions, only those.
func (s *Server) Requests(actions ...string) []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	var found []Request
	for _, r := range s.requests {
		if len(actions) == 0 {
			found = append(found, r)
		}
		for _, action := range actions {
			if r.Action == action {
				found = append(found, r)
			}
		}
	}
	return found
}

func writeError(w http.ResponseWriter, e *Error) {
	w.Header().Set("Content-Type", "application/x-amz-json-1.0")
	status, fault := e.Status, "Sender"
	if status == 0 {
		status = http.StatusBadRequest
	}
	if status >= 500 {
		fault = "Receiver"
	}
	if e.QueryCode != "" {
		w.Header().Set("X-Amzn-Query-Error", e.QueryCode+";"+fault)
	}
	if e.RetryAfter != "" {
		w.Header().Set("Retry-After", e.RetryAfter)
	}
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(map[string]string{"__type": "com.amazonaws.sqs#" + e.Code, "message": e.Message})
}

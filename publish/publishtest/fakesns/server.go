// Package fakesns is a small SNS in memory, as an http.Handler that speaks AWS's query protocol, so
// that tests use a real *sns.Client. It also answers the one question to STS that a publisher asks:
// whose account its credentials are of.
//
// The invariant: it accepts nothing that AWS's pages say SNS refuses; each rule cites its page. It
// delivers to SQS queues before it answers, so that whoever has the answer finds the message. It
// also fails on demand (Fault), remembers every request unless it Forgets, and takes its time for
// FIFO deduplication from a clock that tests may set. It knows no signatures, policies, delivery
// retries, other subscribers than queues, or limits of rate, and keeps everything in memory.
package fakesns

import (
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/outflowhq/outflow/publish/publishtest/fakesqs"
	"github.com/outflowhq/outflow/publish/publishtest/internal/fake"
)

// Queues are where subscriptions lead to; *fakesqs.Server is one.
type Queues interface {
	// Deliver puts a message into the queue that has an ARN. It returns why it can't.
	Deliver(queueARN string, e fakesqs.Entry) error
}

var _ Queues = (*fakesqs.Server)(nil)

// Server is the fake. The zero value is ready; it is safe for concurrent use. Set its fields
// before the first request.
type Server struct {
	// Now is the clock; time.Now by default.
	Now func() time.Time
	// Queues are the subscribed queues; without them nothing is delivered.
	Queues Queues
	// Account is that of every caller; fakesqs.DefaultAccount by default.
	Account string
	// Region is that of requests without a signature; others name theirs.
	Region string
	// Forgets has the Server remember nothing of what it answered: Requests, Published and Discarded
	// stay empty. It is for a Server that runs for long.
	Forgets bool

	mu        sync.Mutex
	topics    map[string]*topic // by ARN
	faults    fake.Faults[Fault]
	requests  []Request
	discarded []Discarded
	made      int // messages and subscriptions so far
}

// Request is what the Server remembers of a request.
type Request struct {
	Action string // such as "PublishBatch"
	// TopicARN is the topic that it names.
	TopicARN string
	// Region and Caller, an access key ID, are those of the request's signature.
	Region, Caller string
	// Entries are those of a Publish or PublishBatch.
	Entries []Entry
}

// Discarded is a message that was not delivered to a queue of a subscription, and why.
type Discarded struct {
	QueueARN string
	Err      error
}

// ServeHTTP answers one request of AWS's query protocol.
// https://smithy.io/2.0/aws/protocols/aws-query-protocol.html
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	body, err := io.ReadAll(io.LimitReader(r.Body, 16<<20))
	if err != nil {
		return // the client is gone
	}
	parsed, err := url.ParseQuery(string(body))
	in := form(parsed)
	if err != nil {
		writeError(w, &Error{Code: "MalformedQueryString", Message: "The query string is malformed."})
		return
	}
	req := Request{Action: in.get("Action"), TopicARN: in.get("TopicArn")}
	if req.Caller, req.Region = fake.Signer(r); req.Region == "" {
		req.Region = s.Region
	}
	for _, e := range in.entries(req.Action) {
		req.Entries = append(req.Entries, e.Entry)
	}
	f := s.faultFor(req)
	if !f.before(w, r) {
		return
	}
	s.mu.Lock()
	out, failed := s.act(req, in, f)
	s.mu.Unlock()
	switch {
	case f != nil && f.CutAfter:
		panic(http.ErrAbortHandler) // the answer is lost
	case failed != nil:
		writeError(w, failed)
	default:
		writeAnswer(w, req.Action, out)
	}
}

// act carries out the request, under the lock.
func (s *Server) act(req Request, in form, f *Fault) (any, *Error) {
	switch req.Action {
	case "GetCallerIdentity":
		return callerIdentity{Account: s.account(), Arn: "arn:aws:iam::" + s.account() + ":root"}, nil
	case "CreateTopic":
		return s.createTopic(req.Region, in)
	case "ListTopics":
		return s.listTopics(req.Region), nil
	case "DeleteTopic": // idempotent: https://docs.aws.amazon.com/sns/latest/api/API_DeleteTopic.html
		delete(s.topics, req.TopicARN)
		return nil, nil
	case "Unsubscribe", "SetSubscriptionAttributes":
		return s.changeSubscription(req.Action, in)
	}
	t, err := s.find(req)
	if err != nil {
		return nil, err
	}
	switch req.Action {
	case "GetTopicAttributes":
		return t.describe(), nil
	case "SetTopicAttributes":
		return nil, t.set(in.get("AttributeName"), in.get("AttributeValue"))
	case "Subscribe":
		return s.subscribe(t, in)
	case "ListSubscriptionsByTopic":
		return t.listSubscriptions(), nil
	case "Publish":
		return s.publishOne(t, in.entries(req.Action)[0])
	case "PublishBatch":
		return s.publishBatch(t, in.entries(req.Action), f)
	}
	return nil, &Error{Code: "InvalidAction", Message: fmt.Sprintf("fakesns has no %q", req.Action)}
}

func (s *Server) now() time.Time {
	if s.Now != nil {
		return s.Now()
	}
	return time.Now()
}

func (s *Server) account() string {
	if s.Account != "" {
		return s.Account
	}
	return fakesqs.DefaultAccount
}

// Requests returns the requests so far; with actions, only those.
func (s *Server) Requests(actions ...string) (found []Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, r := range s.requests {
		if len(actions) == 0 || slices.Contains(actions, r.Action) {
			found = append(found, r)
		}
	}
	return found
}

// note remembers something, under the lock.
func note[T any](s *Server, all *[]T, one T) {
	if !s.Forgets {
		*all = append(*all, one)
	}
}

// Discarded returns what could not be delivered to a queue so far.
func (s *Server) Discarded() []Discarded {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.discarded)
}

package fakesqs

import (
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/outflowhq/outflow/publish/publishtest/internal/fake"
)

type queue struct {
	key        string // account/name
	path       string // of its URL
	fifo       bool
	attributes map[string]string
	drops      bool // it stores no message
	messages   []*stored
	seen       fake.Seen[accepted] // deduplication IDs
	arrived    chan struct{}       // closed and replaced when a message arrives
	sent       int
}

// CreateQueue makes a queue with attributes such as MaximumMessageSize, and
// does nothing where it exists. account "" means DefaultAccount.
func (s *Server) CreateQueue(account, name string, attributes map[string]string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.create(account, name, attributes)
}

// Recreate deletes a queue with its messages and makes it again under another
// URL. The old URL does not exist from then on.
func (s *Server) Recreate(account, name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	key := keyOf(account, name)
	old := s.queues[key]
	delete(s.queues, key)
	q := s.create(account, name, nil)
	q.path = fmt.Sprintf("recreated-%d/%s", s.made, key)
	if old != nil {
		q.attributes = old.attributes
	}
}

// DeleteQueue deletes a queue with its messages.
func (s *Server) DeleteQueue(account, name string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.queues, keyOf(account, name))
}

func keyOf(account, name string) string {
	if account == "" {
		account = DefaultAccount
	}
	return account + "/" + name
}

func (s *Server) create(account, name string, attributes map[string]string) *queue {
	key := keyOf(account, name)
	if q := s.queues[key]; q != nil {
		return q
	}
	if s.queues == nil {
		s.queues = map[string]*queue{}
	}
	s.made++
	q := &queue{
		key: key, path: key, fifo: strings.HasSuffix(name, ".fifo"),
		// https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_CreateQueue.html
		attributes: map[string]string{"MaximumMessageSize": strconv.Itoa(maxBytes), "VisibilityTimeout": "30"},
		arrived:    make(chan struct{}), drops: s.Drops,
	}
	maps.Copy(q.attributes, attributes)
	s.queues[key] = q
	return q
}

func (q *queue) number(attribute string) int {
	n, _ := strconv.Atoi(q.attributes[attribute])
	return n
}

// errMissing is sent with both spellings, as SQS does.
// https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/API_GetQueueUrl.html#API_GetQueueUrl_Errors
func errMissing() *Error {
	return &Error{Code: "QueueDoesNotExist", QueryCode: "AWS.SimpleQueueService.NonExistentQueue",
		SenderFault: true, Message: "The specified queue does not exist."}
}

func (s *Server) byURL(queueURL string) (*queue, *Error) {
	path := pathOf(queueURL)
	for _, q := range s.queues {
		if q.path == path {
			return q, nil
		}
	}
	if account, name, ok := strings.Cut(path, "/"); ok && s.AutoCreate && !strings.Contains(name, "/") {
		return s.create(account, name, nil), nil
	}
	return nil, errMissing()
}

type urlOutput struct{ QueueUrl string }

func (s *Server) url(r *http.Request, q *queue) string {
	base := s.URLBase
	if base == "" {
		base = "http://" + r.Host
	}
	return base + "/" + q.path
}

func (s *Server) createQueue(r *http.Request, in input) (any, *Error) {
	if !queueName.MatchString(strings.TrimSuffix(in.QueueName, ".fifo")) {
		return nil, invalid("Can only include alphanumeric characters, hyphens, or underscores. 1 to 80 in length")
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return urlOutput{s.url(r, s.create("", in.QueueName, in.Attributes))}, nil
}

func (s *Server) deleteQueue(in input) (any, *Error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	q, err := s.byURL(in.QueueUrl)
	if err != nil {
		return nil, err
	}
	delete(s.queues, q.key)
	return struct{}{}, nil
}

func (s *Server) getQueueURL(r *http.Request, in input) (any, *Error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	q := s.queues[keyOf(in.QueueOwnerAWSAccountId, in.QueueName)]
	if q == nil && s.AutoCreate {
		q = s.create(in.QueueOwnerAWSAccountId, in.QueueName, nil)
	}
	if q == nil {
		return nil, errMissing()
	}
	return urlOutput{s.url(r, q)}, nil
}

func (s *Server) listQueues(r *http.Request, in input) (any, *Error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	urls := []string{}
	for _, key := range slices.Sorted(maps.Keys(s.queues)) {
		_, name, _ := strings.Cut(key, "/")
		if strings.HasPrefix(name, in.QueueNamePrefix) {
			urls = append(urls, s.url(r, s.queues[key]))
		}
	}
	return map[string]any{"QueueUrls": urls}, nil
}

func (q *queue) describe() any {
	out := maps.Clone(q.attributes)
	out["ApproximateNumberOfMessages"] = strconv.Itoa(len(q.messages))
	if q.fifo {
		out["FifoQueue"] = "true"
	}
	return map[string]any{"Attributes": out}
}

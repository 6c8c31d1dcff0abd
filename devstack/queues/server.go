// Package queues serves SQS in memory, by goaws, with the answers that a current AWS SDK expects,
// and SNS by fakesns, which delivers into those queues.
//
// The invariants: an answer that says "sent" or "deleted" lists every entry that was (goaws's own
// batch answers over JSON name their members wrongly, so a client sees none); and requests at the
// same time are safe (goaws reads its table of queues without a lock).
//
// Of SQS it proves the happy path only: sizes, characters and partial failures are not SQS's, and
// keys are not checked. goaws keeps its queues in package variables: one server a process. Its SNS
// is not used: it has no FIFO topics and no GetTopicAttributes, names a missing topic otherwise,
// and gives a message in JSON the checksum of another text, which a client refuses.
package queues

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/Admiral-Piett/goaws/app/gosqs"
	"github.com/Admiral-Piett/goaws/app/models"
	"github.com/Admiral-Piett/goaws/app/router"
	"github.com/sirupsen/logrus"

	"github.com/outflowhq/outflow/devstack/ports"
)

// Region and Account appear in ARNs and queue URLs.
const (
	Region  = "us-east-1"
	Account = "000000000000"
)

// redeliverEvery is how late a message whose visibility timeout ran out may show again.
const redeliverEvery = 200 * time.Millisecond

// Options says what to start. LogFile is required.
type Options struct {
	Port    int    // 0 for a free one
	LogFile string // gets goaws's errors; never a message's body
}

// Server is a running endpoint.
type Server struct {
	url  string
	http *http.Server
	quit chan bool
	log  *os.File
}

// Start listens at once; there is nothing to wait for.
func Start(o Options) (*Server, error) {
	port, err := ports.Or(o.Port)
	if err != nil {
		return nil, fmt.Errorf("choosing the SQS endpoint's port: %w", err)
	}
	listener, err := net.Listen("tcp", ports.Address(port))
	if err != nil {
		return nil, fmt.Errorf("listening for SQS: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(o.LogFile), 0o755); err != nil {
		return nil, errors.Join(fmt.Errorf("making the folder of goaws's log: %w", err), listener.Close())
	}
	log, err := os.OpenFile(o.LogFile, os.O_CREATE|os.O_APPEND|os.O_WRONLY, 0o644)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("opening goaws's log: %w", err), listener.Close())
	}
	configure(port)
	logrus.SetOutput(log)
	logrus.SetLevel(logrus.ErrorLevel) // at Info goaws writes message bodies
	s := &Server{url: "http://" + ports.Address(port), log: log, quit: make(chan bool),
		http: &http.Server{Handler: newTranslator(router.New()), ReadHeaderTimeout: 10 * time.Second}}
	go gosqs.PeriodicTasks(redeliverEvery, s.quit)
	go func() { _ = s.http.Serve(listener) }() // it ends with Stop, or with the listener, which nobody else closes
	return s, nil
}

func configure(port int) {
	models.CurrentEnvironment = models.Environment{
		Host: ports.Loopback, Port: strconv.Itoa(port), Region: Region, AccountID: Account,
		EnableDuplicates: true, // means: look at deduplication IDs
		// SQS's defaults: 30 s, 1 MiB, four days.
		QueueAttributeDefaults: models.EnvQueueAttributes{VisibilityTimeout: 30, MaximumMessageSize: 1 << 20,
			MessageRetentionPeriod: 4 * 24 * 3600},
	}
}

// URL is the endpoint for both services.
func (s *Server) URL() string { return s.url }

// Create makes a queue. One that exists stays as it is. A name that ends in ".fifo" makes a FIFO
// queue.
func (s *Server) Create(ctx context.Context, name string) error {
	form := url.Values{"Action": {"CreateQueue"}, "Version": {"2012-11-05"}, "QueueName": {name}}
	if strings.HasSuffix(name, ".fifo") {
		form.Set("Attribute.1.Name", "FifoQueue")
		form.Set("Attribute.1.Value", "true")
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, s.url, strings.NewReader(form.Encode()))
	if err != nil {
		return fmt.Errorf("creating queue %s: %w", name, err)
	}
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	answer, err := http.DefaultClient.Do(request)
	if err != nil {
		return fmt.Errorf("creating queue %s: %w", name, err)
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return fmt.Errorf("creating queue %s: %s", name, answer.Status)
	}
	return nil
}

// Stop closes the endpoint; its queues and what lies in them are lost.
func (s *Server) Stop() error {
	err := s.http.Close() // not Shutdown: it would wait for long polls
	close(s.quit)
	logrus.SetOutput(os.Stderr)
	models.ResetResources()
	if err := errors.Join(err, s.log.Close()); err != nil {
		return fmt.Errorf("stopping the SQS endpoint: %w", err)
	}
	return nil
}

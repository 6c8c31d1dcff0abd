package awsbatch

import (
	"context"
	"errors"
	"fmt"
	"sync"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/metrics"
	"github.com/outflowhq/outflow/internal/panics"
	"github.com/outflowhq/outflow/publish"
	"github.com/outflowhq/outflow/publish/internal/aws"
)

// Publisher publishes to the destinations of one service. It is safe for concurrent use, holds no
// goroutine while idle, and needs no closing.
type Publisher struct {
	Service
	Settings
	targets targets
	// record is made at the first send: the program may set up its metrics later.
	record func() *metrics.Recorder
}

// New returns a Publisher of a service.
func New(s Service, opts ...Option) *Publisher {
	p := &Publisher{Service: s, Settings: newSettings(opts)}
	p.record = sync.OnceValue(func() *metrics.Recorder { return metrics.New(p.meters) })
	return p
}

// Publish is publish.Publisher's.
func (p *Publisher) Publish(ctx context.Context, m outflow.Message) (brokerMessageID string, err error) {
	d, err := p.Parse(m.Destination)
	if err != nil {
		return "", err
	}
	e, err := p.encode(d, m)
	if err != nil {
		return "", err
	}
	t := p.acquire(d)
	defer p.targets.release(t)
	requests, callTime := t.durable, publish.CallTime(ctx, p.timeout)
	if callTime < p.timeout {
		requests = t.fastPath
	}
	if e.to, err = t.finder.Find(ctx, callTime, nil); err != nil {
		return "", err
	}
	brokerMessageID, err = requests.Do(ctx, e)
	var classified *outflow.Failure
	if err != nil && !errors.As(err, &classified) {
		// Refused before its batch was sealed, or the shared call died.
		err = outflow.Retryable(fmt.Errorf("%s: %w", sendingTo(d), err))
	}
	return brokerMessageID, err
}

// Parse reads a destination of the service. Its errors are permanent.
func (p *Publisher) Parse(destination string) (outflow.Destination, error) {
	d, err := outflow.ParseDestination(destination)
	if err != nil {
		return d, outflow.Permanent(fmt.Errorf(
			"reading the destination: %w; redirect the message to a valid one", err))
	}
	if d.Scheme != p.Scheme {
		return d, outflow.Permanent(fmt.Errorf("%s: only %s:// is published here; redirect the message",
			sendingTo(d), p.Scheme))
	}
	return d, nil
}

// Check looks a destination up and sends nothing.
func (p *Publisher) Check(ctx context.Context, destination string) error {
	d, err := p.Parse(destination)
	if err != nil {
		return err
	}
	finder := p.Finder
	if p.Checker != nil {
		finder = p.Checker
	}
	_, err = finder(d, p.timeout).Find(ctx, 0, nil)
	return err
}

func sendingTo(d outflow.Destination) string {
	return "sending to " + outflow.DisplayDestination(d.String())
}

// encode encodes a message and measures it. Its errors are permanent.
func (p *Publisher) encode(d outflow.Destination, m outflow.Message) (e entry, err error) {
	defer panics.Catch(func(e *panics.Error) { err = outflow.Permanent(panics.OfPublisher(sendingTo(d), e)) })
	if e.Encoded, err = p.Errors.Encode(m, d.FIFO()); err != nil {
		return e, outflow.Permanent(fmt.Errorf(
			"encoding message %s for %s: %w (%s)", m.ID, d, err, p.Errors.Advice(aws.Content)))
	}
	if p.Amend != nil {
		p.Amend(m, &e.Encoded)
	}
	if e.size = e.Size(); e.size > p.MaxBytes {
		return e, outflow.Permanent(fmt.Errorf("%s: the message has %d bytes with its attributes and encoding, "+
			"and %s takes %d (enqueue a reference to the content instead)",
			sendingTo(d), e.size, p.Errors.Name, p.MaxBytes))
	}
	return e, nil
}

package awssqs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	sdk "github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/panics"
	"github.com/outflowhq/outflow/publish/internal/aws"
)

// address is a queue's URL, as one look-up found it.
type address struct{ url string }

// lookup finds a queue's address and keeps it. Concurrent callers share one request, which has
// its own deadlines and no caller's context: the next callers know a queue whose answer takes
// longer than this one may wait.
type lookup struct {
	calls *caller

	mu       sync.Mutex
	known    *address
	underWay *pending
	failing  bool // the last request that ended got no answer
}

type pending struct {
	done  chan struct{}
	found *address
	err   error
}

// address returns the queue's address. It waits for a look-up under way, but leaves reserve of
// ctx's time for the send. stale is an address that turned out not to exist any more, or nil:
// it is never returned again.
func (l *lookup) address(ctx context.Context, reserve time.Duration, stale *address) (*address, error) {
	l.mu.Lock()
	if l.known != nil && l.known != stale {
		defer l.mu.Unlock()
		return l.known, nil
	}
	l.known = nil
	if !aws.EnoughTime(ctx, reserve) {
		l.mu.Unlock()
		return nil, l.notAttempted(cmp.Or(ctx.Err(), errTooLate))
	}
	p := l.underWay
	if p == nil {
		p = &pending{done: make(chan struct{})}
		l.underWay = p
		go l.run(p)
	}
	failing := l.failing
	l.mu.Unlock()
	inTime := ctx
	if deadline, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		inTime, cancel = context.WithDeadline(ctx, deadline.Add(-reserve))
		defer cancel()
	}
	select {
	case <-p.done:
		return p.found, p.err
	case <-inTime.Done():
	}
	switch {
	case ctx.Err() != nil:
		return nil, l.notAttempted(ctx.Err())
	case failing: // it did not answer the last time, and has not answered now
		return nil, service.Failure(aws.Refusal{
			Doing: l.doing(), Kind: aws.Down, Code: "no answer", Said: "the look-up goes on beside this attempt",
		})
	}
	// A queue whose look-up is slow does not fail: the next attempt knows its address.
	return nil, l.notAttempted(errNotYet)
}

var (
	errTooLate = errors.New("too little time is left")
	errNotYet  = errors.New("the look-up goes on beside this attempt")
)

func (l *lookup) doing() string { return "looking up " + l.calls.destination.String() }

func (l *lookup) notAttempted(why error) error {
	return outflow.Retryable(fmt.Errorf("%s: %w: %w", l.doing(), outflow.ErrNotAttempted, why))
}

func (l *lookup) run(p *pending) {
	defer func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.underWay = nil
		l.failing = p.err != nil && outflow.ClassOf(p.err) == outflow.ClassUnavailable
		if p.err == nil {
			l.known = p.found
		}
		close(p.done)
	}()
	defer panics.Catch(func(e *panics.Error) {
		// No message is part of the request, so it says nothing about any.
		p.err = outflow.Unavailable(panics.OfPublisher(l.doing(), e))
	})
	p.found, p.err = l.request()
}

// request asks SQS for the queue's URL.
func (l *lookup) request() (*address, error) {
	ctx, cancel := context.WithTimeout(context.Background(), l.calls.timeout)
	defer cancel()
	d := l.calls.destination
	if err := missingRegion(l.calls.api, d); err != nil {
		return nil, err
	}
	in := &sqs.GetQueueUrlInput{QueueName: sdk.String(d.Name)}
	if d.Account != "" {
		in.QueueOwnerAWSAccountId = sdk.String(d.Account)
	}
	a := &aws.Attempt{Service: service, Doing: l.doing()}
	out, err := l.calls.api.GetQueueUrl(a.Trace(ctx), in, l.calls.retryFor(l.calls.timeout/2))
	if err != nil {
		_, failure := a.Failure(err)
		return nil, failure
	}
	if sdk.ToString(out.QueueUrl) == "" {
		return nil, outflow.Retryable(fmt.Errorf("%s: the answer has no queue URL (check the endpoint)", l.doing()))
	}
	return &address{url: *out.QueueUrl}, nil
}

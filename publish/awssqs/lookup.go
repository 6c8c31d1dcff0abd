package awssqs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/publish"
)

// address is what a lookup learnt of a queue.
type address struct{ url string }

// lookup finds a queue's address and keeps it. Concurrent callers share one lookup,
// which has its own deadlines and no caller's context: a queue whose answers take
// longer than a caller may wait is known to the next ones.
type lookup struct {
	calls *caller

	mu      sync.Mutex
	known   *address
	under   *pending // the lookup under way
	failing bool     // the last one that ended got no answer
}

type pending struct {
	done  chan struct{}
	found *address
	err   error
}

// address returns the queue's address, and waits for it as long as ctx then has
// leave left. stale is one that turned out not to exist any more, nil at first: it is
// never returned again.
func (l *lookup) address(ctx context.Context, leave time.Duration, stale *address) (*address, error) {
	l.mu.Lock()
	if l.known != nil && l.known != stale {
		defer l.mu.Unlock()
		return l.known, nil
	}
	l.known = nil
	if !enoughTime(ctx, leave) {
		l.mu.Unlock()
		return nil, l.notAttempted(cmp.Or(ctx.Err(), errTooLate))
	}
	p := l.under
	if p == nil {
		p = &pending{done: make(chan struct{})}
		l.under = p
		go l.run(p)
	}
	failing := l.failing
	l.mu.Unlock()
	inTime := ctx
	if deadline, ok := ctx.Deadline(); ok {
		var cancel context.CancelFunc
		inTime, cancel = context.WithDeadline(ctx, deadline.Add(-leave))
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
	case failing: // said nothing the last time, and is silent still
		return nil, failure(l.doing(), down, "no answer", "it is waited for beside this attempt", 0, 0)
	}
	// A queue that is slow to say where it is does not fail: the next attempt knows.
	return nil, l.notAttempted(errNotYet)
}

var (
	errTooLate = errors.New("too little time is left")
	errNotYet  = errors.New("the answer is waited for beside this attempt")
)

func (l *lookup) doing() string { return "looking up " + l.calls.destination.String() }

func (l *lookup) notAttempted(why error) error {
	return outflow.Retryable(fmt.Errorf("%s: %w: %w", l.doing(), outflow.ErrNotAttempted, why))
}

func (l *lookup) run(p *pending) {
	defer func() {
		if v := recover(); v != nil {
			// No message is part of it, so it says nothing of any.
			p.err = outflow.Unavailable(fmt.Errorf("%s: %w", l.doing(), publish.Recovered(v)))
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		l.under = nil
		l.failing = p.err != nil && outflow.ClassOf(p.err) == outflow.ClassUnavailable
		if p.err == nil {
			l.known = p.found
		}
		close(p.done)
	}()
	p.found, p.err = l.ask()
}

// ask asks SQS where the queue is.
func (l *lookup) ask() (*address, error) {
	ctx, cancel := context.WithTimeout(context.Background(), l.calls.timeout)
	defer cancel()
	d := l.calls.destination
	if err := withoutRegion(l.calls.api, d); err != nil {
		return nil, err
	}
	in := &sqs.GetQueueUrlInput{QueueName: aws.String(d.Name)}
	if d.Account != "" {
		in.QueueOwnerAWSAccountId = aws.String(d.Account)
	}
	a := &attempt{doing: l.doing()}
	out, err := l.calls.api.GetQueueUrl(a.trace(ctx), in, l.calls.within(l.calls.timeout/2))
	if err != nil {
		return nil, a.failure(err)
	}
	if aws.ToString(out.QueueUrl) == "" {
		return nil, outflow.Retryable(fmt.Errorf("%s: the answer has no queue URL (check the endpoint)", l.doing()))
	}
	return &address{url: *out.QueueUrl}, nil
}

// caller is what every request for one destination shares.
type caller struct {
	api         API
	destination outflow.Destination
	timeout     time.Duration
}

// least is the time that an attempt to send must have left.
func (c *caller) least() time.Duration { return c.timeout / 5 }

// within is options for a request that is tried again for that long only, however
// long its answer may take.
func (c *caller) within(d time.Duration) func(*sqs.Options) {
	until := time.Now().Add(d)
	return func(o *sqs.Options) {
		c.options(o)
		o.Retryer = &retryer{least: c.least(), until: until}
	}
}

// options sets what Outflow's promises need, whatever client it was given.
func (c *caller) options(o *sqs.Options) {
	o.Retryer = &retryer{least: c.least()}
	// The SDK turns one wrong checksum into an error of the whole batch; it is
	// checked for each entry instead.
	o.DisableMessageChecksumValidation = true
	if c.destination.Region != "" {
		o.Region = c.destination.Region
	}
}

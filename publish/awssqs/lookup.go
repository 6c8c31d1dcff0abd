package awssqs

import (
	"context"
	"fmt"
	"strconv"
	"sync"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/publish"
)

// lookupPatience is how many calls' time a lookup may take beside the attempts that
// ask for it. Two slow answers make one: cut off with the attempt, a process that
// does not know the queue would never get to send anything. An attempt that comes
// when half a call's time has passed begins another, for the first may have hung.
const lookupPatience = 4

// address is what a lookup learnt of a queue.
type address struct {
	url string
	// maxBytes is the queue's own limit of a message, maxBytes where it is not
	// told.
	maxBytes int
}

// lookup finds a queue's address and keeps it. Concurrent callers share one
// lookup, which has its own deadline and no caller's context.
type lookup struct {
	calls *caller

	mu    sync.Mutex
	known *address
	under *pending // the lookup under way
}

type pending struct {
	began time.Time
	done  chan struct{}
	found *address
	err   error
}

// address returns the queue's address. stale is one that turned out not to
// exist any more, nil at first: it is never returned again.
func (l *lookup) address(ctx context.Context, stale *address) (*address, error) {
	l.mu.Lock()
	if l.known != nil && l.known != stale {
		defer l.mu.Unlock()
		return l.known, nil
	}
	l.known = nil
	p, wait := l.under, l.calls.timeout/2 // the send has the other half
	if p == nil || time.Since(p.began) > wait {
		p = &pending{began: time.Now(), done: make(chan struct{})}
		l.under = p
		go l.run(p)
	}
	l.mu.Unlock()
	waiting := time.NewTimer(wait)
	defer waiting.Stop()
	select {
	case <-p.done:
		return p.found, p.err
	case <-waiting.C:
		return nil, failure("looking up "+l.calls.destination.String(), down, "no answer", "it is waited for beside this attempt", 0)
	case <-ctx.Done():
		return nil, outflow.Retryable(fmt.Errorf("looking up %s: %w", l.calls.destination, outflow.ErrNotAttempted))
	}
}

func (l *lookup) run(p *pending) {
	keep := false
	defer func() {
		if v := recover(); v != nil {
			// No message is part of it, so it says nothing of any.
			p.err = outflow.Unavailable(fmt.Errorf("looking up %s: %w", l.calls.destination, publish.Recovered(v)))
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		if l.under == p {
			l.under = nil
		}
		if keep && l.known == nil {
			l.known = p.found
		}
		close(p.done)
	}()
	p.found, keep, p.err = l.ask()
}

// ask asks SQS. keep is false where the size limit could not be read for now,
// so that the next call asks again.
func (l *lookup) ask() (found *address, keep bool, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), lookupPatience*l.calls.timeout)
	defer cancel()
	d := l.calls.destination
	in := &sqs.GetQueueUrlInput{QueueName: aws.String(d.Name)}
	if d.Account != "" {
		in.QueueOwnerAWSAccountId = aws.String(d.Account)
	}
	a := &attempt{doing: "looking up " + d.String()}
	out, err := l.calls.api.GetQueueUrl(a.trace(ctx), in, l.calls.within(l.calls.timeout/2))
	if err != nil {
		return nil, false, a.failure(err)
	}
	if aws.ToString(out.QueueUrl) == "" {
		return nil, false, outflow.Retryable(fmt.Errorf("looking up %s: the answer has no queue URL (check the endpoint)", d))
	}
	found = &address{url: *out.QueueUrl, maxBytes: maxBytes}
	return found, l.askLimit(ctx, found), nil
}

// askLimit reads the queue's own size limit. Not getting it is no reason not to
// send: SQS itself refuses what is too large. known is false where it may be
// had a little later.
func (l *lookup) askLimit(ctx context.Context, found *address) (known bool) {
	out, err := l.calls.api.GetQueueAttributes(ctx, &sqs.GetQueueAttributesInput{
		QueueUrl:       &found.url,
		AttributeNames: []types.QueueAttributeName{types.QueueAttributeNameMaximumMessageSize},
	}, l.calls.within(l.calls.timeout/2))
	if err != nil {
		switch v, _ := verdictOf(err, true); v {
		case throttled, down, unreachable, unanswered, missing:
			return false
		}
		return true
	}
	limit, err := strconv.Atoi(out.Attributes[string(types.QueueAttributeNameMaximumMessageSize)])
	if err == nil && limit > 0 {
		found.maxBytes = min(limit, maxBytes)
	}
	return true
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

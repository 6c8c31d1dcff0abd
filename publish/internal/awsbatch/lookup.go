package awsbatch

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/panics"
	"github.com/outflowhq/outflow/publish"
	"github.com/outflowhq/outflow/publish/internal/aws"
)

// Lookup finds an address by a request and keeps it. Concurrent callers share one request, which
// has its own deadlines and no caller's context: the next callers know an address whose answer
// takes longer than this one may wait.
type Lookup struct {
	// Errors says what the errors of Ask mean.
	Errors *aws.Service
	// Doing is what is being looked up, with the destination.
	Doing string
	// Timeout bounds the request with its retries; they end after half of it.
	Timeout time.Duration
	// Ask makes the request. Its error is that of AWS's client, or classified.
	Ask func(context.Context, *aws.Retryer) (string, error)

	mu       sync.Mutex
	known    *Address
	underWay *pending
	failing  bool // the last request that ended got no answer
}

var _ Finder = (*Lookup)(nil)

type pending struct {
	done  chan struct{}
	found *Address
	err   error
}

// Find is Finder's. It waits for a look-up under way.
func (l *Lookup) Find(ctx context.Context, reserve time.Duration, stale *Address) (*Address, error) {
	l.mu.Lock()
	if l.known != nil && l.known != stale {
		defer l.mu.Unlock()
		return l.known, nil
	}
	if !publish.EnoughTime(ctx, reserve) {
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
		return nil, l.Errors.Failure(aws.Refusal{
			Doing: l.Doing, Kind: aws.Down, Code: "no answer", Said: "the look-up goes on beside this attempt",
		})
	}
	// A destination whose look-up is slow does not fail: the next attempt knows its address.
	return nil, l.notAttempted(errNotYet)
}

var (
	errTooLate = errors.New("too little time is left")
	errNotYet  = errors.New("the look-up goes on beside this attempt")
)

func (l *Lookup) notAttempted(why error) error {
	return outflow.Retryable(fmt.Errorf("%s: %w: %w", l.Doing, outflow.ErrNotAttempted, why))
}

func (l *Lookup) run(p *pending) {
	defer func() {
		l.mu.Lock()
		defer l.mu.Unlock()
		l.underWay = nil
		l.failing = p.err != nil && outflow.ClassOf(p.err) == outflow.ClassUnavailable
		// Other destinations may share a known address that did not work for one: it is known
		// until there is another.
		if p.err == nil || errors.Is(p.err, outflow.ErrNoDestination) {
			l.known = p.found
		}
		close(p.done)
	}()
	defer panics.Catch(func(e *panics.Error) {
		// No message is part of the request, so it says nothing about any.
		p.err = outflow.Unavailable(panics.OfPublisher(l.Doing, e))
	})
	p.found, p.err = l.request()
}

func (l *Lookup) request() (*Address, error) {
	ctx, cancel := context.WithTimeout(context.Background(), l.Timeout)
	defer cancel()
	a := &aws.Attempt{Service: l.Errors, Doing: l.Doing}
	value, err := l.Ask(a.Trace(ctx), &aws.Retryer{
		Service: l.Errors, MinTime: minTime(l.Timeout), Until: time.Now().Add(l.Timeout / 2),
	})
	var classified *outflow.Failure
	switch {
	case errors.As(err, &classified):
		return nil, err
	case err != nil:
		_, failure := a.Failure(err)
		return nil, failure
	}
	return &Address{Value: value}, nil
}

package publish

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/panics"
)

// Router publishes each message with the publisher of its destination's scheme. It is safe for
// concurrent use.
type Router struct {
	publishers map[string]Publisher
	problems   map[string]error // by scheme: why it can't be served
}

// NewRouter returns a Router over publishers, at most one for each scheme. Two for one scheme are
// a mistake of the configuration, which Err reports. The Router uses neither: either choice could
// send messages to a broker that no consumer reads.
func NewRouter(publishers ...Publisher) *Router {
	r := &Router{publishers: map[string]Publisher{}, problems: map[string]error{}}
	for i, p := range publishers {
		if p == nil {
			r.problems[""] = fmt.Errorf("publisher %d is nil: leave it out", i)
			continue
		}
		scheme := p.Scheme()
		if _, exists := r.publishers[scheme]; exists {
			r.problems[scheme] = fmt.Errorf("two publishers for %s://: configure only one", scheme)
		}
		r.publishers[scheme] = p
	}
	return r
}

// Err returns every mistake in NewRouter's arguments, joined, or nil. Check it once at the start
// of a process.
func (r *Router) Err() error {
	var errs []error
	for _, scheme := range slices.Sorted(maps.Keys(r.problems)) {
		errs = append(errs, r.problems[scheme])
	}
	return errors.Join(errs...)
}

// Schemes returns the schemes that the Router publishes to, sorted.
func (r *Router) Schemes() []string {
	var schemes []string
	for scheme := range r.publishers {
		if r.problems[scheme] == nil {
			schemes = append(schemes, scheme)
		}
	}
	slices.Sort(schemes)
	return schemes
}

// Publish hands m to the publisher of its destination's scheme; see Publisher for what that
// promises. The publisher of https gets http, too. Beyond the publisher's own errors:
//
//   - A destination that can't be parsed is a permanent failure.
//   - So is one whose scheme has no publisher. The error wraps outflow.ErrNoPublisher.
//   - A scheme with two publishers is unavailable until the configuration is corrected.
//   - A publisher's panic is a permanent failure that wraps a PanicError.
func (r *Router) Publish(ctx context.Context, m outflow.Message) (brokerMessageID string, err error) {
	p, err := r.find(m.Destination)
	if err != nil {
		return "", err
	}
	defer panics.Catch(func(p *PanicError) {
		err = outflow.Permanent(panics.OfPublisher("publishing to "+outflow.DisplayDestination(m.Destination), p))
	})
	return p.Publish(ctx, m)
}

// find returns the publisher of a destination's scheme.
func (r *Router) find(destination string) (Publisher, error) {
	d, err := outflow.ParseDestination(destination)
	if err != nil {
		return nil, outflow.Permanent(fmt.Errorf(
			"reading the destination: %w; redirect the message to a valid one", err))
	}
	scheme, shown := publisherScheme(d.Scheme), outflow.DisplayDestination(d.String())
	if problem := r.problems[scheme]; problem != nil {
		return nil, outflow.Unavailable(fmt.Errorf("publishing to %s: %w", shown, problem))
	}
	p := r.publishers[scheme]
	if p == nil {
		return nil, outflow.Permanent(r.noPublisher(d.String()))
	}
	return p, nil
}

// noPublisher is the error of a destination whose scheme has no publisher.
func (r *Router) noPublisher(destination string) error {
	scheme, _, _ := strings.Cut(destination, "://")
	return noPublisherError(fmt.Sprintf("publishing to %s: no publisher for %s:// is configured here "+
		"(there is %s); redirect the message, or deliver it with a program of your own that has one",
		outflow.DisplayDestination(destination), publisherScheme(scheme), r.schemeList()))
}

// noPublisherError is the text about a scheme without a publisher.
type noPublisherError string

func (e noPublisherError) Error() string { return string(e) }

// Is has errors.Is find outflow.ErrNoPublisher, whose words the text does not need.
func (noPublisherError) Is(target error) bool { return target == outflow.ErrNoPublisher }

func (r *Router) schemeList() string {
	if schemes := r.Schemes(); len(schemes) > 0 {
		return strings.Join(schemes, ", ")
	}
	return "none"
}

// PublishBatch is BatchPublisher's, with the publisher of the destination's scheme. One that takes no
// batches gets the messages one by one, beside each other. What Publish says of destinations and
// panics holds for each message.
func (r *Router) PublishBatch(ctx context.Context, destination string, messages []outflow.Message) []Result {
	results := make([]Result, len(messages))
	failAll := func(err error) {
		for i := range results {
			results[i] = Result{Err: err}
		}
	}
	p, err := r.find(destination)
	if err != nil {
		failAll(err)
		return results
	}
	batches, ok := p.(BatchPublisher)
	if !ok {
		var publishing sync.WaitGroup
		for i, m := range messages {
			publishing.Go(func() { results[i].BrokerMessageID, results[i].Err = r.Publish(ctx, m) })
		}
		publishing.Wait()
		return results
	}
	// A panic says nothing about any one message: each is sent again alone.
	defer panics.Catch(func(*PanicError) {
		for i, m := range messages {
			results[i].BrokerMessageID, results[i].Err = r.Publish(ctx, m)
		}
	})
	copy(results, batches.PublishBatch(ctx, destination, messages))
	return results
}

package awsbatch

import (
	"context"
	"errors"
	"fmt"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/publish"
)

var errHeldBack = errors.New("an earlier message of its ordering key failed")

// PublishBatch is publish.BatchPublisher's.
func (p *Publisher) PublishBatch(
	ctx context.Context, destination string, messages []outflow.Message,
) []publish.Result {
	results := make([]publish.Result, len(messages))
	d, err := p.Parse(destination)
	if err != nil {
		for i := range results {
			results[i].Err = err
		}
		return results
	}
	t := p.acquire(d)
	defer p.targets.release(t)
	b := batch{publisher: p, target: t, messages: messages, results: results, failed: map[string]bool{}}
	for i, m := range messages {
		e, err := p.encode(d, m)
		if err != nil {
			b.end(i, "", err)
			continue
		}
		if !b.fits(i, e) {
			b.send(ctx)
		}
		b.add(i, e)
	}
	b.send(ctx)
	return results
}

// batch is one PublishBatch under way.
type batch struct {
	publisher *Publisher
	target    *target
	messages  []outflow.Message
	results   []publish.Result

	// The next request: its entries, where each is among the messages, and the bytes of all.
	entries []entry
	places  []int
	bytes   int
	// failed has the keys of which a message failed. Their later messages are not sent, so that
	// they do not overtake it.
	failed map[string]bool
}

// key is the ordering key that a FIFO destination keeps in order, or "".
func (b *batch) key(i int) string {
	if b.target.destination.FIFO() {
		return b.messages[i].OrderingKey
	}
	return ""
}

// fits reports whether a message may share the next request. No request has two messages of a
// key: of those the service can refuse the first and accept the second.
func (b *batch) fits(i int, e entry) bool {
	if len(b.entries) == MaxEntries || b.bytes+e.size > b.publisher.BatchBytes {
		return false
	}
	for _, other := range b.places {
		if key := b.key(i); key != "" && key == b.key(other) {
			return false
		}
	}
	return true
}

func (b *batch) add(i int, e entry) {
	if b.failed[b.key(i)] {
		b.end(i, "", b.notAttempted(errHeldBack))
		return
	}
	b.entries, b.places, b.bytes = append(b.entries, e), append(b.places, i), b.bytes+e.size
}

func (b *batch) end(i int, brokerMessageID string, err error) {
	b.results[i] = publish.Result{BrokerMessageID: brokerMessageID, Err: err}
	if key := b.key(i); err != nil && key != "" {
		b.failed[key] = true
	}
}

func (b *batch) notAttempted(why error) error {
	err := fmt.Errorf("%s: %w", sendingTo(b.target.destination), outflow.ErrNotAttempted)
	if why != nil {
		err = fmt.Errorf("%w: %w", err, why)
	}
	return outflow.Retryable(err)
}

// send makes the next request, if it has entries and ctx leaves it its time. The end of ctx does
// not end a request that has begun.
func (b *batch) send(ctx context.Context) {
	entries, places := b.entries, b.places
	b.entries, b.places, b.bytes = nil, nil, 0
	if len(entries) == 0 {
		return
	}
	failAll := func(err error) {
		for _, i := range places {
			b.end(i, "", err)
		}
	}
	timeout := publish.CallTime(ctx, b.publisher.timeout)
	if !publish.EnoughTime(ctx, timeout) {
		failAll(b.notAttempted(ctx.Err()))
		return
	}
	to, err := b.target.finder.Find(ctx, timeout, nil)
	if err != nil {
		failAll(err)
		return
	}
	for i := range entries {
		entries[i].to = to
	}
	own, cancel := context.WithTimeout(context.WithoutCancel(ctx), timeout)
	defer cancel()
	for at, r := range b.publisher.sender(b.target, timeout).send(own, entries) {
		b.end(places[at], r.Value, r.Err)
	}
}

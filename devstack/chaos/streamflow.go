package main

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	"github.com/outflowhq/outflow/devstack/faults"
	"github.com/outflowhq/outflow/publish/publishtest/fakesqs"
)

// slowBy is how much later a queue takes the requests of a stream that is to leave the machine room:
// 64 requests of ten in this time and the answer's are 2,000 messages a second. A stream at full speed
// takes two cores for itself, and whatever else runs there waits for them.
const slowBy = 240 * time.Millisecond

// flow is what workers send to a queue: its stream.
type flow struct {
	mu      sync.Mutex
	sent    int       // messages, second copies too
	from    string    // who sent last
	last    time.Time // when
	longest time.Duration
}

// slowFlow watches a queue, and has it take each request slowBy later.
func (f *fleet) slowFlow(queue string) *flow {
	w := &flow{}
	f.Queues.Inject(fakesqs.Fault{Queue: queue, Delay: slowBy,
		When: func(r fakesqs.Request) bool { w.note(r); return true }})
	return w
}

func (w *flow) note(r fakesqs.Request) {
	if len(r.Entries) == 0 || !strings.HasPrefix(r.Caller, "worker-") {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	if !w.last.IsZero() {
		w.longest = max(w.longest, now.Sub(w.last))
	}
	w.sent, w.from, w.last = w.sent+len(r.Entries), r.Caller, now
}

func (w *flow) now() (sent int, from string, last time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.sent, w.from, w.last
}

// more waits until n more messages were sent, and returns who sends.
func (w *flow) more(ctx context.Context, n int, within time.Duration) (from string, err error) {
	before, _, _ := w.now()
	waiting, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	for {
		sent, from, last := w.now()
		if sent-before >= n && time.Since(last) < time.Second {
			return from, nil
		}
		if !pause(waiting, 5*time.Millisecond) {
			return "", fmt.Errorf("the stream sent %d messages in %s, of %d: %w", sent-before, within, n, waiting.Err())
		}
	}
}

// longestPause is the longest time so far without a request of the stream.
func (w *flow) longestPause() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.longest
}

// worker is the member of a name.
func (f *fleet) worker(name string) (*faults.Member, error) {
	for _, m := range f.workers {
		if m.Name == name {
			return m, nil
		}
	}
	return nil, fmt.Errorf("no worker is called %q", name)
}

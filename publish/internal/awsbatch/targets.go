package awsbatch

import (
	"container/list"
	"sync"
	"time"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/coalesce"
)

// target is what is kept for one destination: its address, and coalescers with request bounds of
// their own, so that a slow destination delays no other.
type target struct {
	key         string // the canonical destination
	destination outflow.Destination
	finder      Finder
	// A call of the fast path shares no request with a durable attempt: the request's deadline
	// would suit only one of them.
	fastPath, durable *coalesce.Coalescer[entry, string]

	users int // calls that use it
	place *list.Element
}

// targets keeps a bounded number of targets, and drops the least recently used without a user.
// It never drops a target in use, so that one destination never has two; their number is
// bounded by the calls under way.
type targets struct {
	mu     sync.Mutex
	byKey  map[string]*target
	recent list.List // of *target, the most recently acquired first
}

// acquire returns the target of d, which the caller must release.
func (p *Publisher) acquire(d outflow.Destination) *target {
	key := d.String()
	ts := &p.targets
	ts.mu.Lock()
	defer ts.mu.Unlock()
	t := ts.byKey[key]
	if t == nil {
		t = p.newTarget(key, d)
		if ts.byKey == nil {
			ts.byKey = map[string]*target{}
		}
		ts.byKey[key] = t
		t.place = ts.recent.PushFront(t)
		ts.evict(p.maxDestinations)
	}
	ts.recent.MoveToFront(t.place)
	t.users++
	return t
}

func (ts *targets) release(t *target) {
	ts.mu.Lock()
	defer ts.mu.Unlock()
	t.users--
}

// evict drops targets without a user, the least recently used first, until at most limit are
// left. It spares the newest, for which it is called.
func (ts *targets) evict(limit int) {
	for at := ts.recent.Back(); at != ts.recent.Front() && len(ts.byKey) > limit; {
		t := at.Value.(*target)
		at = at.Prev()
		if t.users == 0 {
			ts.recent.Remove(t.place)
			delete(ts.byKey, t.key)
		}
	}
}

func (p *Publisher) newTarget(key string, d outflow.Destination) *target {
	t := &target{key: key, destination: d, finder: p.Finder(d, p.timeout)}
	t.fastPath = p.coalescer(t, min(p.timeout, outflow.FastPathCallTime))
	t.durable = p.coalescer(t, p.timeout)
	return t
}

// coalescer joins messages into requests that take no longer than timeout.
func (p *Publisher) coalescer(t *target, timeout time.Duration) *coalesce.Coalescer[entry, string] {
	return coalesce.New(coalesce.Options[entry]{
		MaxItems: MaxEntries,
		MaxBytes: p.BatchBytes,
		Size:     func(e entry) int { return e.size },
		Linger:   p.linger, LoneAtOnce: !p.alwaysLingers,
		// Under load fuller requests are worth four times the wait.
		BusyLinger: 4 * p.linger,
		MaxCalls:   p.maxRequests,
		Timeout:    timeout,
	}, p.sender(t, timeout).send)
}

// sender makes requests to t that take no longer than timeout.
func (p *Publisher) sender(t *target, timeout time.Duration) *sender {
	return &sender{
		Service: &p.Service, destination: t.destination, finder: t.finder, timeout: timeout,
		cutShort: timeout < p.timeout, record: p.record(),
	}
}

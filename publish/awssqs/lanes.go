package awssqs

import (
	"container/list"
	"sync"
	"time"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/coalesce"
)

// lane is what is kept for one destination: its coalescers with request bounds of
// their own, so that a slow queue delays no other, and its queue's address.
type lane struct {
	key   string // the canonical destination
	queue *lookup
	// Calls of the fast path share no request with those that have more time: its
	// deadline would suit only some of them.
	quick, patient *coalesce.Coalescer[entry, string]
	users          int // Publish calls in it
	place          *list.Element
}

// lanes keeps a bounded number of lanes: the least recently used one without a
// user is dropped. Lanes in use are never dropped, so that one destination never
// has two; their number is bounded by the Publish calls under way.
type lanes struct {
	mu     sync.Mutex
	byKey  map[string]*lane
	recent list.List // of *lane, the most recently acquired first
}

// acquire returns the lane of d, which the caller must release.
func (p *Publisher) acquire(d outflow.Destination) *lane {
	key := d.String()
	l := &p.lanes
	l.mu.Lock()
	defer l.mu.Unlock()
	found := l.byKey[key]
	if found == nil {
		found = p.newLane(key, d)
		if l.byKey == nil {
			l.byKey = map[string]*lane{}
		}
		l.byKey[key] = found
		found.place = l.recent.PushFront(found)
		l.evict(p.maxLanes)
	}
	l.recent.MoveToFront(found.place)
	found.users++
	return found
}

func (l *lanes) release(used *lane) {
	l.mu.Lock()
	defer l.mu.Unlock()
	used.users--
}

// evict drops idle lanes, the oldest first, until at most limit are left. The
// newest, for which it is called, is not looked at.
func (l *lanes) evict(limit int) {
	for at := l.recent.Back(); at != l.recent.Front() && len(l.byKey) > limit; {
		old := at.Value.(*lane)
		at = at.Prev()
		if old.users == 0 {
			l.recent.Remove(old.place)
			delete(l.byKey, old.key)
		}
	}
}

func (p *Publisher) newLane(key string, d outflow.Destination) *lane {
	queue := &lookup{calls: &caller{api: p.api, destination: d, timeout: p.timeout}}
	return &lane{
		key: key, queue: queue,
		quick:   p.batches(d, queue, min(p.timeout, outflow.FastPathCallTime)),
		patient: p.batches(d, queue, p.timeout),
	}
}

// batches joins messages into requests that take no longer than timeout.
func (p *Publisher) batches(d outflow.Destination, queue *lookup, timeout time.Duration) *coalesce.Coalescer[entry, string] {
	s := &sender{caller: caller{api: p.api, destination: d, timeout: timeout}, lookup: queue, record: p.record, quick: timeout < p.timeout}
	return coalesce.New(coalesce.Options[entry]{
		MaxItems: maxEntries,
		MaxBytes: maxBytes,
		Size:     func(e entry) int { return e.size },
		Linger:   p.linger,
		// Under load fuller requests are worth four times the wait.
		BusyLinger: 4 * p.linger,
		MaxCalls:   p.maxRequests,
		Timeout:    timeout,
	}, s.send)
}

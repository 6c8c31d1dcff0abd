package awssqs

import (
	"container/list"
	"sync"
	"time"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/coalesce"
)

// queue is what is kept for one destination: its URL, and coalescers with request bounds of
// their own, so that a slow queue delays no other.
type queue struct {
	key string // the canonical destination
	url *lookup
	// A call of the fast path shares no request with a durable attempt: the request's deadline
	// would suit only one of them.
	fastPath, durable *coalesce.Coalescer[entry, string]

	users int // Publish calls that use it
	place *list.Element
}

// queues keeps a bounded number of queues, and drops the least recently used without a user.
// It never drops a queue in use, so that one destination never has two; their number is
// bounded by the Publish calls under way.
type queues struct {
	mu     sync.Mutex
	byKey  map[string]*queue
	recent list.List // of *queue, the most recently acquired first
}

// acquire returns the queue of d, which the caller must release.
func (p *Publisher) acquire(d outflow.Destination) *queue {
	key := d.String()
	qs := &p.queues
	qs.mu.Lock()
	defer qs.mu.Unlock()
	q := qs.byKey[key]
	if q == nil {
		q = p.newQueue(key, d)
		if qs.byKey == nil {
			qs.byKey = map[string]*queue{}
		}
		qs.byKey[key] = q
		q.place = qs.recent.PushFront(q)
		qs.evict(p.maxQueues)
	}
	qs.recent.MoveToFront(q.place)
	q.users++
	return q
}

func (qs *queues) release(q *queue) {
	qs.mu.Lock()
	defer qs.mu.Unlock()
	q.users--
}

// evict drops queues without a user, the least recently used first, until at most limit are
// left. It spares the newest, for which it is called.
func (qs *queues) evict(limit int) {
	for at := qs.recent.Back(); at != qs.recent.Front() && len(qs.byKey) > limit; {
		q := at.Value.(*queue)
		at = at.Prev()
		if q.users == 0 {
			qs.recent.Remove(q.place)
			delete(qs.byKey, q.key)
		}
	}
}

func (p *Publisher) newQueue(key string, d outflow.Destination) *queue {
	url := &lookup{calls: &caller{api: p.api, destination: d, timeout: p.timeout}}
	return &queue{
		key: key, url: url,
		fastPath: p.coalescer(d, url, min(p.timeout, outflow.FastPathCallTime)),
		durable:  p.coalescer(d, url, p.timeout),
	}
}

// coalescer joins messages into requests that take no longer than timeout.
func (p *Publisher) coalescer(
	d outflow.Destination, url *lookup, timeout time.Duration,
) *coalesce.Coalescer[entry, string] {
	s := &sender{
		caller: caller{api: p.api, destination: d, timeout: timeout},
		lookup: url, record: p.record(), cutShort: timeout < p.timeout,
	}
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

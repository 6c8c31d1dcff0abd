package scanner

import (
	"maps"
	"slices"
	"sync"

	"github.com/outflowhq/outflow/outbox"
)

// newDestinationsShare is the part of the slots that new destinations have together.
const newDestinationsShare = 4

// slots count the messages in flight, and say how many more may be claimed.
type slots struct {
	opts  Options
	freed chan struct{} // a slot came free

	mu              sync.Mutex
	total           int
	byShare         map[string]int // by the names in ClaimedMessage.Shares
	newDestinations int            // messages of new destinations
	bytes           int            // payloads and headers
	bytesByTarget   map[string]int
	starting        int // messages whose start has no answer yet
}

func newSlots(opts Options) *slots {
	return &slots{opts: opts, freed: make(chan struct{}, 1), byShare: map[string]int{}, bytesByTarget: map[string]int{}}
}

// room is what the next claim may take.
type room struct {
	messages, bytes, newDestinations int
	open                             map[string]int
	starting                         int
}

func (s *slots) room() room {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := room{
		messages:        s.opts.InFlight - s.total,
		bytes:           min(s.opts.BytesInFlight-s.bytes, s.opts.ClaimBytes),
		newDestinations: max(s.opts.InFlight/newDestinationsShare, 1) - s.newDestinations,
		open:            maps.Clone(s.byShare),
		starting:        s.starting,
	}
	for target, own := range s.bytesByTarget {
		// A slow target with large payloads leaves room for others: it has at most half of the
		// bytes that they leave, and what one claim adds.
		if own >= (s.opts.BytesInFlight-s.bytes+own)/2 {
			r.open[target] = max(r.open[target], s.opts.PerDestination)
		}
	}
	if r.bytes < 1 {
		r.messages = 0
	}
	if r.newDestinations < 1 {
		r.newDestinations = -1 // none; 0 would be no bound
	}
	return r
}

// take counts a message that is about to be started.
func (s *slots) take(m outbox.ClaimedMessage) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.add(m, 1)
	s.starting++
}

// started notes that a start has its answer.
func (s *slots) started() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.starting--
}

// free gives a message's slot back.
func (s *slots) free(m outbox.ClaimedMessage) {
	s.mu.Lock()
	s.add(m, -1)
	s.mu.Unlock()
	notify(s.freed)
}

// add counts n messages like m; n is 1 or -1. The caller holds the lock.
func (s *slots) add(m outbox.ClaimedMessage, n int) {
	s.total += n
	for _, name := range m.Shares {
		addTo(s.byShare, name, n)
	}
	if m.NewDestination {
		s.newDestinations += n
	}
	s.bytes += n * m.Bytes()
	addTo(s.bytesByTarget, outbox.TargetOf(m.Destination), n*m.Bytes())
}

// addTo forgets names with nothing in flight.
func addTo(counts map[string]int, name string, n int) {
	if counts[name] += n; counts[name] == 0 {
		delete(counts, name)
	}
}

// allBusy reports whether every message is of a target with many messages in flight. Only then
// may the next claim wait for more slots: other targets must not wait for their backlog.
func (s *slots) allBusy(messages []outbox.ClaimedMessage) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !slices.ContainsFunc(messages, func(m outbox.ClaimedMessage) bool {
		return s.byShare[outbox.TargetOf(m.Destination)] < s.opts.PerDestination/2
	})
}

package outboxdb

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/database"
	"github.com/outflowhq/outflow/internal/text"
	"github.com/outflowhq/outflow/outbox"
)

const (
	// failuresLinger is how long failures are summed before they are written:
	// hundreds may fail together.
	failuresLinger = 100 * time.Millisecond
	// noteTries bounds the attempts to write a note.
	noteTries = 3
	// reachedAgain is how often a process says that a destination exists.
	reachedAgain = 24 * time.Hour
	// slowFor is how long a target counts as slow after an answer that was late, and
	// cutShortFor after a call that was cut short, for which this process may be to blame.
	// A process says so once in slowAgain.
	slowFor     = 10 * time.Minute
	cutShortFor = time.Minute
	slowAgain   = time.Minute
	// A late answer weighs lateWeight, and a quick one takes 1 away. A target is slow from
	// slowWeight: three in a row, or more than one in ten of many. One answer in thousands
	// that is late must not take the others off the fast path.
	lateWeight = 10
	slowWeight = 30
	maxWeight  = 100
	// mostKnown bounds what a process remembers of breakers: https destinations can be
	// many. What it forgets it asks or says again.
	mostKnown = 10_000
	// firstWindow is how many messages a process begins with, and windowGrowth how
	// many more each success allows: 20, 100, all.
	firstWindow  = 20
	windowGrowth = 4
	mostGrown    = 100_000
	// newcomersDoubted is how many failures in a row, with no success of any new
	// destination between them, make a process claim at most newcomersAtOnce of their
	// messages, once in newcomersPause: ten thousand hosts that do not exist must
	// not take the engine's time from those that do.
	newcomersDoubted = 10
	newcomersAtOnce  = 2
	newcomersPause   = 250 * time.Millisecond
	// noteSecond: a destination that is a part of a target is noted as reached with its
	// second message. A host with the message's ID in each path would else cost a row each.
	noteSecond = 2
)

// destinations tells the table's breakers how destinations do: one short statement
// where something changed, none while all goes well.
type destinations struct {
	pool *database.Pool

	mu        sync.Mutex
	known     map[string]*known
	newcomers newcomers
	probes    []uuid.UUID // chosen here, for the next claim
	abandoned time.Time   // when to look for breakers with nothing behind them
	problem   error       // of the last note that could not be written
}

// known is what this process knows of one breaker and has not told yet.
type known struct {
	reached   time.Time // when a message last reached it, here or by the table
	noted     time.Time // when that was last written
	successes int       // messages that reached it here, up to noteSecond
	failing   bool      // the table may say that it is failing
	inARow    int       // failures since the last success
	grown     int       // how far its window has opened beyond firstWindow

	weight    int           // of late answers, see lateWeight
	slowUntil time.Time     // as this process noted last
	slowFor   time.Duration // to be told

	succeeded  bool // to be told, and before the failures
	answered   bool // the same, where no message reached it
	failures   int
	lastError  string
	retryAfter time.Duration
	closing    bool // it asked for a wait that is not written yet
	telling    bool // a goroutine is at it
}

// newcomers are the destinations that no message has reached yet, all together.
type newcomers struct {
	inARow int       // failures since the last success
	next   time.Time // when doubted ones may be claimed again
}

func newDestinations(pool *database.Pool) *destinations {
	return &destinations{pool: pool, known: make(map[string]*known)}
}

// The methods below run under the lock, unless they say otherwise.

// whole reports whether a destination is all of its target.
func whole(destination string) bool { return outbox.TargetOf(destination) == destination }

// own is the breaker that hears what a destination itself answers: its own, or as
// long as no message has reached it the one of its target's new destinations.
func (h *destinations) own(destination string) string {
	if whole(destination) || h.proven(destination) {
		return destination
	}
	return newOf(destination)
}

// newOf is the breaker of the new destinations of a destination's target.
func newOf(destination string) string { return outbox.TargetOf(destination) + "#new" }

// newThere reports whether the table may count a destination among its target's new ones:
// a message may have reached it here, and its note is still to come (see noteSecond).
func (h *destinations) newThere(destination string) bool {
	k := h.known[destination]
	return !whole(destination) && (k == nil || k.noted.IsZero())
}

func (h *destinations) proven(destination string) bool {
	k := h.known[destination]
	return k != nil && !k.reached.IsZero()
}

// failing reports whether the table may say of a breaker that it fails.
func (h *destinations) failing(name string) bool {
	k := h.known[name]
	return k != nil && k.failing
}

// names are the breakers that a message of a destination meets by the table, its target's
// last.
func (h *destinations) names(destination string) []string {
	switch {
	case whole(destination):
		return []string{destination}
	case h.newThere(destination):
		return []string{destination, newOf(destination), outbox.TargetOf(destination)}
	default:
		return []string{destination, outbox.TargetOf(destination)}
	}
}

// allNames are those of all marks, once each. It takes the lock.
func (h *destinations) allNames(marks []mark) (all []string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, m := range marks {
		all = append(all, h.names(m.Destination)...)
	}
	slices.Sort(all)
	return slices.Compact(all)
}

// Observe notes how an attempt to publish the message id ended, and returns how many attempts in
// this process have failed since the destination's last success. It costs a statement where the
// breaker changes, and none while all goes well. Statements run in the background.
func (s *Store) Observe(destination string, id uuid.UUID, o outbox.Observation) (consecutiveFailures int) {
	h := s.destinations
	h.mu.Lock()
	defer h.mu.Unlock()
	switch o.Kind() {
	case outbox.Acknowledged:
		h.took(destination, o.Took)
		h.acknowledged(destination)
	case outbox.DestinationFailed:
		return h.destinationFailed(destination, o.Err)
	case outbox.MessageRejected:
		for _, name := range h.names(destination) {
			h.answered(name, 0)
		}
	case outbox.CallCutShort:
		h.cutShort(destination)
	case outbox.Inconclusive:
		h.inconclusive(destination, id)
	}
	return 0
}

// acknowledged notes that a message reached its destination. It closes the breakers.
func (h *destinations) acknowledged(destination string) {
	if !h.proven(destination) {
		h.newcomers.inARow = 0
	}
	for _, name := range h.names(destination) {
		if name != destination {
			h.answered(name, windowGrowth)
		}
	}
	k := h.of(destination)
	k.inARow, k.grown = 0, min(k.grown+windowGrowth, mostGrown)
	k.reached, k.successes = time.Now(), min(k.successes+1, noteSecond)
	news := time.Since(k.noted) >= reachedAgain && (whole(destination) || k.successes == noteSecond)
	if news {
		k.noted, k.succeeded = time.Now(), true
		h.tell(destination, k)
	}
	h.close(destination, k)
}

// took weighs the time that a destination took to acknowledge a message. A target whose answers are
// late is slow: its messages leave the fast path unsent. It stays slow as long as answers take more
// than half of what a call has on the fast path.
func (h *destinations) took(destination string, took time.Duration) {
	target := outbox.TargetOf(destination)
	quick := took < outflow.FastPathCallTime/2
	k := h.known[target]
	switch {
	case quick && k != nil:
		k.weight = max(k.weight-1, 0)
	case took > outflow.FastPathCallTime:
		k = h.of(target)
		k.weight = min(k.weight+lateWeight, maxWeight)
	}
	if !quick && k != nil {
		h.slow(target, k, slowFor)
	}
}

// cutShort weighs a call that was ended after outflow.FastPathCallTime. It is no failure: the answer
// may have been on its way.
func (h *destinations) cutShort(destination string) {
	target := outbox.TargetOf(destination)
	k := h.of(target)
	k.weight = min(k.weight+lateWeight, maxWeight)
	h.slow(target, k, cutShortFor)
}

// inconclusive has another probe chosen where the message was the probe of an open breaker.
func (h *destinations) inconclusive(destination string, id uuid.UUID) {
	names := h.names(destination)
	if slices.ContainsFunc(names, h.failing) {
		go func() { h.wrote(destination, h.write(giveBackProbe, names, id)) }()
	}
}

// destinationFailed counts a failure. What a destination answered itself counts for it alone. A
// failure without an answer counts for its target. Several failures without a success between them
// open a breaker, and so does a wait that the destination asks for.
func (h *destinations) destinationFailed(destination string, err error) (consecutiveFailures int) {
	name, wait := outbox.TargetOf(destination), outflow.RetryAfter(err)
	if own := h.own(destination); outflow.WasAnswered(err) && own != name {
		h.answered(name, 0)
		if own != destination && wait > 0 { // it asks for itself alone
			h.failed(destination, err, wait)
			wait = min(wait, lastOpening)
		}
		name = own
		// Its message may have been the probe of the new ones.
		if own == destination && h.newThere(destination) && h.failing(newOf(destination)) {
			h.failed(newOf(destination), err, min(wait, lastOpening))
		}
	}
	k := h.failed(name, err, wait)
	if h.proven(destination) {
		return k.inARow
	}
	h.newcomers.inARow++
	return max(k.inARow, h.newcomers.inARow)
}

// slow has a target noted as slow, if enough of its answers were late.
func (h *destinations) slow(target string, k *known, length time.Duration) {
	until := time.Now().Add(length)
	if k.weight < slowWeight || until.Sub(k.slowUntil) < slowAgain {
		return
	}
	k.slowUntil, k.slowFor = until, length
	h.tell(target, k)
}

// answered closes a breaker, and lets its window grow by so many.
func (h *destinations) answered(name string, growth int) {
	k := h.of(name)
	k.inARow, k.grown = 0, min(k.grown+growth, mostGrown)
	h.close(name, k)
}

// close has a breaker closed that may be open. A wait that its destination asked for, and
// that is not written yet, is written all the same.
func (h *destinations) close(name string, k *known) {
	if !k.failing && k.failures == 0 {
		return
	}
	k.answered = true
	if k.failing = k.closing; !k.closing {
		k.failures = 0
	}
	h.tell(name, k)
}

// failed counts a failure for a breaker, with the wait that was asked for.
func (h *destinations) failed(name string, err error, wait time.Duration) *known {
	k := h.of(name)
	k.failing = true
	k.failures++
	k.inARow++
	k.grown = 0
	k.lastError = text.Clean(err.Error())
	k.retryAfter = max(k.retryAfter, wait)
	k.closing = k.closing || wait > 0
	h.tell(name, k)
	return k
}

// Known reports whether a message has ever reached a destination, as far as the
// table remembers. It takes the lock.
func (s *Store) Known(ctx context.Context, destination string) (bool, error) {
	s.destinations.mu.Lock()
	here := s.destinations.proven(destination)
	s.destinations.mu.Unlock()
	if here {
		return true, nil
	}
	var reached bool
	if err := s.pool.QueryRow(ctx, reachedBefore, destination).Scan(&reached); err != nil {
		return false, fmt.Errorf("asking whether a message has reached %s: %w", destination, err)
	}
	return reached, nil
}

// window is how many messages of a breaker's destinations this process should have in
// flight: few until it has seen some arrive. A backlog for one that takes nothing then
// costs Temporal a handful of runs, and one for a destination that works has its whole
// allowance after two or three answers. One that asks to be left alone is, before the
// table says so.
func (h *destinations) window(name string) int {
	switch k := h.known[name]; {
	case k == nil:
		return firstWindow
	case k.closing:
		return 0
	default:
		return firstWindow + k.grown
	}
}

// newcomersNow is how many messages of new destinations may be claimed now, of as many
// as there is room for.
func (h *destinations) newcomersNow(room int, now time.Time) int {
	if h.newcomers.inARow <= newcomersDoubted {
		return room
	}
	if now.Before(h.newcomers.next) {
		return 0
	}
	return min(room, newcomersAtOnce)
}

// claimedNewcomers notes that messages of new destinations were claimed. It takes the lock.
func (h *destinations) claimedNewcomers(now time.Time) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.newcomers.next = now.Add(newcomersPause)
}

// see notes what a row said of its destination: that the next success must be told, and
// whether a message has reached it. It takes the lock.
func (h *destinations) see(destination string, failing, proven bool) {
	if !failing && !proven {
		return
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if proven {
		h.prove(destination)
	}
	if failing {
		for _, name := range h.names(destination) {
			h.of(name).failing = true
		}
	}
}

// shares are the breakers that a message of a destination meets, and whether no message
// has reached it yet. It takes the lock.
func (h *destinations) shares(destination string) (names []string, newcomer bool) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.names(destination), !h.proven(destination)
}

// prove notes that the table says of a destination that a message has reached it.
func (h *destinations) prove(destination string) {
	if k := h.of(destination); k.noted.IsZero() {
		k.reached, k.noted = time.Now(), time.Now()
	}
}

// proveAll does so for what a walk found. It takes the lock.
func (h *destinations) proveAll(found []mark) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, m := range found {
		if m.Proven {
			h.prove(m.Destination)
		}
	}
}

// choose keeps the probes that wait for the next claim. It takes the lock.
func (h *destinations) choose(probes []outbox.Probe) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, p := range probes {
		if !p.Running {
			h.probes = append(h.probes, p.ID)
		}
	}
}

// takeChosen returns them, once. It takes the lock.
func (h *destinations) takeChosen() []uuid.UUID {
	h.mu.Lock()
	defer h.mu.Unlock()
	chosen := h.probes
	h.probes = nil
	return chosen
}

// keepChosen keeps probes that could not be claimed. It takes the lock.
func (h *destinations) keepChosen(probes []uuid.UUID) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.probes = append(h.probes, probes...)
}

// looksForAbandoned reports whether it is time to, and notes it. It takes the lock.
func (h *destinations) looksForAbandoned() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	now := time.Now()
	if now.Before(h.abandoned) {
		return false
	}
	h.abandoned = now.Add(abandonedEvery)
	return true
}

// of returns what is known of a breaker.
func (h *destinations) of(name string) *known {
	k := h.known[name]
	if k == nil {
		if len(h.known) >= mostKnown {
			h.forgetSome()
		}
		k = &known{}
		h.known[name] = k
	}
	return k
}

// forgetSome makes room: first of destinations that are a part of their target, of which
// there are many.
func (h *destinations) forgetSome() {
	spare := ""
	for name, k := range h.known {
		if k.telling {
			continue
		}
		if spare = name; !whole(name) {
			break
		}
	}
	delete(h.known, spare)
}

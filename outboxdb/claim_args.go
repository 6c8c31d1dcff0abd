package outboxdb

import (
	"errors"
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/outbox"
)

const (
	// maxClaimDestinations bounds the destinations of one claim: each costs it three or four
	// lookups. Those behind an open breaker, of which a claim takes no more than the probe, are
	// maxOpenInClaim of them at most.
	maxClaimDestinations = 400
	maxOpenInClaim       = 100
)

// claimArgs are the arguments of one claim, by destination.
type claimArgs struct {
	destinations []string
	targets      []string
	marks        []time.Time
	quotas       []int32
	before       []int32 // quotas of the target's destinations that come before
	// elsewhere: only workers publish to the destination, not this process.
	elsewhere []bool
	// refused are destinations with due messages that the caller can't send to; unpublished those
	// that it has no publisher for.
	refused, unpublished map[string]error
}

// refuse notes a destination that the caller can't send to.
func (a *claimArgs) refuse(destination string, err error) {
	into := &a.refused
	if errors.Is(err, outflow.ErrNoPublisher) {
		into = &a.unpublished
	}
	if *into == nil {
		*into = map[string]error{}
	}
	(*into)[destination] = err
}

// claimArgs says which destinations a claim should look at, and how far. The room that a breaker's
// destinations have is shared by those that have their turn, so that none of them takes it all; the
// room of new destinations likewise.
func (w *walk) claimArgs(req outbox.ClaimRequest, b *breakers, now time.Time) claimArgs {
	var a claimArgs
	if req.MaxMessages < 1 || req.MaxBytes < 1 {
		return a
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	t := turns{req: req, breakers: b, open: w.openBreakers,
		room: map[string]int{}, sharers: map[string]int{}, openSharers: map[string]int{},
		newRoom: b.newDestinationsRoom(maxNewDestinations(req), now)}
	for _, m := range w.inTurn(&t) {
		if len(t.list) >= maxClaimDestinations || !t.roomFor(m) {
			continue
		}
		elsewhere, err := w.refusal(req, m)
		if err != nil {
			a.refuse(m.Destination, err)
		}
		if err != nil && !elsewhere {
			continue
		}
		t.add(m)
		a.elsewhere = append(a.elsewhere, elsewhere)
	}
	before := map[string]int32{}
	for _, m := range t.list {
		target, quota := outbox.TargetOf(m.Destination), int32(t.quota(m))
		a.destinations = append(a.destinations, m.Destination)
		a.targets = append(a.targets, target)
		a.marks = append(a.marks, m.At)
		a.quotas = append(a.quotas, quota)
		a.before = append(a.before, before[target])
		before[target] += quota
	}
	return a
}

// inTurn returns the destinations that are worth a claim, in turn. Where there is no room for all
// new ones, these come last and in any order: some may give nothing, such as those of a target that
// has reached its cap, and the same must not be first each time.
func (w *walk) inTurn(t *turns) []*mark {
	var all, others, fresh []*mark
	for i := range w.marks {
		m := &w.marks[i]
		if w.walked && !m.Due && (m.covered || !m.Reached) {
			continue
		}
		all = append(all, m)
		if t.isNew(m) && !t.isOpen(m) {
			fresh = append(fresh, m)
		} else {
			others = append(others, m)
		}
	}
	if len(fresh) <= t.newRoom {
		return all
	}
	rand.Shuffle(len(fresh), func(i, j int) { fresh[i], fresh[j] = fresh[j], fresh[i] })
	return append(others, fresh...)
}

// turns are the destinations of one claim, with the room that their breakers leave and
// how many share it.
type turns struct {
	req      outbox.ClaimRequest
	breakers *breakers
	open     map[string]bool
	list     []*mark
	room     map[string]int // by breaker
	// Listed destinations by breaker: those that share its room, and those behind an open breaker.
	sharers, openSharers map[string]int
	newRoom              int
	listedNew            int
	listedOpen           int
}

func (t *turns) isNew(m *mark) bool { return !m.Reached && !t.breakers.reached(m.Destination) }

// isOpen reports whether a breaker of the destination was open at the last walk. The claim takes no
// more of it than the probe, so it takes no other's room. Where the breaker has closed since, it
// shares the room with others that were open.
func (t *turns) isOpen(m *mark) bool {
	return slices.ContainsFunc(t.breakers.names(m.Destination), func(name string) bool { return t.open[name] })
}

// roomOf is how many messages of a breaker's destinations may be claimed.
func (t *turns) roomOf(name string) int {
	room, ok := t.room[name]
	if !ok {
		allowance := t.req.Allowance
		if t.req.SlowStart {
			allowance = min(allowance, t.breakers.windowOf(name))
		}
		room = allowance - t.req.Open[name]
		t.room[name] = room
	}
	return room
}

// roomFor reports whether a message of the destination may be claimed.
func (t *turns) roomFor(m *mark) bool {
	open := t.isOpen(m)
	for _, name := range t.breakers.names(m.Destination) {
		if t.sharing(open)[name] >= t.roomOf(name) {
			return false
		}
	}
	if open {
		return t.listedOpen < maxOpenInClaim
	}
	return !t.isNew(m) || t.listedNew < t.newRoom
}

// sharing counts by breaker those that share its room.
func (t *turns) sharing(open bool) map[string]int {
	if open {
		return t.openSharers
	}
	return t.sharers
}

func (t *turns) add(m *mark) {
	t.list = append(t.list, m)
	open := t.isOpen(m)
	for _, name := range t.breakers.names(m.Destination) {
		t.sharing(open)[name]++
	}
	switch {
	case open:
		t.listedOpen++
	case t.isNew(m):
		t.listedNew++
	}
}

// quota is how many messages of the destination may be claimed.
func (t *turns) quota(m *mark) int {
	quota, open := t.req.MaxMessages, t.isOpen(m)
	for _, name := range t.breakers.names(m.Destination) {
		quota = min(quota, t.roomOf(name)/t.sharing(open)[name])
	}
	switch {
	case !t.isNew(m):
		return quota
	case open:
		return min(quota, 1)
	default:
		return min(quota, t.newRoom/t.listedNew)
	}
}

// refusal says why the caller can't send to a destination; its messages are parked then, or left to
// others. Where it has no publisher, and none of the others that have one claims messages, it claims
// them for the workers (elsewhere).
func (w *walk) refusal(req outbox.ClaimRequest, m *mark) (elsewhere bool, err error) {
	if req.Refuse == nil {
		return false, nil
	}
	err = req.Refuse(m.Destination)
	if errors.Is(err, outflow.ErrNoPublisher) && servedBy(w.missing.served, m.Destination) == outbox.ServedByWorkers {
		return true, err
	}
	m.Due = m.Due && err == nil
	return false, err
}

// maxNewDestinations is how many messages of new destinations may be claimed.
func maxNewDestinations(req outbox.ClaimRequest) int {
	if req.NewDestinations == 0 {
		return math.MaxInt32
	}
	return max(req.NewDestinations, 0)
}

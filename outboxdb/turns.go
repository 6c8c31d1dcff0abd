package outboxdb

import (
	"math"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/outflowhq/outflow/outbox"
)

// asked are the arguments of one claim.
type asked struct {
	destinations []string
	targets      []string
	marks        []time.Time
	quotas       []int32
	before       []int32 // quotas of the target's destinations that come before
	// refused are destinations with due messages that the caller can't send to.
	refused map[string]error
}

func (a *asked) refuse(destination string, err error) {
	if a.refused == nil {
		a.refused = map[string]error{}
	}
	a.refused[destination] = err
}

// ask says which destinations a claim should look at, and how far. The room that a
// breaker's destinations have is shared by those that have their turn, so that one of
// them can't take it all; that of new destinations likewise.
func (w *walk) ask(req outbox.ClaimRequest, h *destinations, now time.Time) asked {
	var a asked
	if req.MaxMessages < 1 || req.MaxBytes < 1 {
		return a
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	t := turns{req: req, breakers: h, shut: w.shut, room: map[string]int{}, of: map[string]int{}, ofShut: map[string]int{},
		newcomersRoom: h.newcomersNow(newcomersRoom(req), now)}
	for _, m := range w.inTurn(&t) {
		if len(t.list) >= askedDestinations || !t.roomFor(m) {
			continue
		}
		if err := refusal(req, m); err != nil {
			a.refuse(m.Destination, err)
			continue
		}
		t.add(m)
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

// inTurn returns the destinations that are worth a claim, in turn. Where there is no room
// for all that are new, these come last and in any order: some may yield nothing, such as
// those of a target that has reached its cap, and the same must not be first each time.
func (w *walk) inTurn(t *turns) []*mark {
	var all, known, newcomers []*mark
	for i := range w.marks {
		m := &w.marks[i]
		if w.walked && !m.Due && (m.covered || !m.Proven) {
			continue
		}
		all = append(all, m)
		if t.isNewcomer(m) && !t.isShut(m) {
			newcomers = append(newcomers, m)
		} else {
			known = append(known, m)
		}
	}
	if len(newcomers) <= t.newcomersRoom {
		return all
	}
	rand.Shuffle(len(newcomers), func(i, j int) { newcomers[i], newcomers[j] = newcomers[j], newcomers[i] })
	return append(known, newcomers...)
}

// turns are the destinations of one claim, with the room that their breakers leave and
// how many share it.
type turns struct {
	req           outbox.ClaimRequest
	breakers      *destinations
	shut          map[string]bool
	list          []*mark
	room          map[string]int // by breaker
	of, ofShut    map[string]int
	newcomersRoom int
	newcomers     int
	listedShut    int
}

func (t *turns) isNewcomer(m *mark) bool { return !m.Proven && !t.breakers.proven(m.Destination) }

// isShut reports whether a breaker of the destination was open when the walk came by. The
// claim takes no more of it than the probe, so it takes no other's room; where the breaker
// has closed since, it shares the room with others that were shut.
func (t *turns) isShut(m *mark) bool {
	return slices.ContainsFunc(t.breakers.names(m.Destination), func(name string) bool { return t.shut[name] })
}

// roomOf is how many messages of a breaker's destinations may be claimed.
func (t *turns) roomOf(name string) int {
	room, known := t.room[name]
	if !known {
		allowance := t.req.Allowance
		if t.req.Ramp {
			allowance = min(allowance, t.breakers.window(name))
		}
		room = allowance - t.req.Open[name]
		t.room[name] = room
	}
	return room
}

// roomFor reports whether a message of the destination may be claimed.
func (t *turns) roomFor(m *mark) bool {
	shut := t.isShut(m)
	for _, name := range t.breakers.names(m.Destination) {
		if t.sharing(shut)[name] >= t.roomOf(name) {
			return false
		}
	}
	if shut {
		return t.listedShut < askedShut
	}
	return !t.isNewcomer(m) || t.newcomers < t.newcomersRoom
}

// sharing counts by breaker those that share its room.
func (t *turns) sharing(shut bool) map[string]int {
	if shut {
		return t.ofShut
	}
	return t.of
}

func (t *turns) add(m *mark) {
	t.list = append(t.list, m)
	shut := t.isShut(m)
	for _, name := range t.breakers.names(m.Destination) {
		t.sharing(shut)[name]++
	}
	switch {
	case shut:
		t.listedShut++
	case t.isNewcomer(m):
		t.newcomers++
	}
}

// quota is how many messages of the destination may be claimed.
func (t *turns) quota(m *mark) int {
	quota, shut := t.req.MaxMessages, t.isShut(m)
	for _, name := range t.breakers.names(m.Destination) {
		quota = min(quota, t.roomOf(name)/t.sharing(shut)[name])
	}
	switch {
	case !t.isNewcomer(m):
		return quota
	case shut:
		return min(quota, 1)
	default:
		return min(quota, t.newcomersRoom/t.newcomers)
	}
}

// refusal says why the caller can't send to a destination; its messages are parked then.
func refusal(req outbox.ClaimRequest, m *mark) error {
	if req.Refuse == nil {
		return nil
	}
	err := req.Refuse(m.Destination)
	m.Due = m.Due && err == nil
	return err
}

// newcomersRoom is how many messages of new destinations may be claimed.
func newcomersRoom(req outbox.ClaimRequest) int {
	if req.Newcomers == 0 {
		return math.MaxInt32
	}
	return max(req.Newcomers, 0)
}

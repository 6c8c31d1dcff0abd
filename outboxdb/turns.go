package outboxdb

import (
	"math"
	"time"

	"github.com/outflowhq/outflow"
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
func (w *walk) ask(req outflow.ClaimRequest, h *destinations, now time.Time) asked {
	var a asked
	if req.MaxMessages < 1 || req.MaxBytes < 1 {
		return a
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	t := turns{req: req, breakers: h, room: map[string]int{}, of: map[string]int{}, newcomersRoom: h.newcomersNow(newcomersRoom(req), now)}
	for i := range w.marks {
		m := &w.marks[i]
		if w.walked && !m.Due && (m.covered || !m.Proven) || len(t.list) >= askedDestinations || !t.roomFor(m) {
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
		target, quota := outflow.TargetOf(m.Destination), int32(t.quota(m))
		a.destinations = append(a.destinations, m.Destination)
		a.targets = append(a.targets, target)
		a.marks = append(a.marks, m.At)
		a.quotas = append(a.quotas, quota)
		a.before = append(a.before, before[target])
		before[target] += quota
	}
	return a
}

// turns are the destinations of one claim, with the room that their breakers leave and
// how many share it.
type turns struct {
	req           outflow.ClaimRequest
	breakers      *destinations
	list          []*mark
	room, of      map[string]int // by breaker
	newcomersRoom int
	newcomers     int
}

func (t *turns) isNewcomer(m *mark) bool { return !m.Proven && !t.breakers.proven(m.Destination) }

// roomFor reports whether a message of the destination may be claimed.
func (t *turns) roomFor(m *mark) bool {
	for _, name := range t.breakers.names(m.Destination) {
		if _, known := t.room[name]; !known {
			allowance := t.req.Allowance
			if t.req.Ramp {
				allowance = min(allowance, t.breakers.window(name))
			}
			t.room[name] = allowance - t.req.Open[name]
		}
		if t.of[name] >= t.room[name] {
			return false
		}
	}
	return !t.isNewcomer(m) || t.newcomers < t.newcomersRoom
}

func (t *turns) add(m *mark) {
	t.list = append(t.list, m)
	for _, name := range t.breakers.names(m.Destination) {
		t.of[name]++
	}
	if t.isNewcomer(m) {
		t.newcomers++
	}
}

// quota is how many messages of the destination may be claimed.
func (t *turns) quota(m *mark) int {
	quota := t.req.MaxMessages
	for _, name := range t.breakers.names(m.Destination) {
		quota = min(quota, t.room[name]/t.of[name])
	}
	if t.isNewcomer(m) {
		quota = min(quota, t.newcomersRoom/t.newcomers)
	}
	return quota
}

// refusal says why the caller can't send to a destination; its messages are parked then.
func refusal(req outflow.ClaimRequest, m *mark) error {
	if req.Refuse == nil {
		return nil
	}
	err := req.Refuse(m.Destination)
	m.Due = m.Due && err == nil
	return err
}

// newcomersRoom is how many messages of new destinations may be claimed.
func newcomersRoom(req outflow.ClaimRequest) int {
	if req.Newcomers == 0 {
		return math.MaxInt32
	}
	return max(req.Newcomers, 0)
}

package outboxdb

import (
	"maps"
	"math/rand/v2"
	"slices"
	"time"

	"github.com/outflowhq/outflow/outbox"
)

// maxDueMarks and maxServedMarks bound the marks: those with due messages, and others that were
// claimed from last. The latter are the healthy destinations with a steady load: no page of a walk
// full of other destinations pushes them out.
const (
	maxDueMarks    = 1024
	maxServedMarks = 256
)

// mark is a destination's low-water mark: messages that are due below it are claimed, or were
// committed late and wait for the next walk.
type mark struct {
	Destination string    `db:"destination"`
	Target      string    `db:"target"`
	At          time.Time `db:"mark"`
	Due         bool      `db:"due"`
	// Reached says that a message has reached the destination.
	Reached bool `db:"reached"`
	// served is when a claim last took messages of it; covered says that the last walk came by.
	served  time.Time
	covered bool
}

// remember brings the marks up to what a walk found. A destination that it did not find keeps its
// mark while there is room: its next message may come between two walks.
func (w *walk) remember(found []mark) {
	from, to := w.from, ""
	if len(found) == walkDestinations {
		to = found[len(found)-1].Destination
	}
	began := maps.Clone(w.cursors)
	w.from = to
	w.moveCursors(found, from, to)
	if from != "" || to != "" {
		// The destinations of a page come in with those of others: without chance the first of each
		// page would be first each time.
		rand.Shuffle(len(found), func(i, j int) { found[i], found[j] = found[j], found[i] })
	}
	fresh := make(map[string]mark, len(found))
	for _, m := range found {
		fresh[m.Destination] = m
	}
	kept := make([]mark, 0, len(w.marks)+len(found))
	for _, old := range w.marks {
		m, ok := fresh[old.Destination]
		if ok {
			m.Reached = m.Reached || old.Reached
		} else {
			m = old
		}
		m.served = old.served
		m.covered = ok || old.Destination > from && (to == "" || old.Destination <= to) &&
			old.Destination > began[old.Target] && w.cursors[old.Target] == ""
		m.Due = m.Due && (ok || !m.covered)
		delete(fresh, old.Destination)
		kept = append(kept, m)
	}
	for _, m := range found {
		if _, ok := fresh[m.Destination]; ok {
			m.covered = true
			kept = append(kept, m)
		}
	}
	w.marks = trim(kept)
}

// moveCursors notes where the next walk goes on within targets that had more
// destinations than it visits, and begins again in those that it came to the end of.
func (w *walk) moveCursors(found []mark, from, to string) {
	count, last := map[string]int{}, map[string]string{}
	for _, m := range found {
		count[m.Target]++
		last[m.Target] = m.Destination
	}
	for target := range w.cursors {
		// With the slash, targets compare as their destinations do.
		visited := target+"/" >= outbox.TargetOf(from)+"/" &&
			(to == "" || target+"/" < outbox.TargetOf(to)+"/")
		if visited && count[target] < walkWithin {
			delete(w.cursors, target)
		}
	}
	for target, n := range count {
		if n == walkWithin {
			if w.cursors == nil {
				w.cursors = map[string]string{}
			}
			w.cursors[target] = last[target]
		}
	}
}

// trim keeps the marks with due messages in turn, and of the others those that were
// served last. The former come first.
func trim(marks []mark) []mark {
	var due, others []mark
	for _, m := range marks {
		if m.Due {
			due = append(due, m)
		} else {
			others = append(others, m)
		}
	}
	if len(others) > maxServedMarks {
		slices.SortStableFunc(others, func(a, b mark) int { return b.served.Compare(a.served) })
		others = others[:maxServedMarks]
	}
	if len(due) > maxDueMarks { // the newest page's are at the end
		due = due[len(due)-maxDueMarks:]
	}
	return append(due, others...)
}

// moveMarks moves the marks to what a claim took, and notes which destinations may have more. Those
// that gave nothing come behind those that were not in the claim.
func (w *walk) moveMarks(a claimArgs, claimed []claimedRow, maxMessages int) {
	type taken struct {
		count int32
		upTo  time.Time
	}
	by := make(map[string]taken, len(a.destinations))
	bounded := len(claimed) >= maxMessages
	for _, r := range claimed {
		t := by[r.Destination]
		t.count++
		// Probes of a failing destination are claimed out of turn: its mark stays.
		if !r.Failing && r.WasAvailableAt.After(t.upTo) {
			t.upTo = r.WasAvailableAt
		}
		by[r.Destination] = t
		bounded = bounded || r.Seen > len(claimed)
	}
	quotas := make(map[string]int32, len(a.destinations))
	for i, d := range a.destinations {
		quotas[d] = a.quotas[i]
	}
	var waiting, empty, served []mark
	w.full = nil
	for _, m := range w.marks {
		t := by[m.Destination]
		quota, inClaim := quotas[m.Destination]
		if inClaim {
			if m.Due = bounded || t.count >= quota; m.Due && t.count > 0 {
				w.full = append(w.full, m.Destination)
			}
		}
		switch {
		case t.count > 0:
			if t.upTo.After(m.At) {
				m.At = t.upTo
			}
			m.served = time.Now()
			served = append(served, m)
		case inClaim:
			empty = append(empty, m)
		default:
			waiting = append(waiting, m)
		}
	}
	w.marks = slices.Concat(waiting, empty, served)
}

// add brings the marks up to what was unparked, which may lie below them.
func (w *walk) add(found []mark) {
	fresh := make(map[string]mark, len(found))
	for _, m := range found {
		fresh[m.Destination] = m
	}
	for i := range w.marks {
		old := &w.marks[i]
		if m, ok := fresh[old.Destination]; ok {
			old.Due, old.Reached = true, old.Reached || m.Reached
			if m.At.Before(old.At) {
				old.At = m.At
			}
			delete(fresh, old.Destination)
		}
	}
	for _, m := range found {
		if _, ok := fresh[m.Destination]; ok {
			w.marks = append(w.marks, m)
		}
	}
	w.marks = trim(w.marks)
}

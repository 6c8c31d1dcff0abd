package outboxdb

import (
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outflowhq/outflow/internal/database"
	"github.com/outflowhq/outflow/outbox"
)

const (
	// walkDestinations is how many destinations one walk of the index visits, and
	// walkWithin how many of one target.
	walkDestinations = 512
	walkWithin       = 32
	// rememberedDue and rememberedServed bound the marks: those with due messages, and
	// others that were claimed from last. These are the healthy ones with a steady
	// load: no page of a walk full of others' destinations pushes them out.
	rememberedDue    = 1024
	rememberedServed = 256
	// askedDestinations bounds one claim's: each costs it three or four lookups. Those
	// behind an open breaker, of which a claim takes no more than the probe, are askedShut
	// of them at most.
	askedDestinations = 400
	askedShut         = 100
	// A walk may take one part in walkShare of the time, and comes at least
	// every walkAtLeast. It costs well under a millisecond, except where a held
	// snapshot makes it crawl over dead rows.
	walkShare   = 20
	walkAtLeast = 5 * time.Second
)

// walk is what a Store knows of the claim index between claims.
type walk struct {
	mu sync.Mutex
	// marks are in turn: who was claimed from goes to the end.
	marks []mark
	// walked says that the marks come from a walk just now: only what it found
	// due is worth a claim. Between walks, every mark is.
	walked  bool
	from    string            // where the next walk goes on
	cursors map[string]string // the same within targets that have more than walkWithin
	next    time.Time         // when it is due
	// What the last walk saw on its way: a breaker to look after, suspects due.
	troubled, suspects bool
	shut               map[string]bool // the breakers that were open

	unpark   unparking
	heldBack time.Time // when messages were last held back
}

// mark is a destination's low-water mark: what is due below it is claimed, or
// was committed late and waits for the next walk.
type mark struct {
	Destination string    `db:"destination"`
	Target      string    `db:"target"`
	At          time.Time `db:"mark"`
	Due         bool      `db:"due"`
	// Proven says that a message has reached the destination.
	Proven bool `db:"proven"`
	// served is when a claim last took messages of it; covered says that the last walk
	// came by.
	served  time.Time
	covered bool
}

// sight is one row of a walk: a mark, and what concerns all of them. Without any
// destination there is one row all the same.
type sight struct {
	mark
	BreakerActive  bool `db:"troubled"`
	QuarantinedDue bool `db:"suspects"`
}

// findDestinations walks the index if it is time to.
func (s *Store) findDestinations(ctx context.Context) error {
	s.walk.walked = !time.Now().Before(s.walk.next)
	if !s.walk.walked {
		return nil
	}
	if err := s.walkIndex(ctx); err != nil {
		// What is known can be claimed all the same.
		s.walk.walked, s.walk.next = false, time.Now().Add(walkAtLeast)
		return fmt.Errorf("finding destinations with due messages: %w", err)
	}
	return nil
}

// walkIndex leaves time for the claim behind it, if there is anything to claim from.
func (s *Store) walkIndex(ctx context.Context) error {
	if deadline, ok := ctx.Deadline(); ok && len(s.walk.marks) > 0 {
		inTime, cancel := context.WithTimeout(ctx, time.Until(deadline)/2)
		defer cancel()
		ctx = inTime
	}
	conn, err := s.pool.Acquire(ctx)
	if err != nil {
		return err
	}
	defer conn.Release()
	began := time.Now() // a new connection's hundreds of milliseconds are not the walk's
	found, err := s.visit(ctx, conn)
	if err != nil {
		return err
	}
	s.destinations.proveAll(found)
	s.walk.remember(found)
	if s.walk.shut, err = s.shutBreakers(ctx, conn); err != nil {
		return err
	}
	s.walk.next = time.Now().Add(min(walkShare*time.Since(began), walkAtLeast))
	return nil
}

// shutBreakers asks which breakers of the marks are open, if the walk saw that some are.
func (s *Store) shutBreakers(ctx context.Context, conn *database.Conn) (map[string]bool, error) {
	if !s.walk.troubled {
		return nil, nil
	}
	rows, err := conn.Query(ctx, shutBreakers, s.destinations.allNames(s.walk.marks))
	if err != nil {
		return nil, err
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return nil, err
	}
	shut := make(map[string]bool, len(names))
	for _, name := range names {
		shut[name] = true
	}
	return shut, nil
}

// visit runs the walk's statement.
func (s *Store) visit(ctx context.Context, conn *database.Conn) (found []mark, err error) {
	w := &s.walk
	targets := slices.Sorted(maps.Keys(w.cursors))
	cursors := make([]string, 0, len(targets))
	for _, t := range targets {
		cursors = append(cursors, w.cursors[t])
	}
	rows, err := conn.Query(ctx, dueDestinations, w.from, walkDestinations, walkWithin, targets, cursors)
	if err != nil {
		return nil, err
	}
	seen, err := pgx.CollectRows(rows, pgx.RowToStructByName[sight])
	if err != nil {
		return nil, err
	}
	for _, one := range seen {
		if one.Destination != "" {
			found = append(found, one.mark)
		}
		w.troubled, w.suspects = one.BreakerActive, one.QuarantinedDue
	}
	return found, nil
}

// remember brings the marks up to what a walk found. A destination it did not
// find keeps its mark while there is room: its next message may come between
// two walks.
func (w *walk) remember(found []mark) {
	from, to := w.from, ""
	if len(found) == walkDestinations {
		to = found[len(found)-1].Destination
	}
	began := maps.Clone(w.cursors)
	w.from = to
	w.moveCursors(found, from, to)
	if from != "" || to != "" {
		// Those of a page come in with others: without chance the first of each page would
		// be first each time.
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
			m.Proven = m.Proven || old.Proven
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
	if len(others) > rememberedServed {
		slices.SortStableFunc(others, func(a, b mark) int { return b.served.Compare(a.served) })
		others = others[:rememberedServed]
	}
	if len(due) > rememberedDue { // the newest page's are at the end
		due = due[len(due)-rememberedDue:]
	}
	return append(due, others...)
}

// learn moves the marks to what a claim took, and notes who may have more. Those that were
// asked and gave nothing come behind those that were not asked.
func (w *walk) learn(a asked, claimed []claimedRow, maxMessages int) {
	type taken struct {
		count int32
		upTo  time.Time
	}
	by := make(map[string]taken, len(a.destinations))
	bounded := len(claimed) >= maxMessages
	for _, r := range claimed {
		t := by[r.Destination]
		t.count++
		// Of a failing destination, rows are claimed out of turn: its mark stays.
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
	for _, m := range w.marks {
		t := by[m.Destination]
		quota, wasAsked := quotas[m.Destination]
		if wasAsked {
			m.Due = bounded || t.count >= quota
		}
		switch {
		case t.count > 0:
			if t.upTo.After(m.At) {
				m.At = t.upTo
			}
			m.served = time.Now()
			served = append(served, m)
		case wasAsked:
			empty = append(empty, m)
		default:
			waiting = append(waiting, m)
		}
	}
	w.marks = slices.Concat(waiting, empty, served)
}

// overlooked is how long a destination that the marks lack must wait to be seen.
func (w *walk) overlooked() time.Duration {
	if w.walked && w.from == "" {
		return 0
	}
	return max(time.Until(w.next), time.Millisecond)
}

// anyDue reports whether some destination may have more to claim right now.
func (w *walk) anyDue() bool {
	return slices.ContainsFunc(w.marks, func(m mark) bool { return m.Due })
}

// claimed is the answer to a claim, with what the walk knows.
func (w *walk) claimed(messages []outbox.ClaimedMessage, problem error, refused map[string]error) outbox.Claimed {
	return outbox.Claimed{
		Refused:  refused,
		Messages: messages, Backlog: w.anyDue(), NewDestinationsIn: w.overlooked(), MoreDestinations: w.from != "",
		BreakerActive: w.troubled, QuarantinedDue: w.suspects, Problem: problem,
	}
}

package outboxdb

import (
	"cmp"
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outflowhq/outflow"
)

const (
	// walkDestinations is how many destinations one walk of the index visits,
	// and how many the store remembers.
	walkDestinations = 256
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
	walked bool
	from   string    // where the next walk goes on
	next   time.Time // when it is due
	// What the last walk saw on its way: a breaker to look after, suspects due.
	troubled, suspects bool
}

// mark is a destination's low-water mark: what is due below it is claimed, or
// was committed late and waits for the next walk.
type mark struct {
	Destination string    `db:"destination"`
	At          time.Time `db:"mark"`
	Due         bool      `db:"due"`
}

// sight is one row of a walk: a mark, and what concerns all of them.
type sight struct {
	mark
	Troubled bool `db:"troubled"`
	Suspects bool `db:"suspects"`
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
	rows, err := conn.Query(ctx, dueDestinations, s.walk.from, walkDestinations)
	if err != nil {
		return err
	}
	seen, err := pgx.CollectRows(rows, pgx.RowToStructByName[sight])
	if err != nil {
		return err
	}
	found := make([]mark, 0, len(seen))
	s.walk.troubled, s.walk.suspects = false, false
	for _, one := range seen {
		found = append(found, one.mark)
		s.walk.troubled, s.walk.suspects = one.Troubled, one.Suspects
	}
	s.walk.remember(found)
	s.walk.next = time.Now().Add(min(walkShare*time.Since(began), walkAtLeast))
	return nil
}

// remember brings the marks up to what a walk found. A destination it did not
// find keeps its mark while there is room: its next message may come between
// two walks.
func (w *walk) remember(found []mark) {
	paged := w.from != "" || len(found) == walkDestinations
	w.from = ""
	if len(found) == walkDestinations {
		w.from = found[len(found)-1].Destination
	}
	if paged {
		// A page's marks push out those of the one before, and whose turn it was with
		// them: without chance the first of each page would be first each time.
		rand.Shuffle(len(found), func(i, j int) { found[i], found[j] = found[j], found[i] })
	}
	fresh := make(map[string]mark, len(found))
	for _, m := range found {
		fresh[m.Destination] = m
	}
	kept := make([]mark, 0, len(w.marks)+len(found))
	for _, old := range w.marks {
		m, ok := fresh[old.Destination]
		if !ok {
			m = mark{Destination: old.Destination, At: old.At}
		}
		delete(fresh, old.Destination)
		kept = append(kept, m)
	}
	for _, m := range found {
		if _, ok := fresh[m.Destination]; ok {
			kept = append(kept, m)
		}
	}
	// Those with due messages stay, in turn; of the others as many as fit.
	slices.SortStableFunc(kept, func(a, b mark) int { return -compareBool(a.Due, b.Due) })
	w.marks = kept[:min(len(kept), walkDestinations)]
}

// asked are the arguments of one claim.
type asked struct {
	destinations []string
	marks        []time.Time
	quotas       []int32
}

// ask says which destinations a claim should look at, and how far. window is how
// many messages of a destination may be in flight for now, where the claim ramps.
func (w *walk) ask(req outflow.ClaimRequest, window func(destination string) int) asked {
	var a asked
	if req.MaxMessages < 1 || req.MaxBytes < 1 {
		return a
	}
	for _, m := range w.marks {
		allowance := req.Allowance
		if req.Ramp {
			allowance = min(allowance, window(m.Destination))
		}
		quota := allowance - req.Open[m.Destination]
		if quota < 1 || w.walked && !m.Due {
			continue
		}
		a.destinations = append(a.destinations, m.Destination)
		a.marks = append(a.marks, m.At)
		a.quotas = append(a.quotas, int32(min(quota, req.MaxMessages)))
	}
	return a
}

// learn moves the marks to what a claim took, and notes who may have more.
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
	var waiting, served []mark
	for _, m := range w.marks {
		t := by[m.Destination]
		if quota, ok := quotas[m.Destination]; ok {
			m.Due = bounded || t.count >= quota
		}
		if t.count == 0 {
			waiting = append(waiting, m)
			continue
		}
		if t.upTo.After(m.At) {
			m.At = t.upTo
		}
		served = append(served, m)
	}
	w.marks = append(waiting, served...)
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
func (w *walk) claimed(messages []outflow.ClaimedMessage, problem error) outflow.Claimed {
	return outflow.Claimed{
		Messages: messages, Backlog: w.anyDue(), Overlooked: w.overlooked(), More: w.from != "",
		Troubled: w.troubled, Suspects: w.suspects, Problem: problem,
	}
}

// compareBool orders false before true.
func compareBool(a, b bool) int {
	number := map[bool]int{true: 1}
	return cmp.Compare(number[a], number[b])
}

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
)

const (
	// failuresLinger is how long failures are summed before they are written:
	// hundreds may fail together.
	failuresLinger = 100 * time.Millisecond
	// noteTries bounds the attempts to write a note.
	noteTries = 3
	// reachedAgain is how often a process says that a destination exists.
	reachedAgain = 24 * time.Hour
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

// noteFailures adds failures ($2) of one breaker ($1) and the last one's words ($3).
// Beyond failuresToOpen ($4) they open it. One with a time for which the destination asked
// to be left alone ($7) opens it at once, and for no less than that. After open_until
// another failure is the probe's answer, or as good, and opens it again; what comes before
// are stragglers from before it opened. A failure while the retrying runs are signalled
// ends that, and leaves the rest for another after a second. $5 and $6 are the first and
// the longest time that it stays open by itself.
const noteFailures = `
INSERT INTO outbox.destinations AS h (destination, failures, failing_since, openings, open_until, last_error)
VALUES ($1, $2, now(), ($2::int >= $4::int OR $7::interval > interval '0')::int,
        CASE WHEN $2::int >= $4::int OR $7::interval > interval '0' THEN now() + greatest($5::interval, $7::interval) END, $3)
ON CONFLICT (destination) DO UPDATE
   SET failures = h.failures + $2, last_error = $3,
       failing_since = coalesce(h.failing_since, now()),
       (openings, open_until, probe_until, recovered_at, told_of, told_id) = (
           SELECT CASE WHEN o.opens THEN h.openings + 1 ELSE h.openings END,
                  CASE WHEN o.opens THEN now() + greatest(least($5::interval * (1 << least(h.openings, 20))::float8, $6::interval), $7::interval)
                       ELSE h.open_until END,
                  CASE WHEN o.opens THEN NULL WHEN h.recovered_at IS NOT NULL THEN now() + interval '1 second' ELSE h.probe_until END,
                  CASE WHEN NOT o.opens AND h.recovered_at IS NOT NULL THEN now() END,
                  CASE WHEN NOT o.opens THEN h.told_of END,
                  CASE WHEN NOT o.opens THEN h.told_id END
             FROM (SELECT CASE WHEN h.open_until IS NULL THEN h.failures + $2 >= $4::int OR $7::interval > interval '0'
                               ELSE h.open_until <= now() OR now() + $7::interval > h.open_until END AS opens) AS o)`

// noteSuccess closes the breaker, and leaves a note for the retrying runs of what was
// closed to them. Whoever is at signalling them keeps the lease.
const noteSuccess = `
UPDATE outbox.destinations AS h
   SET ` + closed + `
 WHERE h.destination = $1`

// noteReached is noteSuccess for a destination that a message has reached.
const noteReached = `
INSERT INTO outbox.destinations AS h (destination, delivered_at) VALUES ($1, now())
ON CONFLICT (destination) DO UPDATE
   SET delivered_at = now(), ` + closed

// closed is what a success writes.
const closed = `failures = 0, failing_since = NULL, openings = 0, open_until = NULL,
       probe_of = NULL, probe_id = NULL, probe_until = CASE WHEN h.open_until IS NULL THEN h.probe_until END, last_error = NULL,
       recovered_at = CASE WHEN h.open_until IS NOT NULL THEN now() ELSE h.recovered_at END`

// reachedBefore reports whether a message has ever reached a destination.
const reachedBefore = `
SELECT EXISTS (SELECT FROM outbox.destinations AS h WHERE h.destination = $1 AND h.delivered_at IS NOT NULL)`

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
func whole(destination string) bool { return outflow.TargetOf(destination) == destination }

// own is the breaker that hears what a destination itself answers: its own, or as
// long as no message has reached it the one of its target's new destinations.
func (h *destinations) own(destination string) string {
	if whole(destination) || h.proven(destination) {
		return destination
	}
	return outflow.TargetOf(destination) + "#new"
}

func (h *destinations) proven(destination string) bool {
	k := h.known[destination]
	return k != nil && !k.reached.IsZero()
}

// names are the breakers that a message of a destination meets, its target's last.
func (h *destinations) names(destination string) []string {
	return slices.Compact([]string{h.own(destination), outflow.TargetOf(destination)})
}

// Succeeded notes that a message reached its destination. It closes the breakers, and
// costs nothing where there was no failure.
func (s *Store) Succeeded(destination string) {
	h := s.destinations
	h.mu.Lock()
	defer h.mu.Unlock()
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
	if k.failing || k.failures > 0 || news {
		k.noted, k.failing, k.failures, k.succeeded = time.Now(), false, 0, true
		h.tell(destination, k)
	}
}

// Answered notes that a destination answered, though it took nothing: it refused one
// message, or said that it is not there. What else is meant for it need not wait for
// a better answer. It closes breakers that an outage had opened, and does not say
// that a message has reached it.
func (s *Store) Answered(destination string) {
	h := s.destinations
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, name := range h.names(destination) {
		h.answered(name, 0)
	}
}

// answered closes a breaker, and lets its window grow.
func (h *destinations) answered(name string, growth int) {
	k := h.of(name)
	k.inARow, k.grown = 0, min(k.grown+growth, mostGrown)
	if k.failing || k.failures > 0 {
		k.failing, k.failures, k.answered = false, 0, true
		h.tell(name, k)
	}
}

// NotTried notes that a message came to an end, or to a failure, that says nothing of
// its destination. Where it was the probe of an open breaker, another one is.
func (s *Store) NotTried(destination string, id uuid.UUID) {
	h := s.destinations
	h.mu.Lock()
	names := h.names(destination)
	failing := slices.ContainsFunc(names, func(name string) bool { return h.known[name] != nil && h.known[name].failing })
	h.mu.Unlock()
	if failing {
		go func() { h.wrote(destination, h.write(giveBackProbe, names, id)) }()
	}
}

// Failed notes that a destination took nothing: an error of class unavailable. What it
// answered itself counts for it alone. Where there was no answer, that counts for its
// target. Several failures and no success between them open a breaker. It returns
// how many there have been in this process since the last success.
func (s *Store) Failed(destination string, err error) (inARow int) {
	h := s.destinations
	h.mu.Lock()
	defer h.mu.Unlock()
	name := outflow.TargetOf(destination)
	if own := h.own(destination); outflow.WasAnswered(err) && own != name {
		h.answered(name, 0)
		name = own
	}
	k := h.of(name)
	k.failing = true
	k.failures++
	k.inARow++
	k.grown = 0
	k.lastError = outflow.CleanErrorText(err.Error())
	k.retryAfter = max(k.retryAfter, outflow.RetryAfter(err))
	k.closing = k.closing || k.retryAfter > 0
	h.tell(name, k)
	if h.proven(destination) {
		return k.inARow
	}
	h.newcomers.inARow++
	return max(k.inARow, h.newcomers.inARow)
}

// Reached reports whether a message has ever reached a destination, as far as the
// table remembers. It takes the lock.
func (s *Store) Reached(ctx context.Context, destination string) (bool, error) {
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
	if k := h.of(destination); k.reached.IsZero() {
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
func (h *destinations) choose(probes []outflow.Probe) {
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

// tell has one goroutine for each destination tell what is to be told, in order.
func (h *destinations) tell(destination string, k *known) {
	if k.telling {
		return
	}
	k.telling = true
	go func() {
		for h.tellNext(destination, k) {
		}
	}()
}

// tellNext writes one thing and reports whether there may be another. It takes the lock.
func (h *destinations) tellNext(destination string, k *known) bool {
	h.mu.Lock()
	succeeded, answered, failures := k.succeeded, k.answered, k.failures
	if !succeeded && !answered && failures == 0 {
		k.telling, k.closing, k.retryAfter = false, false, 0
		h.mu.Unlock()
		return false
	}
	k.succeeded, k.answered = false, false
	h.mu.Unlock()
	if succeeded || answered {
		note := noteSuccess
		if succeeded {
			note = noteReached
		}
		if !h.wrote(destination, h.write(note, destination)) {
			h.mu.Lock()
			k.failing = true
			h.mu.Unlock()
		}
		return true
	}
	time.Sleep(failuresLinger)
	h.mu.Lock()
	failures, lastError, after := k.failures, k.lastError, k.retryAfter
	k.failures, k.retryAfter = 0, 0
	h.mu.Unlock()
	if failures > 0 {
		h.wrote(destination, h.write(noteFailures, destination, failures, lastError, failuresToOpen, firstOpening, lastOpening, after))
	}
	return true
}

// wrote keeps what kept a note from being written for the next claim to say, and
// reports whether it was written.
func (h *destinations) wrote(destination string, err error) bool {
	if err == nil {
		return true
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	h.problem = fmt.Errorf("noting how %s does: %w", destination, err)
	return false
}

// takeProblem returns it, once.
func (h *destinations) takeProblem() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	err := h.problem
	h.problem = nil
	return err
}

// write writes a note, and tries it a few times: to write it twice does no harm.
// What can't be written is dropped: while the database fails, nothing is claimed
// either, and the next failure or success says it again.
func (h *destinations) write(note string, args ...any) (err error) {
	for range noteTries {
		ctx, cancel := context.WithTimeout(context.Background(), statementTimeout)
		_, err = h.pool.Exec(ctx, note, args...)
		cancel()
		if err == nil {
			return nil
		}
	}
	return err
}

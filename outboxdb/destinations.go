package outboxdb

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outflowhq/outflow"
)

const (
	// failuresLinger is how long failures are summed before they are written:
	// hundreds may fail together.
	failuresLinger = 100 * time.Millisecond
	// noteTries bounds the attempts to write a note.
	noteTries = 3
	// reachedAgain is how often a process says that a destination exists.
	reachedAgain = 24 * time.Hour
	// mostKnown bounds what a process remembers of destinations: https ones can be
	// many. What it forgets it asks or says again.
	mostKnown = 10_000
	// firstWindow is how many messages a process begins with, and windowGrowth how
	// many more each success allows: 20, 100, all.
	firstWindow  = 20
	windowGrowth = 4
	mostGrown    = 100_000
)

// noteFailures adds failures ($2) of one destination ($1) and the last one's words
// ($3). Beyond failuresToOpen ($4) they open the breaker; after open_until another
// one is the probe's answer, or as good, and opens it again; what comes before are
// stragglers from before it opened. A failure while the retrying runs are told of a
// recovery ends that telling, and leaves the rest for another after a second. $5 and $6 are the first and the longest time
// that it stays open, $7 the time that the destination asked for.
const noteFailures = `
INSERT INTO outbox.destinations AS h (destination, failures, failing_since, openings, open_until, last_error)
VALUES ($1, $2, now(), ($2::int >= $4::int)::int,
        CASE WHEN $2::int >= $4::int THEN now() + greatest($5::interval, $7::interval) END, $3)
ON CONFLICT (destination) DO UPDATE
   SET failures = h.failures + $2, last_error = $3,
       failing_since = coalesce(h.failing_since, now()),
       (openings, open_until, probe_until, recovered_at, told_id) = (
           SELECT CASE WHEN o.opens THEN h.openings + 1 ELSE h.openings END,
                  CASE WHEN o.opens THEN now() + greatest(least($5::interval * 2 ^ least(h.openings, 20), $6::interval), $7::interval)
                       ELSE h.open_until END,
                  CASE WHEN o.opens THEN NULL WHEN h.recovered_at IS NOT NULL THEN now() + interval '1 second' ELSE h.probe_until END,
                  CASE WHEN NOT o.opens AND h.recovered_at IS NOT NULL THEN now() END,
                  CASE WHEN NOT o.opens THEN h.told_id END
             FROM (SELECT CASE WHEN h.open_until IS NULL THEN h.failures + $2 >= $4::int ELSE h.open_until <= now() END AS opens) AS o)`

// noteSuccess closes the breaker, and leaves a note for the retrying runs of a
// destination that was closed to them. Whoever is at telling them keeps the lease.
// $2 says that a message has reached it.
const noteSuccess = `
INSERT INTO outbox.destinations AS h (destination, delivered_at) VALUES ($1, CASE WHEN $2 THEN now() END)
ON CONFLICT (destination) DO UPDATE
   SET delivered_at = CASE WHEN $2 THEN now() ELSE h.delivered_at END, failures = 0, failing_since = NULL, openings = 0, open_until = NULL,
       probe_id = NULL, probe_until = CASE WHEN h.open_until IS NULL THEN h.probe_until END, last_error = NULL,
       recovered_at = CASE WHEN h.open_until IS NOT NULL THEN now() ELSE h.recovered_at END`

// reachedBefore reports whether a message has ever reached a destination.
const reachedBefore = `
SELECT EXISTS (SELECT FROM outbox.destinations AS h WHERE h.destination = $1 AND h.delivered_at IS NOT NULL)`

// destinations tells the table how destinations do: one short statement where something
// changed, none while all goes well.
type destinations struct {
	pool *pgxpool.Pool

	mu      sync.Mutex
	known   map[string]*known
	problem error // of the last note that could not be written
}

// known is what this process knows of one destination and has not told yet.
type known struct {
	reached time.Time // when it last said that a message arrived
	failing bool      // the table may say that it is failing
	inARow  int       // failures since the last success
	grown   int       // how far its window has opened beyond firstWindow

	succeeded  bool // to be told, and before the failures
	answered   bool // the same, where no message reached it
	failures   int
	lastError  string
	retryAfter time.Duration
	telling    bool // a goroutine is at it
}

func newDestinations(pool *pgxpool.Pool) *destinations {
	return &destinations{pool: pool, known: make(map[string]*known)}
}

// Succeeded notes that a message reached its destination. It closes the breaker,
// and costs nothing where there was no failure.
func (s *Store) Succeeded(destination string) {
	h := s.destinations
	h.mu.Lock()
	defer h.mu.Unlock()
	k := h.of(destination)
	k.inARow, k.grown = 0, min(k.grown+windowGrowth, mostGrown)
	if !k.failing && k.failures == 0 && time.Since(k.reached) < reachedAgain {
		return
	}
	k.reached, k.failing, k.failures, k.succeeded = time.Now(), false, 0, true
	h.tell(destination, k)
}

// Answered notes that a destination answered, though it took nothing: it refused one
// message, or said that it is not there. What else is meant for it need not wait for
// a better answer. It closes a breaker that an outage had opened, and does not say
// that a message has reached it.
func (s *Store) Answered(destination string) {
	h := s.destinations
	h.mu.Lock()
	defer h.mu.Unlock()
	k := h.of(destination)
	k.inARow = 0
	if k.failing || k.failures > 0 {
		k.failing, k.failures, k.answered = false, 0, true
		h.tell(destination, k)
	}
}

// NotTried notes that a message came to an end, or to a failure, that says nothing of
// its destination. Where it was the probe of an open breaker, another one is.
func (s *Store) NotTried(destination string, id uuid.UUID) {
	h := s.destinations
	h.mu.Lock()
	k := h.known[destination]
	failing := k != nil && k.failing
	h.mu.Unlock()
	if failing {
		go func() { h.wrote(destination, h.write(giveBackProbe, destination, id)) }()
	}
}

// Failed notes that a destination took nothing: an error of class unavailable.
// Several failures and no success between them open its breaker. It returns how
// many there have been in this process since its last success.
func (s *Store) Failed(destination string, err error) (inARow int) {
	h := s.destinations
	h.mu.Lock()
	defer h.mu.Unlock()
	k := h.of(destination)
	k.failing = true
	k.failures++
	k.inARow++
	k.grown = 0
	k.lastError = outflow.CleanErrorText(err.Error())
	k.retryAfter = min(max(k.retryAfter, outflow.RetryAfter(err)), longestAsked)
	h.tell(destination, k)
	return k.inARow
}

// Reached reports whether a message has ever reached a destination, as far as the
// table remembers.
func (s *Store) Reached(ctx context.Context, destination string) (bool, error) {
	s.destinations.mu.Lock()
	k := s.destinations.known[destination]
	here := k != nil && !k.reached.IsZero()
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

// window is how many messages of a destination this process should have in flight:
// few until it has seen some arrive. A backlog for one that takes nothing then costs
// Temporal a handful of runs, and one for a destination that works has its whole
// allowance after two or three answers.
func (h *destinations) window(destination string) int {
	h.mu.Lock()
	defer h.mu.Unlock()
	k := h.known[destination]
	if k == nil {
		return firstWindow
	}
	return firstWindow + k.grown
}

// seenFailing notes what a row said of its destination: the next success must be told.
func (h *destinations) seenFailing(destination string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.of(destination).failing = true
}

// of runs under the lock, as the methods below.
func (h *destinations) of(destination string) *known {
	k := h.known[destination]
	if k == nil {
		if len(h.known) >= mostKnown {
			for other, o := range h.known {
				if !o.telling {
					delete(h.known, other)
					break
				}
			}
		}
		k = &known{}
		h.known[destination] = k
	}
	return k
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

// tellNext writes one thing and reports whether there may be another.
func (h *destinations) tellNext(destination string, k *known) bool {
	h.mu.Lock()
	succeeded, answered, failures := k.succeeded, k.answered, k.failures
	if !succeeded && !answered && failures == 0 {
		k.telling = false
		h.mu.Unlock()
		return false
	}
	k.succeeded, k.answered = false, false
	h.mu.Unlock()
	if succeeded || answered {
		if !h.wrote(destination, h.write(noteSuccess, destination, succeeded)) {
			h.seenFailing(destination)
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

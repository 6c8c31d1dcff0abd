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

// The circuit breakers stand in the files breaker*.go:
//   - breaker.go: Observe and Known, and what this process knows of each breaker
//   - breaker_window.go: how many messages this process may claim for a breaker (slow start)
//   - breaker_slow.go: targets whose answers are late
//   - breaker_missing.go: destinations that do not exist
//   - breaker_notes.go: what Observe writes: it opens and closes breakers
//   - breaker_probes.go: the probe of an open breaker, and breakers that nothing waits for
//   - breaker_recovered.go: the retrying runs behind a breaker that has closed
//
// A breaker is a row of outbox.destinations, one for all processes.

const (
	// failuresToOpen is how many failures without a success between them open a breaker. From then
	// on one probe at a time is sent.
	failuresToOpen = 5
	// Each opening doubles the time until the next probe, from firstOpening to maxOpening. A queue
	// that is back waits a quarter of a minute at most. One that is down for a day gets some
	// thousand probes.
	firstOpening = time.Second
	maxOpening   = 15 * time.Second
	// maxDestinationStates bounds what a process remembers of breakers: https destinations can be
	// many. It reads or writes again what it forgot.
	maxDestinationStates = 10_000
	// reachedInterval is how often a process notes that messages reach a destination.
	reachedInterval = 24 * time.Hour
	// successesToNote is the number of the message with which the path of a host is noted as reached.
	// A host with the message's ID in each path would else cost a row for each message. Other
	// destinations are noted with the first: once reached, they are waited for when they are missing.
	successesToNote = 2
)

// breakers is what this process knows of the circuit breakers.
type breakers struct {
	pool      *database.Pool
	lateBurst time.Duration

	mu              sync.Mutex
	states          map[string]*destinationState // by the breaker's name
	newDestinations newDestinations
	probes          []uuid.UUID // chosen by this process, for its next claim
	abandonedAt     time.Time   // when to look for abandoned breakers next
	problem         error       // of the last note that could not be written
}

// destinationState is what this process knows of one breaker.
type destinationState struct {
	reachedAt time.Time // when a message last reached it, as far as this process knows
	notedAt   time.Time // when that was last written
	successes int       // messages that reached it from here, up to successesToNote
	// failing says that the breaker's row may have counted failures: the next success is to be
	// written.
	failing             bool
	consecutiveFailures int
	window              slowStart
	slowness            slowness

	notes unwritten
	// retryAfterUnwritten says that the destination asked for a wait that is not written yet,
	// missingUnwritten the same of a destination that does not exist.
	retryAfterUnwritten, missingUnwritten bool
	// missing says that the destination did not exist when this process last heard of it, and
	// found that a look-up has found it since.
	missing, found bool
	writing        bool // a goroutine writes the notes
}

// newDestinations are the destinations that no message has reached yet, all together.
type newDestinations struct {
	consecutiveFailures int
	nextClaim           time.Time // where many have failed: see newDestinationsPause
}

func newBreakers(pool *database.Pool) *breakers {
	return &breakers{pool: pool, lateBurst: lateBurst, states: make(map[string]*destinationState)}
}

// Observe notes how an attempt to publish the message id ended, and returns how many attempts in
// this process have failed since the destination's last success. It costs a statement where the
// breaker changes, and none while all goes well. Statements run in the background.
func (s *Store) Observe(destination string, id uuid.UUID, o outbox.Observation) (consecutiveFailures int) {
	b := s.breakers
	b.mu.Lock()
	defer b.mu.Unlock()
	switch o.Kind() {
	case outbox.Acknowledged:
		b.took(destination, o.Took)
		b.acknowledged(destination)
	case outbox.DestinationFailed:
		return b.destinationFailed(destination, o.Err)
	case outbox.MessageRejected:
		for _, name := range b.names(destination) {
			b.close(name, 0)
		}
	case outbox.DestinationMissing:
		b.destinationMissing(destination, o.Err)
	case outbox.CallCutShort:
		b.cutShort(destination)
	case outbox.Inconclusive:
		b.inconclusive(destination, id)
	}
	return 0
}

// Known reports whether a message has ever reached a destination, as far as the table remembers. It
// is false for a destination of which PurgeDestinations has deleted the row.
func (s *Store) Known(ctx context.Context, destination string) (bool, error) {
	s.breakers.mu.Lock()
	here := s.breakers.reached(destination)
	s.breakers.mu.Unlock()
	if here {
		return true, nil
	}
	var reached bool
	if err := s.pool.QueryRow(ctx, knownSQL, destination).Scan(&reached); err != nil {
		return false, fmt.Errorf("reading whether a message has reached %s: %w", destination, err)
	}
	return reached, nil
}

// The methods below run under the lock, unless they say otherwise.

// acknowledged notes that a message reached its destination. It closes the breakers.
func (b *breakers) acknowledged(destination string) {
	if !b.reached(destination) {
		b.newDestinations.consecutiveFailures = 0
	}
	for _, name := range b.names(destination) {
		if name != destination {
			b.close(name, windowGrowth)
		}
	}
	d := b.state(destination)
	d.consecutiveFailures = 0
	d.window.grow(windowGrowth)
	d.reachedAt, d.successes = time.Now(), min(d.successes+1, successesToNote)
	noteAgain := time.Since(d.notedAt) >= reachedInterval
	if noteAgain && (!isAddress(destination) || isTarget(destination) || d.successes == successesToNote) {
		d.notedAt, d.notes.reached = time.Now(), true
		b.writeNotes(destination, d)
	}
	b.closeState(destination, d)
}

// destinationFailed counts a failure. What a destination answered itself counts for it alone. A
// failure without an answer counts for its target. Several failures without a success between them
// open a breaker, and so does a wait that the destination asks for.
func (b *breakers) destinationFailed(destination string, err error) (consecutiveFailures int) {
	name, wait := outbox.TargetOf(destination), outbox.RetryAfter(err)
	defer b.noLongerMissing(destination)
	if own := b.ownBreaker(destination); outbox.WasAnswered(err) && own != name {
		b.close(name, 0)
		if own != destination && wait > 0 { // it asks for itself, not for other new destinations
			b.failed(destination, err, wait)
			wait = min(wait, maxOpening)
		}
		name = own
		// Its message may have been the probe of the target's new destinations.
		if own == destination && b.newInTable(destination) && b.failing(newDestinationsOf(destination)) {
			b.failed(newDestinationsOf(destination), err, min(wait, maxOpening))
		}
	}
	d := b.failed(name, err, wait)
	if b.reached(destination) {
		return d.consecutiveFailures
	}
	b.newDestinations.consecutiveFailures++
	return max(d.consecutiveFailures, b.newDestinations.consecutiveFailures)
}

// failed counts a failure for a breaker, with the wait that the destination asked for.
func (b *breakers) failed(name string, err error, wait time.Duration) *destinationState {
	d := b.state(name)
	d.failing = true
	d.consecutiveFailures++
	d.window = 0
	d.notes.failures++
	d.notes.lastError = text.Clean(err.Error())
	d.notes.retryAfter = max(d.notes.retryAfter, wait)
	d.retryAfterUnwritten = d.retryAfterUnwritten || wait > 0
	d.notes.found, d.found = d.notes.found || d.found, false // see noLongerMissing
	b.writeNotes(name, d)
	return d
}

// close closes a breaker that may be open, and lets its window grow by so many.
func (b *breakers) close(name string, growth int) {
	d := b.state(name)
	d.consecutiveFailures = 0
	d.window.grow(growth)
	b.closeState(name, d)
}

// closeState has a breaker closed that may be open. A wait that its destination asked for, and that
// is not written yet, is written all the same.
func (b *breakers) closeState(name string, d *destinationState) {
	d.missing, d.missingUnwritten, d.found, d.notes.missing = false, false, false, ""
	if !d.failing && d.notes.failures == 0 {
		return
	}
	d.notes.success = true
	if d.failing = d.retryAfterUnwritten; !d.retryAfterUnwritten {
		d.notes.failures = 0
	}
	b.writeNotes(name, d)
}

// inconclusive has another probe chosen where the message was the probe of an open breaker.
func (b *breakers) inconclusive(destination string, id uuid.UUID) {
	names := b.names(destination)
	if slices.ContainsFunc(names, b.failing) {
		go func() { b.wrote(destination, b.write(endProbeSQL, names, id)) }()
	}
}

// isTarget reports whether a destination is all of its target, such as an SQS queue.
func isTarget(destination string) bool { return outbox.TargetOf(destination) == destination }

// isAddress reports whether a destination is one of https or http, of which a host may have any number.
func isAddress(destination string) bool {
	scheme := outbox.SchemeOf(destination)
	return scheme == outflow.SchemeHTTPS || scheme == outflow.SchemeHTTP
}

// newDestinationsOf names the breaker of the new destinations of a destination's target.
func newDestinationsOf(destination string) string { return outbox.TargetOf(destination) + "#new" }

// ownBreaker names the breaker that counts what a destination itself answers: its own, or as long
// as no message has reached it that of its target's new destinations.
func (b *breakers) ownBreaker(destination string) string {
	if isTarget(destination) || b.reached(destination) {
		return destination
	}
	return newDestinationsOf(destination)
}

// newInTable reports whether the table may count a destination among its target's new ones: a
// message may have reached it from here, and its note is still to come (see successesToNote).
func (b *breakers) newInTable(destination string) bool {
	d := b.states[destination]
	return !isTarget(destination) && (d == nil || d.notedAt.IsZero())
}

// reached reports whether this process knows of a message that reached the destination.
func (b *breakers) reached(destination string) bool {
	d := b.states[destination]
	return d != nil && !d.reachedAt.IsZero()
}

// failing reports whether the row of a breaker may have counted failures.
func (b *breakers) failing(name string) bool {
	d := b.states[name]
	return d != nil && d.failing
}

// names are the breakers that a message of a destination meets by the table, its target's last.
func (b *breakers) names(destination string) []string {
	switch {
	case isTarget(destination):
		return []string{destination}
	case b.newInTable(destination):
		return []string{destination, newDestinationsOf(destination), outbox.TargetOf(destination)}
	default:
		return []string{destination, outbox.TargetOf(destination)}
	}
}

// namesOf are those of all marks, each name once. It takes the lock.
func (b *breakers) namesOf(marks []mark) (names []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, m := range marks {
		names = append(names, b.names(m.Destination)...)
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// sawRow notes what a row said of its destination: that a breaker of it is failing, and that a
// message has reached it. It takes the lock.
func (b *breakers) sawRow(destination string, failing, reached bool) {
	if !failing && !reached {
		return
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if reached {
		b.sawReached(destination)
	}
	if failing {
		for _, name := range b.names(destination) {
			b.state(name).failing = true
		}
	}
}

// sawReached notes that by the table a message has reached a destination.
func (b *breakers) sawReached(destination string) {
	if d := b.state(destination); d.notedAt.IsZero() {
		d.reachedAt, d.notedAt = time.Now(), time.Now()
	}
}

// sawMarks does so for what a walk found. It takes the lock.
func (b *breakers) sawMarks(found []mark) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for _, m := range found {
		if m.Reached {
			b.sawReached(m.Destination)
		}
	}
}

// state returns what is known of a breaker.
func (b *breakers) state(name string) *destinationState {
	d := b.states[name]
	if d == nil {
		if len(b.states) >= maxDestinationStates {
			b.forgetState()
		}
		d = &destinationState{}
		b.states[name] = d
	}
	return d
}

// forgetState makes room for one: rather of a destination that is a part of its target, of which
// there are many.
func (b *breakers) forgetState() {
	spare := ""
	for name, d := range b.states {
		if d.writing {
			continue
		}
		if spare = name; !isTarget(name) {
			break
		}
	}
	delete(b.states, spare)
}

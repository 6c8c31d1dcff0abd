package outboxdb

import (
	"context"
	"errors"
	"sync"
	"time"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/text"
	"github.com/outflowhq/outflow/outbox"
)

// A destination that does not exist opens its breaker with the first failure, and says so in its
// row (missing_since). Its messages wait as rows:
//   - a probe is a look-up, where the publisher can look up, and only then a message
//   - runs off the fast path are signalled, and leave their messages to their rows
//   - missing.go ends messages that have waited long enough
const (
	// maxMissingOpening is the longest time until a missing destination is looked up again: its
	// messages go out some seconds after somebody has made it.
	maxMissingOpening = 5 * time.Second
	// lookWorkers bounds the look-ups under way, lookTimeout each of them, and looksTimeout all of
	// a round.
	lookWorkers  = 16
	lookTimeout  = outflow.FastPathCallTime
	looksTimeout = 2 * lookTimeout
)

// destinationMissing notes that a destination does not exist. It runs under the lock.
func (b *breakers) destinationMissing(destination string, err error) {
	if outbox.WasAnswered(err) { // the target's connection works
		for _, name := range b.names(destination) {
			if name != destination {
				b.close(name, 0)
			}
		}
	}
	d := b.state(destination)
	// A destination counts once, however many of its messages were under way.
	if !d.missing && !b.reached(destination) {
		b.newDestinations.consecutiveFailures++
	}
	d.missing, d.missingUnwritten, d.found, d.notes.missing = true, true, false, text.Clean(err.Error())
	b.failed(destination, err, 0)
}

// foundAgain notes that a look-up has found a destination that was missing. Whether it takes messages is
// for a message to show. It takes the lock.
func (b *breakers) foundAgain(destination string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.state(destination).found = true
}

// noLongerMissing has the row of a destination forget that it was missing: a look-up has found it, and
// its failure counted for another breaker, which holds its messages back from now on. It runs under the
// lock.
func (b *breakers) noLongerMissing(destination string) {
	if d := b.states[destination]; d != nil && d.found {
		b.close(destination, 0)
	}
}

// lookUp looks missing destinations up, and returns their probes without those that are still missing,
// or that there was no time for. look may be nil.
func (s *Store) lookUp(
	ctx context.Context, probes []outbox.Probe, look func(context.Context, string) error,
) (left []outbox.Probe) {
	if look == nil {
		return probes
	}
	ctx, cancel := context.WithTimeout(ctx, looksTimeout)
	defer cancel()
	leftOut := make([]bool, len(probes))
	var looking sync.WaitGroup
	for first := range lookWorkers {
		looking.Go(func() {
			for i := first; i < len(probes); i += lookWorkers {
				leftOut[i] = s.isMissing(ctx, probes[i], look)
			}
		})
	}
	looking.Wait()
	for i, p := range probes {
		if !leftOut[i] {
			left = append(left, p)
		}
	}
	return left
}

// isMissing looks a probe's destination up, and notes what it finds. A look-up that can't tell leaves
// it to the message, and so does a process without the scheme's publisher: another one sends it. Where
// the round's time is over, the next round looks.
func (s *Store) isMissing(ctx context.Context, p outbox.Probe, look func(context.Context, string) error) bool {
	s.breakers.sawRow(p.Destination, true, false)
	if ctx.Err() != nil {
		s.Observe(p.Destination, p.ID, outbox.Observation{Err: outflow.ErrNotAttempted})
		return true
	}
	inTime, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	err := look(inTime, p.Destination)
	switch {
	case err == nil:
		s.breakers.foundAgain(p.Destination)
	case outbox.IsMissing(err) && !errors.Is(err, outflow.ErrNoPublisher):
		s.Observe(p.Destination, p.ID, outbox.Observation{Err: err, Missing: true})
		return true
	}
	return false
}

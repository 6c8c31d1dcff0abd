package outboxdb

import "time"

const (
	// firstWindow is how many messages a process begins with, and windowGrowth how many more each
	// success allows: 20, 100, all.
	firstWindow  = 20
	windowGrowth = 4
	maxSlowStart = 100_000
	// After more than newDestinationsFailing failures in a row, and no success of any new
	// destination, a process claims at most newDestinationsAtOnce of their messages, once in
	// newDestinationsPause: ten thousand hosts that do not exist must not take Temporal's time from
	// those that do.
	newDestinationsFailing = 10
	newDestinationsAtOnce  = 2
	newDestinationsPause   = 250 * time.Millisecond
)

// slowStart is how far a breaker's window has opened beyond firstWindow.
type slowStart int

func (s *slowStart) grow(by int) { *s = min(*s+slowStart(by), maxSlowStart) }

// windowOf is how many messages of a breaker's destinations this process should have in flight: few
// until it has seen some arrive. A backlog for a destination that is down then costs Temporal a
// handful of runs. One that works has its whole allowance after two or three answers. A destination
// that asked for a wait, or does not exist, gets none, before its row says so. It runs under the
// lock.
func (b *breakers) windowOf(name string) int {
	switch d := b.states[name]; {
	case d == nil:
		return firstWindow
	case d.retryAfterUnwritten, d.missingUnwritten:
		return 0
	default:
		return firstWindow + int(d.window)
	}
}

// newDestinationsRoom is how many messages of new destinations may be claimed now, of as many as
// there is room for. It runs under the lock.
func (b *breakers) newDestinationsRoom(room int, now time.Time) int {
	if b.newDestinations.consecutiveFailures <= newDestinationsFailing {
		return room
	}
	if now.Before(b.newDestinations.nextClaim) {
		return 0
	}
	return min(room, newDestinationsAtOnce)
}

// claimedNewDestinations notes that messages of new destinations were claimed.
func (b *breakers) claimedNewDestinations(now time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.newDestinations.nextClaim = now.Add(newDestinationsPause)
}

// shares are the breakers whose room a message of a destination takes, and whether no message has
// reached the destination yet.
func (b *breakers) shares(destination string) (names []string, newDestination bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.names(destination), !b.reached(destination)
}

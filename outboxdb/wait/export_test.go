package wait

import (
	"time"

	"github.com/google/uuid"
)

// What the tests, which live in package wait_test, look at inside.

const (
	StatementOutcomes = outcomesSQL
	StatementGroups   = groupOutcomesSQL
	StatementListen   = `LISTEN "` + channel + `"`
)

// SetTimes shortens a Waiter's durations. It must not be waiting yet.
func (w *Waiter) SetTimes(linger, renew, echo time.Duration) {
	w.times.linger, w.times.renew, w.times.echo = linger, renew, echo
}

// SetSettle changes how long a Waiter waits for transactions that were open when it
// registered.
func (w *Waiter) SetSettle(d time.Duration) { w.times.settle = d }

// Notified reports whether notifications arrive, and Busy whether the Waiter has a session.
func (w *Waiter) Notified() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.session != nil && w.session.notified
}

func (w *Waiter) Busy() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.session != nil
}

// KeyOf stands for an ID in a notification.
func KeyOf(id uuid.UUID) string { return string(keyOf(id)) }

// Waiting is how many calls have no answer yet.
func (w *Waiter) Waiting() (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for range w.all() {
		n++
	}
	return n
}

// IsDue reports whether a message is to be polled now: its end was notified.
func (w *Waiter) IsDue(id uuid.UUID) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return !w.byKey[keyOf(id)][0].pollAt.After(time.Now())
}

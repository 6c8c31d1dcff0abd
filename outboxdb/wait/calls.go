package wait

import (
	"crypto/sha256"
	"encoding/hex"
	"iter"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/outflowhq/outflow"
)

// call is one call of Wait. The Waiter's lock guards it until it is answered.
type call struct {
	id       uuid.UUID
	answered chan struct{}   // closed once outcome and err are the answer
	outcome  outflow.Outcome // as last polled
	err      error           // the answer's, or the last poll's
	gone     bool            // answered, or its ctx has ended: nothing is written here any more
	pollAt   time.Time       // never while a poll is under way
	pause    time.Duration   // between the last poll and the next
}

// never is the pollAt of a message that is being polled, unless it is notified meanwhile.
var never = time.Now().AddDate(100, 0, 0)

// messageKey stands for a message ID in a notification; outbox.notice_of computes the same.
type messageKey string

func keyOf(id uuid.UUID) messageKey {
	sum := sha256.Sum256(id[:])
	return messageKey(hex.EncodeToString(sum[:6]))
}

// join has the call's message polled at once, and again until the call is answered.
func (w *Waiter) join(c *call) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return ErrClosed
	}
	c.pollAt = time.Now()
	key := keyOf(c.id)
	w.calls[key] = append(w.calls[key], c)
	if w.session == nil {
		w.session = w.startSession()
	}
	w.session.idleSince = time.Time{}
	w.session.wake()
	return nil
}

// leave removes a call whose ctx has ended. It reports false where the call was answered
// before.
func (w *Waiter) leave(c *call) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.remove(c)
}

// remove runs under the lock, as answer and all do.
func (w *Waiter) remove(c *call) bool {
	if c.gone {
		return false
	}
	c.gone = true
	key := keyOf(c.id)
	rest := slices.DeleteFunc(w.calls[key], func(other *call) bool { return other == c })
	if w.calls[key] = rest; len(rest) == 0 {
		delete(w.calls, key)
	}
	return true
}

func (w *Waiter) answer(c *call, err error) {
	if w.remove(c) {
		c.err = err
		close(c.answered)
	}
}

// all are the calls; they may be answered during the iteration.
func (w *Waiter) all() iter.Seq[*call] {
	return func(yield func(*call) bool) {
		for _, calls := range w.calls {
			for _, c := range slices.Clone(calls) {
				if !yield(c) {
					return
				}
			}
		}
	}
}

// pollNow has the messages with these keys polled now; without keys, all messages.
func (w *Waiter) pollNow(keys []messageKey) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	if len(keys) == 0 {
		for c := range w.all() {
			c.pollAt = now
		}
	}
	for _, key := range keys {
		for _, c := range w.calls[key] {
			c.pollAt = now
		}
	}
	if w.session != nil {
		w.session.wake()
	}
}

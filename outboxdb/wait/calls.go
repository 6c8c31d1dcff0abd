package wait

import (
	"crypto/sha256"
	"encoding/hex"
	"iter"
	"maps"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/outflowhq/outflow"
)

// call is one call of Wait or WaitAll. The Waiter's lock guards it until it is answered.
type call struct {
	id       uuid.UUID
	all      bool              // id may be a group's
	keys     []messageKey      // of the messages whose notifications have it polled
	answered chan struct{}     // closed once outcomes and err are the answer
	outcomes []outflow.Outcome // as last polled; without all, one at most
	err      error             // the answer's, or the last poll's
	gone     bool              // answered, or its ctx has ended: nothing is written here any more
	pollAt   time.Time         // never while a poll is under way
	pause    time.Duration     // between the last poll and the next
}

// ended reports whether all messages of the call have ended.
func (c *call) ended() bool {
	return !slices.ContainsFunc(c.outcomes, func(o outflow.Outcome) bool { return !o.State.Final() })
}

// never is the pollAt of a call that is being polled for, unless it is notified meanwhile.
var never = time.Now().AddDate(100, 0, 0)

// messageKey stands for a message ID in a notification; outbox.notice_of computes the same.
type messageKey string

func keyOf(id uuid.UUID) messageKey {
	sum := sha256.Sum256(id[:])
	return messageKey(hex.EncodeToString(sum[:6]))
}

// join has the call's messages polled at once, and again until the call is answered.
func (w *Waiter) join(c *call) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return ErrClosed
	}
	c.pollAt = time.Now()
	w.calls[c] = struct{}{}
	w.follow(c, []messageKey{keyOf(c.id)})
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
	delete(w.calls, c)
	w.follow(c, nil)
	return true
}

// follow has notifications about the messages with these keys, and about no others, poll for the
// call. It reports whether there is a new key: a notification about it may have been missed.
func (w *Waiter) follow(c *call, keys []messageKey) (more bool) {
	for _, key := range c.keys {
		if slices.Contains(keys, key) {
			continue
		}
		rest := slices.DeleteFunc(w.byKey[key], func(other *call) bool { return other == c })
		if w.byKey[key] = rest; len(rest) == 0 {
			delete(w.byKey, key)
		}
	}
	for _, key := range keys {
		if !slices.Contains(c.keys, key) {
			w.byKey[key] = append(w.byKey[key], c)
			more = true
		}
	}
	c.keys = keys
	return more
}

// pendingKeys are the keys of the call's messages that have not ended.
func (c *call) pendingKeys() (keys []messageKey) {
	for _, o := range c.outcomes {
		if !o.State.Final() {
			keys = append(keys, keyOf(o.ID))
		}
	}
	return keys
}

func (w *Waiter) answer(c *call, err error) {
	if w.remove(c) {
		c.err = err
		close(c.answered)
	}
}

// all are the calls; they may be answered during the iteration.
func (w *Waiter) all() iter.Seq[*call] { return maps.Keys(w.calls) }

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
		for _, c := range w.byKey[key] {
			c.pollAt = now
		}
	}
	if w.session != nil {
		w.session.wake()
	}
}

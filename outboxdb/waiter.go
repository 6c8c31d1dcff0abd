package outboxdb

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outflowhq/outflow"
)

// ErrWaiterClosed says that the Waiter was closed.
var ErrWaiterClosed = errors.New("the waiter is closed")

const (
	// defaultPoll is how long a lost notification can go unnoticed.
	defaultPoll = 5 * time.Second
	// The pauses between two looks at a message double while nothing is heard: most
	// messages end within a second.
	firstPause = 25 * time.Millisecond
	deafPause  = time.Second
	// waiterLinger keeps the connection for the next Wait.
	waiterLinger = 30 * time.Second
)

// Waiter waits for the ends of messages. However many wait, it uses one connection
// of its own, on which the statements that end messages are heard (LISTEN), and
// asks for all of them in one statement, through its pool. What it hears only says
// where to look. Where nothing can be heard (a transaction pooler, a connection
// that breaks) messages are looked at after 25 ms, twice that, and so on, up to
// once a second, and the connection is made again.
//
// A Waiter does nothing until somebody waits for a message that has not ended. It
// lets go of its connection when nobody has waited for 30 seconds, or by Close. It
// is safe for concurrent use. Its role needs the rights of a producer, a dispatcher
// or an operator (see Grants).
type Waiter struct {
	db       waiterDB
	listenOn *pgx.ConnConfig
	log      *slog.Logger
	times    waiterTimes
	// goroutines counts those of sessions.
	goroutines sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	session *session // nil while nobody waits
	waiting map[notice][]*waiting
}

// waiterTimes are a Waiter's durations; tests shorten them.
type waiterTimes struct {
	poll, linger, renew, echo, settle time.Duration
}

// waiting is one call of Wait. The Waiter's lock holds it, until it is answered.
type waiting struct {
	id       uuid.UUID
	answered chan struct{}   // closed once outcome and err are the answer
	outcome  outflow.Outcome // what is known
	err      error           // the answer's, or that of the last look
	gone     bool            // answered, or its ctx has ended: nothing is written here any more
	next     time.Time       // when to look; never while a look is under way
	pause    time.Duration   // between the last look and the next
}

// notice is what stands for an ID in a notification, as outbox.notice_of makes it.
type notice string

func noticeOf(id uuid.UUID) notice {
	sum := sha256.Sum256(id[:])
	return notice(hex.EncodeToString(sum[:6]))
}

// WaiterOption changes how a Waiter works.
type WaiterOption func(*Waiter)

// PollEvery has messages looked at after d while notifications are heard, where a
// lost one would otherwise go unnoticed. The default is 5 s.
func PollEvery(d time.Duration) WaiterOption { return func(w *Waiter) { w.times.poll = d } }

// ListenOn has the Waiter listen on a connection of its own settings. Give the
// database's own address where the pool goes through a transaction pooler, which
// drops notifications.
func ListenOn(config *pgx.ConnConfig) WaiterOption {
	return func(w *Waiter) { w.listenOn = config.Copy() }
}

// LogTo has the Waiter log to l why it can't listen. The default is slog.Default().
func LogTo(l *slog.Logger) WaiterOption { return func(w *Waiter) { w.log = l } }

// NewWaiter returns a Waiter over pool, which stays the caller's: close the Waiter
// first.
func NewWaiter(pool *pgxpool.Pool, options ...WaiterOption) *Waiter {
	return newWaiter(newWaiterOverPgx(pool), options)
}

func newWaiter(db waiterDB, options []WaiterOption) *Waiter {
	w := &Waiter{
		db: db, log: slog.Default(), waiting: make(map[notice][]*waiting),
		times: waiterTimes{poll: defaultPoll, linger: waiterLinger, renew: renewWaiter, echo: echoTimeout, settle: settleTimeout},
	}
	for _, option := range options {
		option(w)
	}
	return w
}

// Wait returns how the message ended, whichever of the four ends that is, at once
// where it has ended already. Call it after the commit that enqueued the message: of
// one that is not committed it says outflow.ErrNotFound.
//
// When ctx ends first, Wait returns ctx's error, with the message as it was last
// seen. A database that can't be reached is waited for; ctx's error then names what
// failed. Rights that are missing, or an outbox older than this build, end the wait.
//
// Wait returns the first end that it sees. An operator may start a message anew
// after it, with the next generation; who wants to see that end, too, waits again. A
// late acknowledgement that turns a dead message into a delivered one is not waited for.
func (w *Waiter) Wait(ctx context.Context, id uuid.UUID) (outflow.Outcome, error) {
	one := &waiting{id: id, answered: make(chan struct{}), outcome: outflow.Outcome{ID: id}, pause: firstPause}
	if ctx.Err() != nil {
		return one.outcome, fmt.Errorf("waiting for message %s: %w", id, ctx.Err())
	}
	if err := w.join(one); err != nil {
		return one.outcome, fmt.Errorf("waiting for message %s: %w", id, err)
	}
	select {
	case <-one.answered:
	case <-ctx.Done():
		if w.leave(one) {
			return one.outcome, fmt.Errorf("waiting for message %s: %w", id, withLast(ctx.Err(), one.err))
		}
	}
	if one.err != nil {
		return one.outcome, fmt.Errorf("waiting for message %s: %w", id, one.err)
	}
	return one.outcome, nil
}

func withLast(err, last error) error {
	if last == nil {
		return err
	}
	return fmt.Errorf("%w; the last look: %w", err, last)
}

// Close ends every Wait with ErrWaiterClosed, closes the connection and returns when
// all of that is done. Later calls of Wait fail; a second Close does nothing.
func (w *Waiter) Close() {
	w.mu.Lock()
	w.closed = true
	for _, all := range w.waiting {
		for _, one := range slices.Clone(all) {
			w.answer(one, ErrWaiterClosed)
		}
	}
	if w.session != nil {
		w.session.end()
	}
	w.mu.Unlock()
	w.goroutines.Wait()
}

// join has a message looked at, at once and until it is answered.
func (w *Waiter) join(one *waiting) error {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		return ErrWaiterClosed
	}
	one.next = time.Now()
	notice := noticeOf(one.id)
	w.waiting[notice] = append(w.waiting[notice], one)
	if w.session == nil {
		w.session = w.begin()
	}
	w.session.idle = time.Time{}
	w.session.wake()
	return nil
}

// leave reports false where one was answered before.
func (w *Waiter) leave(one *waiting) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.remove(one)
}

// remove runs under the lock, as answer does.
func (w *Waiter) remove(one *waiting) bool {
	if one.gone {
		return false
	}
	one.gone = true
	notice := noticeOf(one.id)
	rest := slices.DeleteFunc(w.waiting[notice], func(other *waiting) bool { return other == one })
	if w.waiting[notice] = rest; len(rest) == 0 {
		delete(w.waiting, notice)
	}
	return true
}

func (w *Waiter) answer(one *waiting, err error) {
	if w.remove(one) {
		one.err = err
		close(one.answered)
	}
}

// ended has messages looked at that were heard to have ended: all of them where
// there is no notice.
func (w *Waiter) ended(notices []notice) {
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	if len(notices) == 0 {
		for _, all := range w.waiting {
			lookAt(all, now)
		}
	}
	for _, n := range notices {
		lookAt(w.waiting[n], now)
	}
	if w.session != nil {
		w.session.wake()
	}
}

func lookAt(all []*waiting, now time.Time) {
	for _, one := range all {
		one.next = now
	}
}

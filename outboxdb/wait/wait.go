// Package wait waits for the ends of messages: an HTTP handler enqueues, commits, and
// answers when the message is delivered.
//
//	waiter := wait.New(pool) // one for all of a process
//	defer waiter.Close()
//	// … enqueue and commit …
//	ctx, cancel := context.WithTimeout(ctx, 2*time.Second)
//	defer cancel()
//	outcome, err := waiter.Wait(ctx, id)
//
// The invariant: Wait returns the end of a message that was committed before the call,
// whether notifications arrive or not. A notification only says when to poll.
package wait

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"github.com/outflowhq/outflow"
)

// ErrClosed says that the Waiter was closed.
var ErrClosed = errors.New("the waiter is closed")

const (
	// defaultPoll is how long a lost notification can go unnoticed.
	defaultPoll = 5 * time.Second
	// Without notifications, the pauses between two polls of a message double between
	// these. Most messages end within a second.
	minPause = 25 * time.Millisecond
	maxPause = time.Second
	// defaultLinger keeps the connection for the next Wait.
	defaultLinger = 30 * time.Second
)

// Waiter waits for the ends of messages. However many calls wait, it listens on one
// connection of its own (LISTEN), and polls all their messages in one statement, through
// the pool. Where notifications do not arrive (a transaction pooler, a broken connection),
// it polls after 25 ms, 50 ms, and so on, up to once a second, and opens the connection
// again.
//
// A Waiter is idle until a call waits for a message that has not ended. It closes its
// connection 30 seconds after the last call, or on Close. It is safe for concurrent use.
// Its role needs the rights of a producer, a dispatcher or an operator ("outflow grants").
type Waiter struct {
	db       database
	listenOn *pgx.ConnConfig
	log      *slog.Logger
	times    times
	// goroutines counts those of sessions.
	goroutines sync.WaitGroup

	mu      sync.Mutex
	closed  bool
	session *session // nil while no call waits
	calls   map[messageKey][]*call
}

// times are a Waiter's durations; tests shorten them.
type times struct {
	poll, linger, renew, echo, settle time.Duration
}

// Option changes how a Waiter works.
type Option func(*Waiter)

// PollEvery sets the time between two polls of a message while notifications arrive: how
// long a lost notification can go unnoticed. The default is 5 s.
func PollEvery(d time.Duration) Option { return func(w *Waiter) { w.times.poll = d } }

// ListenOn has the Waiter listen on a connection with settings of its own. Give the
// database's own address where the pool goes through a transaction pooler, which drops
// notifications.
func ListenOn(config *pgx.ConnConfig) Option {
	return func(w *Waiter) { w.listenOn = config.Copy() }
}

// LogTo has the Waiter log to l why it can't listen. The default is slog.Default().
func LogTo(l *slog.Logger) Option { return func(w *Waiter) { w.log = l } }

// New returns a Waiter over pool, which stays the caller's: close the Waiter first.
func New(pool *pgxpool.Pool, options ...Option) *Waiter {
	return newWaiter(overPgx(pool), options)
}

// NewSQL returns a Waiter over database/sql, with any driver for Postgres. db stays the
// caller's: close the Waiter first. Without ListenOn it can't listen, and polls after
// 25 ms, 50 ms, and so on, up to once a second:
//
//	config, err := pgx.ParseConfig(databaseURL)
//	waiter := wait.NewSQL(db, wait.ListenOn(config))
func NewSQL(db *sql.DB, options ...Option) *Waiter {
	return newWaiter(sqlDatabase{db}, options)
}

func newWaiter(db database, options []Option) *Waiter {
	w := &Waiter{
		db: db, log: slog.Default(), calls: make(map[messageKey][]*call),
		times: times{poll: defaultPoll, linger: defaultLinger, renew: renewEvery, echo: echoTimeout,
			settle: settleTimeout},
	}
	for _, option := range options {
		option(w)
	}
	return w
}

// Wait returns how the message ended: delivered, dead, expired or cancelled. It returns at
// once when the message has ended already. Call it after the commit that enqueued the
// message: before, the error is outflow.ErrNotFound.
//
// When ctx ends first, Wait returns ctx's error, and the message as it was last seen. An
// unreachable database does not end the wait; ctx's error then names the last failure.
// Missing rights and a missing or older schema end it with an error.
//
// Wait returns the first end that it sees. After it, an operator may retry the message as
// the next generation, and a late acknowledgement may turn dead into delivered. Wait again
// to see that end.
func (w *Waiter) Wait(ctx context.Context, id uuid.UUID) (outflow.Outcome, error) {
	c := &call{id: id, answered: make(chan struct{}), outcome: outflow.Outcome{ID: id}, pause: minPause}
	if ctx.Err() != nil {
		return c.outcome, fmt.Errorf("waiting for message %s: %w", id, ctx.Err())
	}
	if err := w.join(c); err != nil {
		return c.outcome, fmt.Errorf("waiting for message %s: %w", id, err)
	}
	select {
	case <-c.answered:
	case <-ctx.Done():
		if w.leave(c) {
			return c.outcome, fmt.Errorf("waiting for message %s: %w", id, withLast(ctx.Err(), c.err))
		}
	}
	if c.err != nil {
		return c.outcome, fmt.Errorf("waiting for message %s: %w", id, c.err)
	}
	return c.outcome, nil
}

func withLast(err, last error) error {
	if last == nil {
		return err
	}
	return fmt.Errorf("%w; the last poll: %w", err, last)
}

// Close ends every Wait with ErrClosed and closes the connection. It returns when all of
// that is done. Later calls of Wait fail; a second Close does nothing.
func (w *Waiter) Close() {
	w.mu.Lock()
	w.closed = true
	for c := range w.all() {
		w.answer(c, ErrClosed)
	}
	if w.session != nil {
		w.session.end()
	}
	w.mu.Unlock()
	w.goroutines.Wait()
}

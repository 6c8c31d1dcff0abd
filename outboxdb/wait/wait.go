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
// The invariant: Wait returns the end of a message that was committed before the call, and
// WaitAll the ends of all messages that were enqueued together by route, whether notifications
// arrive or not. A notification only says when to poll.
package wait

import (
	"context"
	"database/sql"
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
	calls   map[*call]struct{}
	byKey   map[messageKey][]*call // by the messages whose ends have them polled
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
		db: db, log: slog.Default(), calls: make(map[*call]struct{}), byKey: make(map[messageKey][]*call),
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
//
// The ID of an enqueue by route is no message's: WaitAll takes it.
func (w *Waiter) Wait(ctx context.Context, id uuid.UUID) (outflow.Outcome, error) {
	outcomes, err := w.wait(ctx, &call{id: id})
	if err != nil {
		err = fmt.Errorf("waiting for message %s: %w", id, err)
	}
	if len(outcomes) == 0 {
		return outflow.Outcome{ID: id}, err
	}
	return outcomes[0], err
}

// WaitAll returns how all messages ended that an ID stands for which Enqueue returned: the
// messages of the group where the enqueue was by route, otherwise the one message. The outcomes
// are in the order of their destinations, which they name without the query of an address.
//
// It waits until every message has ended, and returns them as they stand at one moment. An end
// other than delivered is no error, and ends nobody else's wait: look at each outcome's State.
// Messages that are purged meanwhile are not among the outcomes.
//
// The error is outflow.ErrNotFound where there is no message: before the commit, after the
// purge, and where the type's only route is outflow.RouteToNowhere. When ctx ends first,
// WaitAll returns ctx's error, and the messages as they were last seen. Otherwise it is as
// Wait.
func (w *Waiter) WaitAll(ctx context.Context, id uuid.UUID) ([]outflow.Outcome, error) {
	outcomes, err := w.wait(ctx, &call{id: id, all: true})
	if err != nil {
		err = fmt.Errorf("waiting for the messages of %s: %w", id, err)
	}
	return slices.Clone(outcomes), err // another call of the same ID has the same ones
}

// wait returns the outcomes of a call, as they were last polled where there is an error.
func (w *Waiter) wait(ctx context.Context, c *call) ([]outflow.Outcome, error) {
	c.answered, c.pause = make(chan struct{}), minPause
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	if err := w.join(c); err != nil {
		return nil, err
	}
	select {
	case <-c.answered:
	case <-ctx.Done():
		if w.leave(c) {
			return c.outcomes, withLast(ctx.Err(), c.err)
		}
	}
	return c.outcomes, c.err
}

func withLast(err, last error) error {
	if last == nil {
		return err
	}
	return fmt.Errorf("%w; the last poll: %w", err, last)
}

// Close ends every Wait and WaitAll with ErrClosed and closes the connection. It returns when
// all of that is done. Later calls fail; a second Close does nothing.
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

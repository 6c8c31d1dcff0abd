package wait

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/outflowhq/outflow/internal/listen"
)

const (
	// channel and registrationPrefix stand in the migration, too. A notification is
	// the keys of messages that have ended (empty: too many to name), or the registration
	// of a waiter. Anybody may send one: it costs a poll at most.
	channel            = "outflow_ended"
	registrationPrefix = "waiter "

	// renewEvery is the time between two registrations. One lasts a minute.
	renewEvery = 20 * time.Second
	// echoTimeout is how soon a registration must arrive on the connection.
	echoTimeout = 5 * time.Second
	// settleTimeout bounds the wait for transactions that were open at the registration.
	// A transaction that ends messages is shorter; others, in any database of the server,
	// may last longer.
	settleTimeout = 5 * time.Second
)

// listen keeps a connection on which ends are notified until the session ends.
func (s *session) listen() {
	l := listen.Listener{
		Channel: func(uuid.UUID) string { return channel }, Config: s.connectionConfig,
		Register: func(ctx context.Context, waiter uuid.UUID) error {
			return s.w.db.exec(ctx, registerWaiter, waiter.String())
		},
		Unregister: s.unregister,
		Echo:       func(waiter uuid.UUID) string { return registrationPrefix + string(keyOf(waiter)) },
		Interval:   s.w.times.renew, EchoTimeout: s.w.times.echo,
		Ready: s.awaitOpenTransactions, Notified: s.receive, Lost: s.lost,
	}
	l.Run(s.ctx)
}

// canListen reports whether there is a way to open a connection to listen on.
func (w *Waiter) canListen() bool {
	_, onlySQL := w.db.(sqlDatabase)
	return w.listenOn != nil || !onlySQL
}

func (s *session) connectionConfig(ctx context.Context) (*pgx.ConnConfig, error) {
	if s.w.listenOn != nil {
		return s.w.listenOn, nil
	}
	return s.w.db.connectionConfig(ctx)
}

// unregister ends a registration: without any, ends are not notified. Where it fails, the
// registration expires.
func (s *session) unregister(ctx context.Context, waiter uuid.UUID) {
	if err := s.w.db.exec(ctx, unregisterWaiter, waiter.String()); err != nil {
		s.w.log.Debug("unregistering a waiter; the registration expires", "error", err)
	}
}

// receive has the messages polled that a notification names. Registrations are those of
// other waiters.
func (s *session) receive(payload string) {
	if strings.HasPrefix(payload, registrationPrefix) {
		return
	}
	s.w.pollNow(keysIn(payload))
}

// keysIn reads the keys of a notification; none stands for all messages.
func keysIn(payload string) (keys []messageKey) {
	if payload == "" {
		return nil
	}
	for key := range strings.SplitSeq(payload, ",") {
		keys = append(keys, messageKey(key))
	}
	return keys
}

func (s *session) lost(reason error) {
	s.setNotified(false)
	if s.ctx.Err() == nil {
		s.w.log.Warn("listening for the ends of messages; they are polled until that works", "error", reason)
	}
}

// awaitOpenTransactions waits until the transactions have ended that were open at the
// registration: such a transaction may have read the waiters before, and notifies none. From
// then on every end is notified.
func (s *session) awaitOpenTransactions(ctx context.Context, _ uuid.UUID) error {
	_, next, err := s.openTransactions(ctx)
	if err != nil {
		return err
	}
	began, pause := time.Now(), minPause
	for {
		oldest, _, err := s.openTransactions(ctx)
		if err != nil {
			return err
		}
		if oldest >= next || time.Since(began) > s.w.times.settle {
			s.setNotified(true)
			return nil
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(pause):
		}
		pause = min(2*pause, maxPause)
	}
}

func (s *session) openTransactions(ctx context.Context) (oldest, next uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, pollTimeout)
	defer cancel()
	if oldest, next, err = readTransactions(ctx, s.w.db); err != nil {
		return 0, 0, fmt.Errorf("reading which transactions are open: %w", err)
	}
	return oldest, next, nil
}

// setNotified says whether notifications arrive. A change has all messages polled at once:
// that finds what was missed before.
func (s *session) setNotified(notified bool) {
	s.w.mu.Lock()
	changed := s.notified != notified
	s.notified = notified
	if changed {
		for c := range s.w.all() {
			c.pause = minPause
		}
	}
	s.w.mu.Unlock()
	if changed {
		s.w.pollNow(nil)
	}
}

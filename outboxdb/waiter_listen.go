package outboxdb

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"strings"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

const (
	// renewWaiter is how often a waiter registers anew; the registration lasts a
	// minute.
	renewWaiter = 20 * time.Second
	// echoTimeout is how soon a connection must hear its own registration. What a
	// pooler drops, or a half-open connection swallows, is noticed by that.
	echoTimeout = 5 * time.Second
	// settleTimeout is how long transactions that were under way at the registration
	// are waited for. None that ends messages lasts so long; others, in any database
	// of the server, may.
	settleTimeout = 5 * time.Second
	// A broken connection is made again after these, doubling.
	firstReconnect = 100 * time.Millisecond
	lastReconnect  = 10 * time.Second
)

// The channel's name stands in the migration, too. A notification is the notices of
// messages that have ended, nothing where they are too many, or the registration of
// a waiter. Anybody may send one: it costs a look at most.
const (
	listenEnded  = `LISTEN outflow_ended`
	registration = "waiter "
)

const (
	keepWaiter = `SELECT outbox.keep_waiter($1)`
	dropWaiter = `SELECT outbox.drop_waiter($1)`
)

// transactionsUnderWay says which transactions may have looked for waiters before
// one was registered: those below "next" at that time, while "oldest" is below it.
const transactionsUnderWay = `
SELECT pg_snapshot_xmin(s) AS oldest, pg_snapshot_xmax(s) AS next FROM pg_current_snapshot() AS s`

var errNothingHeard = errors.New("notifications do not arrive: a transaction pooler drops them (see ListenOn), or the connection is dead")

// listen keeps a connection that hears ends, and makes it again when it breaks.
func (s *session) listen() {
	pause := firstReconnect
	for {
		heard, err := s.listenOnce()
		s.hear(false)
		if s.ctx.Err() != nil {
			return
		}
		if heard {
			pause = firstReconnect
		}
		s.w.log.Warn("listening for the ends of messages; they are polled until that works", "error", err)
		select {
		case <-s.ctx.Done():
			return
		case <-time.After(pause/2 + rand.N(pause/2)):
		}
		pause = min(2*pause, lastReconnect)
	}
}

// listenOnce listens until the connection breaks.
func (s *session) listenOnce() (heard bool, err error) {
	ctx, broken := context.WithCancelCause(s.ctx)
	conn, err := s.connect(ctx)
	if err != nil {
		broken(err)
		return false, err
	}
	waiter, echoes, kept := uuid.New(), make(chan struct{}, 1), make(chan struct{})
	go func() {
		defer close(kept)
		broken(s.keep(ctx, waiter, echoes))
	}()
	for {
		var n string
		if n, err = s.next(ctx, conn); err != nil {
			break
		}
		said, isRegistration := strings.CutPrefix(n, registration)
		switch {
		case !isRegistration:
			s.w.ended(noticesIn(n))
		case notice(said) == noticeOf(waiter):
			heard = true
			select {
			case echoes <- struct{}{}:
			default:
			}
		}
	}
	broken(err)
	<-kept
	s.close(conn, waiter)
	return heard, context.Cause(ctx)
}

func (s *session) next(ctx context.Context, conn *pgx.Conn) (string, error) {
	n, err := conn.WaitForNotification(ctx)
	if err != nil {
		return "", fmt.Errorf("waiting for a notification: %w", err)
	}
	return n.Payload, nil
}

// connect opens the connection as the pool opens its own.
func (s *session) connect(ctx context.Context) (*pgx.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	config := s.w.listenOn
	if config == nil {
		var err error
		if config, err = s.w.db.connection(ctx); err != nil {
			return nil, err
		}
	}
	conn, err := pgx.ConnectConfig(ctx, config.Copy())
	if err != nil {
		return nil, fmt.Errorf("opening the connection to listen on: %w", err)
	}
	if _, err := conn.Exec(ctx, listenEnded); err != nil {
		_ = conn.Close(ctx)
		return nil, fmt.Errorf("listening: %w", err)
	}
	return conn, nil
}

// close leaves nothing behind that has ends notified for nobody. Where that fails,
// the registration runs out.
func (s *session) close(conn *pgx.Conn, waiter uuid.UUID) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.ctx), time.Second)
	defer cancel()
	_ = conn.Close(ctx)
	if err := s.w.db.register(ctx, dropWaiter, waiter); err != nil {
		s.w.log.Debug("dropping the registration of a waiter; it runs out", "error", err)
	}
}

// keep keeps the waiter registered while its connection hears that, and returns why
// it does not.
func (s *session) keep(ctx context.Context, waiter uuid.UUID, echoes <-chan struct{}) error {
	if err := s.register(ctx, waiter, echoes); err != nil {
		return err
	}
	_, mark, err := s.underWay(ctx)
	if err != nil {
		return err
	}
	renew := time.NewTicker(s.w.times.renew)
	defer renew.Stop()
	began, pause := time.Now(), time.Duration(0)
	settle := time.NewTimer(pause)
	defer settle.Stop()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-renew.C:
			if err := s.register(ctx, waiter, echoes); err != nil {
				return err
			}
		case <-settle.C:
			oldest, _, err := s.underWay(ctx)
			if err != nil {
				return err
			}
			if oldest >= mark || time.Since(began) > s.w.times.settle {
				s.hear(true)
				continue
			}
			pause = min(max(2*pause, firstPause), deafPause)
			settle.Reset(pause)
		}
	}
}

func (s *session) register(ctx context.Context, waiter uuid.UUID, echoes <-chan struct{}) error {
	ctx, cancel := context.WithTimeoutCause(ctx, s.w.times.echo, errNothingHeard)
	defer cancel()
	if err := s.w.db.register(ctx, keepWaiter, waiter); err != nil {
		return fmt.Errorf("registering a waiter: %w", err)
	}
	select {
	case <-echoes:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (s *session) underWay(ctx context.Context) (oldest, next uint64, err error) {
	ctx, cancel := context.WithTimeout(ctx, lookTimeout)
	defer cancel()
	if oldest, next, err = s.w.db.underWay(ctx); err != nil {
		return 0, 0, fmt.Errorf("asking for the transactions under way: %w", err)
	}
	return oldest, next, nil
}

// hear has everything looked at once when notifications begin to arrive, and when
// they end: what was missed before is seen then.
func (s *session) hear(hears bool) {
	s.w.mu.Lock()
	changed := s.hears != hears
	s.hears = hears
	if changed {
		for _, all := range s.w.waiting {
			for _, one := range all {
				one.pause = firstPause
			}
		}
	}
	s.w.mu.Unlock()
	if changed {
		s.w.ended(nil)
	}
}

// noticesIn reads what a notification names: nothing means all.
func noticesIn(payload string) (notices []notice) {
	if payload == "" {
		return nil
	}
	for word := range strings.SplitSeq(payload, ",") {
		notices = append(notices, notice(word))
	}
	return notices
}

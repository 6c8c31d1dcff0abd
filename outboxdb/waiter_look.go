package outboxdb

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/outflowhq/outflow"
)

const (
	// lookIDs bounds one look.
	lookIDs = 1000
	// lookTimeout is one look's deadline.
	lookTimeout = 5 * time.Second
	// gather is how long a look waits for others to come along.
	gather = 2 * time.Millisecond
)

// outcomes is a function so that a producer may look, who has no right on the table.
const outcomes = `
SELECT o.id, o.state, o.generation, o.attempts, o.finished_at, o.broker_message_id, o.last_error, o.callback_due
  FROM outbox.outcomes($1::uuid[]) AS o`

// session is the time from one Wait to the moment when nobody has waited for a
// while: a goroutine that looks, and from the first message that has not ended
// another two that listen.
type session struct {
	w    *Waiter
	ctx  context.Context
	end  context.CancelFunc
	woke chan struct{}

	// Under the Waiter's lock.
	listens bool
	hears   bool      // notifications arrive, and nothing that ended before that was missed
	idle    time.Time // since when nobody has waited; zero while somebody does
}

// begin runs under the lock.
func (w *Waiter) begin() *session {
	s := &session{w: w, woke: make(chan struct{}, 1)}
	s.ctx, s.end = context.WithCancel(context.Background())
	w.goroutines.Go(s.look)
	return s
}

func (s *session) wake() {
	select {
	case s.woke <- struct{}{}:
	default:
	}
}

// look looks at messages when they are due, all in one statement, until nobody
// waits any more.
func (s *session) look() {
	defer s.end()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		due, rest := s.due()
		if len(due) > 0 {
			s.lookAt(due)
			continue
		}
		if rest <= 0 {
			return
		}
		timer.Reset(rest)
		select {
		case <-s.ctx.Done():
			return
		case <-s.woke:
			timer.Reset(gather)
			select {
			case <-s.ctx.Done():
				return
			case <-timer.C:
			}
		case <-timer.C:
		}
	}
}

// due takes the messages that are to be looked at now, or says how long there is
// none: 0 where nobody has waited for a while, and the session is over. Whose turn
// comes soon goes along.
func (s *session) due() (due []*waiting, rest time.Duration) {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	now := time.Now()
	if len(s.w.waiting) == 0 {
		return nil, s.linger(now)
	}
	var soon []*waiting
	rest = time.Hour
	for _, all := range s.w.waiting {
		for _, one := range all {
			wait := one.next.Sub(now)
			switch {
			case wait <= 0:
				due = append(due, one)
			case wait <= one.pause/2:
				soon = append(soon, one)
			}
			rest = min(rest, wait)
		}
	}
	if len(due) == 0 {
		return nil, rest
	}
	due = append(due, soon...)
	for _, one := range due {
		one.next = never
	}
	return due, 0
}

// never is the turn of a message that is being looked at, unless its end is heard
// meanwhile.
var never = time.Now().AddDate(100, 0, 0)

// linger says how long the session goes on without anybody who waits. It runs under
// the lock.
func (s *session) linger(now time.Time) time.Duration {
	if s.idle.IsZero() {
		s.idle = now
	}
	rest := s.w.times.linger - now.Sub(s.idle)
	if rest <= 0 {
		s.w.session = nil // the next Wait begins another
	}
	return rest
}

// lookAt reads how messages stand and answers those that have ended. Only who
// waited before the statement was sent is answered by it.
func (s *session) lookAt(all []*waiting) {
	for len(all) > 0 {
		some := all[:min(len(all), lookIDs)]
		all = all[len(some):]
		found, err := s.read(some)
		s.settle(some, found, err)
	}
}

func (s *session) read(some []*waiting) (records, error) {
	ids := make([]uuid.UUID, 0, len(some))
	for _, one := range some {
		ids = append(ids, one.id)
	}
	ctx, cancel := context.WithTimeout(s.ctx, lookTimeout)
	defer cancel()
	found, err := s.w.db.outcomes(ctx, ids)
	if err != nil {
		return nil, fmt.Errorf("looking at %d messages: %w", len(ids), err)
	}
	byID := make(records, len(found))
	for _, r := range found {
		byID[r.ID] = looked{Record: r.record()}
	}
	return byID, nil
}

func (s *session) settle(some []*waiting, found records, err error) {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	now := time.Now()
	for _, one := range some {
		if one.gone {
			continue
		}
		record, ok := found[one.id]
		if err == nil && ok {
			one.outcome = record.Outcome()
		}
		switch {
		case err != nil && lasts(err):
			s.w.answer(one, err)
		case err == nil && !ok:
			s.w.answer(one, outflow.ErrNotFound)
		case err == nil && record.State.Final():
			s.w.answer(one, nil)
		default:
			one.err = err
			s.again(one, now)
		}
	}
	if len(s.w.waiting) > 0 && !s.listens && s.w.canListen() && s.ctx.Err() == nil {
		s.listens = true
		s.w.goroutines.Go(s.listen)
	}
}

// canListen reports whether there is a way to open a connection to listen on.
func (w *Waiter) canListen() bool {
	_, onlySQL := w.db.(waiterOverSQL)
	return w.listenOn != nil || !onlySQL
}

// again says when to look at a message next.
func (s *session) again(one *waiting, now time.Time) {
	pause := min(one.pause, deafPause, s.w.times.poll)
	one.pause = 2 * pause
	if s.hears && one.err == nil {
		pause, one.pause = s.w.times.poll, s.w.times.poll
	}
	if one.next.Equal(never) { // else its end was heard during the look
		one.next = now.Add(pause)
	}
}

// lasts reports whether an error of Postgres is there to stay: a right, a function,
// the whole outbox is missing, or the password is wrong.
// https://www.postgresql.org/docs/current/errcodes-appendix.html
func lasts(err error) bool {
	var pg interface{ SQLState() string } // pgx's error, and lib/pq's
	if !errors.As(err, &pg) || len(pg.SQLState()) < 2 {
		return false
	}
	switch pg.SQLState()[:2] {
	case "28", "3D", "3F", "42":
		return true
	}
	return false
}

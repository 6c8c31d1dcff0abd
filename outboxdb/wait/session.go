package wait

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"

	"github.com/outflowhq/outflow"
)

const (
	// maxPollIDs bounds the messages of one poll, pollTimeout its time.
	maxPollIDs  = 1000
	pollTimeout = 5 * time.Second
	// gather is how long a poll waits for other calls to join it.
	gather = 2 * time.Millisecond
)

// session lasts from one call of Wait until no call has waited for a while: a goroutine
// that polls, and, once a message has not ended, others that listen.
type session struct {
	w    *Waiter
	ctx  context.Context
	end  context.CancelFunc
	woke chan struct{}

	// Under the Waiter's lock.
	listens   bool
	notified  bool      // notifications arrive, and no end before the first was missed
	idleSince time.Time // zero while a call waits
}

// startSession runs under the lock.
func (w *Waiter) startSession() *session {
	s := &session{w: w, woke: make(chan struct{}, 1)}
	s.ctx, s.end = context.WithCancel(context.Background())
	w.goroutines.Go(s.poll)
	return s
}

func (s *session) wake() {
	select {
	case s.woke <- struct{}{}:
	default:
	}
}

// poll polls messages when they are due, all in one statement, until no call waits.
func (s *session) poll() {
	defer s.end()
	timer := time.NewTimer(0)
	defer timer.Stop()
	for {
		due, rest := s.takeDue()
		if len(due) > 0 {
			s.pollAll(due)
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

// takeDue returns the calls whose messages are to be polled now, and those that are due
// soon. Without any it returns the time until the next; 0 says that the session is over.
func (s *session) takeDue() (due []*call, rest time.Duration) {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	now := time.Now()
	if len(s.w.calls) == 0 {
		return nil, s.linger(now)
	}
	var soon []*call
	rest = time.Hour
	for c := range s.w.all() {
		wait := c.pollAt.Sub(now)
		switch {
		case wait <= 0:
			due = append(due, c)
		case wait <= c.pause/2:
			soon = append(soon, c)
		}
		rest = min(rest, wait)
	}
	if len(due) == 0 {
		return nil, rest
	}
	due = append(due, soon...)
	for _, c := range due {
		c.pollAt = never
	}
	return due, 0
}

// linger returns how long the session goes on without a call. It runs under the lock.
func (s *session) linger(now time.Time) time.Duration {
	if s.idleSince.IsZero() {
		s.idleSince = now
	}
	rest := s.w.times.linger - now.Sub(s.idleSince)
	if rest <= 0 {
		s.w.session = nil // the next Wait starts another
	}
	return rest
}

// pollAll reads how the calls' messages stand and answers the calls whose messages have
// ended. A poll answers no call that joined after its statement was sent. Calls of Wait and of
// WaitAll have a statement each: where one fails, the other goes on.
func (s *session) pollAll(calls []*call) {
	var ones, groups []*call
	for _, c := range calls {
		if c.all {
			groups = append(groups, c)
		} else {
			ones = append(ones, c)
		}
	}
	s.pollWith(outcomesSQL, ones)
	s.pollWith(groupOutcomesSQL, groups)
}

func (s *session) pollWith(statement string, calls []*call) {
	for some := range slices.Chunk(calls, maxPollIDs) {
		found, err := s.read(statement, some)
		s.settle(some, found, err)
	}
}

func (s *session) read(statement string, calls []*call) (map[uuid.UUID][]outflow.Outcome, error) {
	ids := make([]uuid.UUID, 0, len(calls))
	for _, c := range calls {
		ids = append(ids, c.id)
	}
	ctx, cancel := context.WithTimeout(s.ctx, pollTimeout)
	defer cancel()
	found, err := readOutcomes(ctx, s.w.db, statement, ids)
	if err != nil {
		return nil, fmt.Errorf("polling %d messages: %w", len(ids), err)
	}
	return found, nil
}

// settle answers the calls that a poll has an answer for, and says when the others are
// polled again. The first poll after which a call still waits starts the listener.
func (s *session) settle(calls []*call, found map[uuid.UUID][]outflow.Outcome, err error) {
	s.w.mu.Lock()
	defer s.w.mu.Unlock()
	now := time.Now()
	for _, c := range calls {
		if c.gone {
			continue
		}
		outcomes := found[c.id]
		if len(outcomes) > 0 {
			c.outcomes = outcomes
		}
		switch {
		case err != nil && isLasting(err):
			s.w.answer(c, err)
		case err != nil:
			c.err = err
			s.pollAgain(c, now)
		case len(outcomes) == 0:
			c.outcomes = nil // purged since they were last seen
			s.w.answer(c, outflow.ErrNotFound)
		case c.ended():
			s.w.answer(c, nil)
		default:
			c.err = nil
			s.pollAgain(c, now)
			if s.w.follow(c, c.pendingKeys()) {
				c.pollAt = now // a message may have ended since the poll, and notified nobody
			}
		}
	}
	if len(s.w.calls) > 0 && !s.listens && s.w.canListen() && s.ctx.Err() == nil {
		s.listens = true
		s.w.goroutines.Go(s.listen)
	}
}

// pollAgain sets when the call's message is polled next.
func (s *session) pollAgain(c *call, now time.Time) {
	pause := min(c.pause, maxPause, s.w.times.poll)
	c.pause = 2 * pause
	if s.notified && c.err == nil {
		pause, c.pause = s.w.times.poll, s.w.times.poll
	}
	if c.pollAt.Equal(never) { // otherwise the message was notified during the poll
		c.pollAt = now.Add(pause)
	}
}

// isLasting reports whether another poll would get the same error: a right, a function or
// the whole schema is missing, or the password is wrong.
// https://www.postgresql.org/docs/current/errcodes-appendix.html
func isLasting(err error) bool {
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

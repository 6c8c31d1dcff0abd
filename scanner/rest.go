package scanner

import (
	"cmp"
	"context"
	"time"

	"github.com/outflowhq/outflow/outbox"
)

const (
	// pollInterval is the default of Options.PollInterval, restInterval while a trigger works.
	pollInterval = 250 * time.Millisecond
	restInterval = time.Minute
	// lookInterval lies between two looks at what is due next, while the scanner waits for its trigger.
	// A hint that is lost costs no more.
	lookInterval = outbox.ListenInterval
	// A look may take one part in lookShare of the time: a held snapshot may make it slow.
	lookShare = 20
	// settling is how long a scanner goes on polling that has begun to wait for hints: a transaction
	// that was open then may know of no idle scanner.
	settling = 5 * time.Second
	// lookAgain is how soon a scanner claims again that was told of a message and found none. The wait
	// doubles from poll to poll: the database's log shows a commit before others may read it, by
	// microseconds, or by as long as a synchronous standby takes.
	lookAgain = 2 * time.Millisecond
	// inVainFor is how long it goes on polling then. The hint may also have been for a delayed message.
	inVainFor = time.Second
	// passInterval lies between two hints to other starters that there is more than this one can take.
	passInterval = 250 * time.Millisecond
	passTimeout  = 2 * time.Second
)

// Trigger tells a scanner of new messages. Nothing depends on it but the time that an idle scanner
// takes to find a message. Package trigger has implementations.
type Trigger interface {
	// Name is what people know it by; Problem says why it does not work, and is empty while it works.
	Name() string
	Problem() string
	// Run calls hinted for each hint until ctx ends, with how many starters have passed it on. hinted
	// does not block.
	Run(ctx context.Context, hinted func(passed int))
	// Rest says that this scanner is idle, and returns what it may wait for. It returns false while no
	// hint would arrive.
	Rest(ctx context.Context) (outbox.Rest, bool)
	// PassOn says that this scanner has no room, and tells another one, unless that was done often
	// enough.
	PassOn(ctx context.Context, passed int)
}

// runTrigger runs the trigger until the returned function is called.
func (s *Scanner) runTrigger(ctx context.Context) (stop func()) {
	if s.opts.Trigger == nil {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		s.opts.Trigger.Run(ctx, func(passed int) {
			select {
			case s.hints <- passed:
			default: // one claim answers both
			}
		})
	}()
	return func() { cancel(); <-ended }
}

// describe is this process as others see it.
func (s *Scanner) describe() outbox.Process {
	p := outbox.Process{Scans: true, Schemes: s.opts.Schemes, Trigger: "poll"}
	if s.opts.Trigger != nil {
		p.Trigger, p.TriggerProblem = s.opts.Trigger.Name(), s.opts.Trigger.Problem()
	}
	return p
}

// passOn tells another starter where this one can't take all that is due: its slots are taken, or a
// destination's, or it can't send to the destination.
func (s *Scanner) passOn(ctx context.Context, claimed outbox.Claimed) {
	passed, inVain := 0, s.trigger == "hint" && len(claimed.Messages) == 0
	if inVain {
		passed = s.rest.passed
	}
	cantSend := inVain && len(claimed.Refused)+len(claimed.Missing) > 0
	if s.opts.Trigger == nil || !claimed.Backlog && !cantSend || !s.passing.begin(passInterval) {
		return
	}
	s.background.Go(func() {
		defer s.passing.done()
		inTime, cancel := context.WithTimeout(ctx, passTimeout)
		defer cancel()
		s.opts.Trigger.PassOn(inTime, passed)
	})
}

// rest is the wait of an idle scanner. Only Run's goroutine uses it.
type rest struct {
	s       *Scanner
	passed  int           // how often the last hint was passed on
	polling time.Time     // it polls until then: it has begun to wait for hints, and some may be missing
	claimAt time.Time     // when the next claim comes, whatever happens
	lookAt  time.Time     // when the next look may come
	again   time.Duration // the next wait after a hint that found nothing; zero without such a hint
}

// interval is the wait between two polls.
func (r *rest) interval() time.Duration {
	own := r.s.opts.PollInterval
	if r.s.opts.Trigger == nil {
		return cmp.Or(own, pollInterval)
	}
	return min(cmp.Or(own, pollInterval), pollInterval)
}

// claimed notes a claim, and returns how long the scanner waits at most until the next one.
func (r *rest) claimed(claimed outbox.Claimed) time.Duration {
	now := time.Now()
	r.claimAt = now.Add(cmp.Or(r.s.opts.PollInterval, restInterval))
	switch {
	case len(claimed.Messages) > 0 || claimed.Backlog:
		r.again = 0
	case r.s.trigger == "hint":
		r.again, r.polling = lookAgain, now.Add(inVainFor)
	case r.again > 0:
		r.again *= 2
	}
	if r.again == 0 || r.again > r.interval() {
		r.again = 0
		return time.Hour
	}
	return r.again
}

// look returns how long the scanner may go on waiting, and true, or false where a claim is due. It is
// called when a poll is due that nobody asked for.
func (r *rest) look(ctx context.Context, claimed outbox.Claimed) (wait time.Duration, resting bool) {
	if r.s.opts.Trigger == nil || claimed.Backlog {
		return 0, false
	}
	now := time.Now()
	if !now.Before(r.claimAt) || now.Before(r.polling) || now.Before(r.lookAt) {
		return 0, false
	}
	found, ok := r.s.opts.Trigger.Rest(ctx)
	r.lookAt = now.Add(lookShare * time.Since(now))
	if !ok {
		return 0, false
	}
	if found.Began {
		r.polling = now.Add(settling)
	}
	if found.Began || found.Due || found.NextIn <= 0 {
		return 0, false
	}
	if due := now.Add(found.NextIn); due.Before(r.claimAt) {
		r.claimAt = due
	}
	return min(lookInterval, r.claimAt.Sub(now)), true
}

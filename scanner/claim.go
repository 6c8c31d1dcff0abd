package scanner

import (
	"context"
	"math/rand/v2"
	"time"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/timing"
	"github.com/outflowhq/outflow/outbox"
)

const (
	// claimTimeout bounds a claim: a connection that went silent, and was never closed, would
	// hold the scanner for hours. Messages of a claim whose answer came too late are left to their
	// lease.
	claimTimeout = 10 * time.Second
	// minGap lies between two claims, whatever wakes the scanner. Under a backlog it lets slots
	// come free, so that one claim fills many.
	minGap = 20 * time.Millisecond
	// A claim of fewer than smallClaim messages (or of a quarter of a destination's slots) costs
	// as much as a claim of many. Under a backlog the next one waits longer, up to longGap.
	smallClaim = 20
	longGap    = 40 * time.Millisecond
	// isolationInterval lies between two claims in isolation.
	isolationInterval = 5 * time.Second
)

// claim asks for as many messages as there are free slots. While Temporal fails starts it asks for
// one message, and only when no start is under way.
func (s *Scanner) claim(ctx context.Context) outbox.Claimed {
	room := s.slots.room()
	raised, left := s.temporal.state()
	switch {
	case left > 0:
		room.messages = 0
	case raised:
		room.messages = min(room.messages, 1-room.starting)
	}
	if room.messages < 1 { // an open breaker needs no slot to be probed
		return outbox.Claimed{Backlog: true, BreakerActive: s.breakerActive && !raised}
	}
	inTime, cancel := claimContext(ctx)
	defer cancel()
	began := time.Now()
	claimed, err := s.store.Claim(inTime, outbox.ClaimRequest{
		Lease: s.opts.Lease, MaxMessages: room.messages, MaxBytes: room.bytes,
		Allowance: s.opts.PerDestination, Open: room.open, NewDestinations: room.newDestinations,
		Refuse: s.opts.Refuse, SlowStart: true, Hinted: s.hinted(),
		MissingGrace: s.opts.MissingGrace,
	})
	s.record.Claimed(s.trigger, len(claimed.Messages), bytesOf(claimed.Messages), time.Since(began), err)
	if claimed.Problem != nil {
		s.opts.Logger.Warn("beside claiming messages", "error", claimed.Problem)
	}
	switch {
	case err == nil:
		s.database.succeeded()
		s.breakerActive = claimed.BreakerActive
	case ctx.Err() == nil:
		s.database.failed()
		s.opts.Logger.Error("claiming messages", "error", err)
	}
	return claimed
}

// bytesOf sums up payloads and headers.
func bytesOf(messages []outbox.ClaimedMessage) (sum int) {
	for _, m := range messages {
		sum += m.Bytes()
	}
	return sum
}

// claimContext returns the context of one claim.
func claimContext(ctx context.Context) (context.Context, context.CancelFunc) {
	inTime, cancel := context.WithTimeout(context.WithoutCancel(ctx), claimTimeout)
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(timing.StopClaim, cancel) })
	return inTime, func() { stop(); cancel() }
}

// deliverIsolated delivers one quarantined message with nothing else in flight in this process,
// until the message has ended or left the fast path. Other messages wait meanwhile, so it does
// this once in isolationInterval.
func (s *Scanner) deliverIsolated(ctx, starts context.Context) {
	if time.Now().Before(s.nextIsolated) {
		return
	}
	if !s.awaitIdle(ctx) {
		return
	}
	inTime, cancel := claimContext(ctx)
	defer cancel()
	claimed, err := s.store.ClaimIsolated(inTime, s.opts.Lease)
	if err != nil {
		s.opts.Logger.Error("claiming a quarantined message", "error", err)
	}
	for _, m := range claimed {
		s.opts.Logger.Warn("delivering a quarantined message in isolation: "+
			"the process crashed each time it had this message",
			"message", m.ID, "destination", outflow.DisplayDestination(m.Destination), "crashes", m.Claims-1)
	}
	s.startAll(starts, claimed)
	s.awaitIdle(ctx)
	s.nextIsolated = time.Now().Add(isolationInterval)
}

// awaitIdle waits until nothing is in flight, and reports whether that was before the end of ctx.
// After ctx, drain bounds the wait.
func (s *Scanner) awaitIdle(ctx context.Context) bool {
	idle := make(chan struct{})
	go func() {
		s.running.Wait()
		close(idle)
	}()
	select {
	case <-idle:
		return ctx.Err() == nil
	case <-ctx.Done():
		return false
	}
}

// awaitNextClaim waits until the next claim is worth its cost.
func (s *Scanner) awaitNextClaim(ctx context.Context, began time.Time, claimed outbox.Claimed) {
	if s.database.wait(ctx) || s.temporal.wait(ctx) {
		return
	}
	poll := min(s.pollAfter(claimed), s.rest.claimed(claimed))
	freed := s.slots.freed
	switch {
	case !claimed.Backlog:
		freed = nil // no message waits for a slot
	case len(claimed.Messages) > 0:
		poll = 0
	}
	answered := len(claimed.Messages) > 0
	if claimed.NewDestinationsIn > 0 && (s.wakePending && !answered || claimed.MoreDestinations) {
		// The claim may have missed the message that the wake was for: the wake stays. And where
		// there are many destinations, the next claim finds others.
		poll = min(poll, claimed.NewDestinationsIn)
	} else {
		s.wakePending = false
	}
	poll = min(poll, s.pollNoLater(claimed))
	if s.awaitReason(ctx, poll, freed, claimed); ctx.Err() != nil {
		return
	}
	gap := minGap
	small := len(claimed.Messages) < min(smallClaim, s.opts.PerDestination/4)
	if claimed.Backlog && small && s.slots.allBusy(claimed.Messages) {
		gap = longGap
	}
	sleep(ctx, gap-time.Since(began))
}

// pollNoLater returns the time until a poll must come: hinted claims that found messages, and did not
// look for other destinations, may follow each other without an end.
func (s *Scanner) pollNoLater(claimed outbox.Claimed) time.Duration {
	switch {
	case claimed.NewDestinationsIn == 0 || s.trigger == "poll":
		s.pollBy = time.Time{}
	case s.hinted() && len(claimed.Messages) > 0 && s.pollBy.IsZero():
		s.pollBy = time.Now().Add(min(s.rest.interval(), pollInterval))
	}
	if s.pollBy.IsZero() {
		return time.Hour
	}
	return time.Until(s.pollBy)
}

// hinted reports whether somebody said that there is a message.
func (s *Scanner) hinted() bool { return s.trigger == "hint" || s.trigger == "wake" }

// awaitReason waits for a reason to claim: the poll, or what comes before it.
func (s *Scanner) awaitReason(ctx context.Context, poll time.Duration, freed chan struct{}, claimed outbox.Claimed) {
	timer := time.NewTimer(poll)
	defer timer.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-timer.C:
			if wait, resting := s.rest.look(ctx, claimed); resting && !s.wakePending {
				s.pollBy = time.Time{} // the look has seen all destinations
				timer.Reset(wait)
				continue
			}
			s.trigger = "poll"
		case <-s.wake:
			s.wakePending, s.trigger = true, "wake"
		case s.rest.passed = <-s.hints:
			s.wakePending, s.trigger = true, "hint"
		case <-freed:
			s.trigger = "slot"
		}
		return
	}
}

// pollAfter returns the wait for the next poll. See Options.PollInterval.
func (s *Scanner) pollAfter(claimed outbox.Claimed) time.Duration {
	spread := 0.1
	if len(claimed.Messages) > 0 {
		spread = -0.5
	}
	interval := s.rest.interval()
	return interval + time.Duration(rand.Float64()*spread*float64(interval))
}

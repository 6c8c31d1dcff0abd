package faults

import (
	"context"
	"slices"
	"sync"
	"time"

	"github.com/google/uuid"
)

// The points at which an Ambush kills.
const (
	NotMarked = "acknowledged, not marked"
	NotSent   = "marked, callback not sent"
	Held      = "receiver has the request"
	NotNoted  = "receiver answered, not noted"
	NotClosed = "noted, run not closed"
)

// Points are all of them, in the order of a message's life.
var Points = []string{NotMarked, NotSent, Held, NotNoted, NotClosed}

// Moment is a point that an agent of one kind is killed at.
type Moment struct {
	Point   string
	Program string
	strike  func(ctx context.Context, a *Ambush, s *shot) (victim string, err error)
}

// Moments are each point with each kind of agent. Those whose work comes again
// only after thirty seconds, the time of an attempt to call back, stand first.
var Moments = []Moment{
	{Held, Starter, whileHeld},
	{NotNoted, Worker, behindGate(gateNote)},
	{NotClosed, Starter, afterTheNote},
	{NotSent, Worker, behindGate(gateBegin)},
	{NotMarked, Starter, behindGate(gateMark)},
	{Held, Worker, whileHeld},
	{NotNoted, Starter, behindGate(gateNote)},
	{NotClosed, Worker, afterTheNote},
	{NotSent, Starter, afterTheMark},
	{NotMarked, Worker, afterADurableAttempt},
}

// calm is how long a starter that is cut off has sent nothing when it has no more.
const calm = 300 * time.Millisecond

// behindGate kills an agent whose statement waits at a gate.
func behindGate(at gate) func(context.Context, *Ambush, *shot) (string, error) {
	return func(ctx context.Context, a *Ambush, s *shot) (string, error) {
		g, err := a.World.closeGate(ctx, at, s.number)
		if err != nil {
			return "", err
		}
		defer g.open()
		fire := a.fireAndMark
		if at == gateMark {
			fire = a.fire
		}
		if err := fire(ctx, s); err != nil {
			return "", err
		}
		victim, waiting, err := a.choose(ctx, s.Program, func() (map[string]int, error) { return g.waiting(ctx) })
		if err != nil {
			return "", err
		}
		if s.struck = waiting; at == gateMark { // one statement marks many
			if s.struck, err = a.count(ctx, "state = 'pending'", a.sentBy(s, victim.ID)); err != nil {
				return victim.ID, err
			}
		}
		return victim.ID, a.kill(victim)
	}
}

// fireAndMark fires a shot and waits until all of it is marked: whoever dies then,
// nothing of it may be published again.
func (a *Ambush) fireAndMark(ctx context.Context, s *shot) error {
	if err := a.fire(ctx, s); err != nil {
		return err
	}
	return a.until(ctx, "state = 'delivered'", s.ids, len(s.ids))
}

// whileHeld kills an agent whose requests the receiver has and does not answer.
func whileHeld(ctx context.Context, a *Ambush, s *shot) (string, error) {
	h := a.Receiver.Hold(s.path())
	defer h.Release(func(Call) bool { return true })
	if err := a.fireAndMark(ctx, s); err != nil {
		return "", err
	}
	victim, held, err := a.choose(ctx, s.Program, h.senders)
	if err != nil {
		return "", err
	}
	s.struck = held
	err = a.kill(victim)
	h.Release(func(c Call) bool { return c.From != victim.ID })
	return victim.ID, err
}

// senders counts the calls that are held, by agent.
func (h *Hold) senders() (map[string]int, error) {
	counts := map[string]int{}
	for _, c := range h.Waiting() {
		counts[c.From]++
	}
	return counts, nil
}

// afterTheNote takes Temporal from an agent whose notes wait at their gate, opens
// it, and kills the agent when the rows say that they were sent: the engine never
// heard. (An answer goes to the engine before it goes to the row, so no earlier.)
func afterTheNote(ctx context.Context, a *Ambush, s *shot) (string, error) {
	g, err := a.World.closeGate(ctx, gateNote, s.number)
	if err != nil {
		return "", err
	}
	defer g.open()
	if err := a.fireAndMark(ctx, s); err != nil {
		return "", err
	}
	victim, waiting, err := a.choose(ctx, s.Program, func() (map[string]int, error) { return g.waiting(ctx) })
	if err != nil {
		return "", err
	}
	if err := victim.Temporal.Swallow(); err != nil {
		return victim.ID, joinKill(a, victim, err)
	}
	g.open()
	s.struck = waiting
	return victim.ID, joinKill(a, victim, a.until(ctx, "callback_state = 'sent'", a.toldBy(s, victim.ID), waiting))
}

// afterTheMark takes Temporal from a starter that is sending, lets it go on, and
// kills it when all that it had is marked: no child workflow was asked for.
func afterTheMark(ctx context.Context, a *Ambush, s *shot) (string, error) {
	victim, sent, _, err := a.cutOffWhileSending(ctx, s)
	if err != nil {
		return "", err
	}
	for {
		if err := a.until(ctx, "state = 'delivered'", sent, len(sent)); err != nil {
			return victim.ID, joinKill(a, victim, err)
		}
		// Without Temporal nothing new begins: soon it has no more to send.
		select {
		case <-ctx.Done():
		case <-time.After(calm):
		}
		more := a.sentBy(s, victim.ID)
		if s.struck = len(more); s.struck == len(sent) {
			return victim.ID, joinKill(a, victim, ctx.Err())
		}
		sent = more
	}
}

// afterADurableAttempt takes Temporal from a worker that makes a durable attempt,
// has SQS acknowledge it, and kills the worker: the run never heard.
func afterADurableAttempt(ctx context.Context, a *Ambush, s *shot) (string, error) {
	s.queue = retried
	a.refusing.Store(true)
	defer a.refusing.Store(false)
	victim, sent, answered, err := a.cutOffWhileSending(ctx, s)
	if err != nil {
		return "", err
	}
	select {
	case <-answered:
	case <-ctx.Done():
		return victim.ID, joinKill(a, victim, ctx.Err())
	}
	if s.struck, err = a.count(ctx, "state = 'pending'", sent); err != nil {
		return victim.ID, joinKill(a, victim, err)
	}
	return victim.ID, a.kill(victim)
}

// cutOffWhileSending fires a shot and takes Temporal from the first agent of the
// wanted kind that sends some of it. It returns what that request carries, and when
// it is answered.
func (a *Ambush) cutOffWhileSending(ctx context.Context, s *shot) (*Agent, []uuid.UUID, <-chan struct{}, error) {
	type caught struct {
		agent *Agent
		ids   []uuid.UUID
		err   error
	}
	first, answered := make(chan caught, 1), make(chan struct{})
	var once sync.Once
	watch := func(sending Sending) (after func()) {
		agent := a.agent(sending.From)
		var ours []uuid.UUID
		for _, id := range sending.IDs {
			if slices.Contains(s.ids, id) {
				ours = append(ours, id)
			}
		}
		if agent == nil || !agent.is(s.Program) || len(ours) == 0 {
			return nil
		}
		once.Do(func() {
			first <- caught{agent, ours, agent.Temporal.Swallow()}
			after = func() { close(answered) }
		})
		return after
	}
	a.watch.Store(&watch)
	if err := a.fire(ctx, s); err != nil {
		return nil, nil, nil, err
	}
	select {
	case c := <-first:
		if c.err != nil {
			return nil, nil, nil, joinKill(a, c.agent, c.err)
		}
		return c.agent, c.ids, answered, nil
	case <-ctx.Done():
		return nil, nil, nil, ctx.Err()
	}
}

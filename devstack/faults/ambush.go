package faults

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/outboxdb"
	"github.com/outflowhq/outflow/publish/publishtest/fakesqs"
)

const (
	// shotSize is how many messages are brought to a moment together.
	shotSize = 24
	// Two starters and two workers: one of each lives through every kill.
	agentsOfAKind = 2

	// retried is the queue that takes messages from workers only, while an ambush
	// wants them to have some.
	retried = "retried"
	orders  = "orders"

	gathering  = 700 * time.Millisecond // more of a shot come to the moment meanwhile
	preferring = 3 * time.Second        // how long an agent of the wanted kind is waited for
	missed     = time.Minute            // a moment that nobody has reached by then
	watchEvery = 20 * time.Millisecond
	// A slow machine is given time: while more than that are to be delivered or have a callback
	// due, no shot and no load is added. It is about what kills leave behind in half a minute.
	mostUnfinished = 150
	mostMisses     = 3
)

// Ambush kills Outflow's programs at exact points between publish, mark and
// callback. It brings a shot, some messages with callbacks, to the point, holds
// them there, and kills an agent that has some of them.
type Ambush struct {
	World    *World
	Receiver *Receiver
	Agents   []*Agent

	shots    []*shot
	strays   []uuid.UUID                          // of shots, short of the point at the kill
	watch    atomic.Pointer[func(Sending) func()] // the present shot's
	refusing atomic.Bool                          // the queue retried refuses starters

	mu     sync.Mutex
	copies map[uuid.UUID][]copySent
	kills  []kill
	blind  []error // looks that failed
}

// shot is a moment that messages were brought to.
type shot struct {
	Moment
	number int
	queue  string
	ids    []uuid.UUID
	fired  bool // they are committed
	struck int
	killed string // the victim's program
}

func (s *shot) messageType() string { return fmt.Sprintf("shot-%d", s.number) }
func (s *shot) path() string        { return "/" + s.messageType() }

// copySent is a message on its way into a queue.
type copySent struct {
	from  string
	at    time.Time
	ended bool // its row was final already
}

type kill struct {
	agent string
	at    time.Time
}

// NewAmbush builds an ambush in a world, and starts its agents.
func NewAmbush(ctx context.Context, s *Stack, w *World, programs string) (_ *Ambush, err error) {
	a := &Ambush{World: w, copies: map[uuid.UUID][]copySent{}}
	defer func() {
		if err != nil {
			err = errors.Join(err, a.Close())
		}
	}()
	if a.Receiver, err = NewReceiver(); err != nil {
		return nil, err
	}
	if _, err := w.Pool.Exec(ctx, buildGates); err != nil {
		return nil, fmt.Errorf("building the gates: %w", err)
	}
	w.OnSending(a.sending)
	w.Queues.Inject(fakesqs.Fault{
		Queue:      retried,
		When:       func(r fakesqs.Request) bool { return a.refuses(r.Region) },
		EntryError: func(fakesqs.Entry) *fakesqs.Error { return &fakesqs.Error{Code: "InternalError"} },
	})
	for number := range agentsOfAKind {
		for _, program := range []string{Worker, Starter} {
			agent, err := w.Hire(s, a.Receiver, programs, program, number)
			if err != nil {
				return nil, err
			}
			a.Agents = append(a.Agents, agent)
		}
	}
	return a, nil
}

// Close ends agents and receiver.
func (a *Ambush) Close() error {
	var errs []error
	for _, agent := range a.Agents {
		errs = append(errs, agent.Dismiss())
	}
	if a.Receiver != nil {
		a.Receiver.Close()
	}
	return errors.Join(errs...)
}

// StartLoad enqueues rate messages with callbacks a second beside the shots.
func (a *Ambush) StartLoad(rate int) *Load {
	return a.World.StartBoundedLoad(rate, a.busy, withCallbacks("sqs://"+orders, a.Receiver.URL("/beside")))
}

// busy reports whether the machine has enough to do.
func (a *Ambush) busy() bool {
	n, err := a.World.unfinished(context.Background())
	return err != nil || n > mostUnfinished
}

// Run kills at the moments in turn, so many times in all, one every so often: what
// a kill leaves behind recovers while others follow. A moment that nobody came to
// is said and tried again, a few times.
func (a *Ambush) Run(ctx context.Context, moments []Moment, kills int, every time.Duration,
	say func(format string, args ...any)) error {
	for done, misses := 0, 0; done < kills; {
		began, at := time.Now(), moments[done%len(moments)]
		struck, victim, err := a.strike(ctx, at)
		switch {
		case ctx.Err() != nil:
			return ctx.Err()
		case err != nil || struck == 0:
			say("%s: no %s was caught there: %v", at.Point, at.Program, err)
			if misses++; misses > mostMisses+kills/10 {
				return fmt.Errorf("%d moments were missed, the last of them %q: %w", misses, at.Point, err)
			}
		default:
			done++
			say("kill %d: %s, %s, with %d messages", done, at.Point, victim, struck)
		}
		select {
		case <-ctx.Done():
		case <-time.After(every - time.Since(began)):
		}
	}
	return nil
}

// strike brings a shot to the moment and kills an agent there. It returns how many
// messages the agent had at the moment.
func (a *Ambush) strike(ctx context.Context, at Moment) (struck int, victim string, err error) {
	s := &shot{Moment: at, number: len(a.shots), queue: orders}
	for range shotSize {
		s.ids = append(s.ids, uuid.Must(uuid.NewV7()))
	}
	for a.busy() {
		if err := rest(ctx); err != nil {
			return 0, "", err
		}
	}
	a.shots = append(a.shots, s)
	inTime, cancel := context.WithTimeout(ctx, missed)
	defer cancel()
	victim, err = at.strike(inTime, a, s)
	a.watch.Store(nil)
	if err != nil || s.struck == 0 { // whoever died, it was not at the point
		s.Point, s.struck = Beside, 0
		return 0, victim, err
	}
	s.killed = a.agent(victim).Name
	return s.struck, victim, a.setAside(ctx, s)
}

// setAside counts as load what the point was not reached with: beyond the mark
// nothing may be published again, and what a kill met before it may be.
func (a *Ambush) setAside(ctx context.Context, s *shot) error {
	if s.Point == NotMarked {
		return nil
	}
	final, err := a.final(ctx, s.ids)
	if err != nil {
		return err
	}
	for _, id := range s.ids {
		if !slices.Contains(final, id) {
			a.strays = append(a.strays, id)
		}
	}
	s.ids = final
	return nil
}

// fire commits the messages of a shot.
func (a *Ambush) fire(ctx context.Context, s *shot) error {
	var messages []outflow.Message
	for i, id := range s.ids {
		messages = append(messages, outflow.Message{
			ID: id, Destination: "sqs://" + s.queue, Type: s.messageType(), Payload: fmt.Appendf(nil, `{"number":%d}`,
				i), Callback: a.Receiver.URL(s.path()),
		})
	}
	err := pgx.BeginFunc(ctx, a.World.Pool, func(tx pgx.Tx) error {
		_, err := outboxdb.Enqueue(ctx, tx, messages...)
		return err
	})
	if err != nil {
		return fmt.Errorf("enqueuing a shot: %w", err)
	}
	s.fired = true
	return nil
}

// kill ends an agent at once, and what its statements go on doing.
func (a *Ambush) kill(agent *Agent) error {
	err := agent.Kill()
	a.mu.Lock()
	a.kills = append(a.kills, kill{agent.ID, time.Now()})
	a.mu.Unlock()
	if _, endErr := a.World.Pool.Exec(context.Background(), endStatements, agent.ID); endErr != nil {
		err = errors.Join(err, fmt.Errorf("ending the statements of %s: %w", agent.ID, endErr))
	}
	return errors.Join(err, agent.Temporal.Heal())
}

// joinKill kills an agent that is cut off, whatever went wrong with it.
func joinKill(a *Ambush, agent *Agent, err error) error { return errors.Join(err, a.kill(agent)) }

func (a *Ambush) agent(id string) *Agent {
	for _, agent := range a.Agents {
		if agent.ID == id {
			return agent
		}
	}
	return nil
}

// choose waits until an agent is at the moment, of the program if one comes soon,
// and returns the one that has most there. counts names them all.
func (a *Ambush) choose(ctx context.Context, program string,
	counts func() (map[string]int, error)) (*Agent, int, error) {
	began, first := time.Now(), time.Time{}
	for {
		found, err := counts()
		if err != nil {
			return nil, 0, err
		}
		var best *Agent
		for id, n := range found {
			agent := a.agent(id)
			if agent == nil || !agent.is(program) && time.Since(began) < preferring {
				continue
			}
			if best == nil || agent.is(program) && !best.is(program) || agent.is(program) == best.is(program) &&
				n > found[best.ID] {
				best = agent
			}
		}
		if best != nil && first.IsZero() {
			first = time.Now()
		}
		if best != nil && (time.Since(first) > gathering || total(found) >= shotSize) {
			return best, found[best.ID], nil
		}
		if err := rest(ctx); err != nil {
			return nil, 0, fmt.Errorf("nobody came to it: %w", err)
		}
	}
}

func total(counts map[string]int) (sum int) {
	for _, n := range counts {
		sum += n
	}
	return sum
}

// rest is the pause between two looks.
func rest(ctx context.Context) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(watchEvery):
		return nil
	}
}

// until waits until so many of the messages fulfil the condition.
func (a *Ambush) until(ctx context.Context, condition string, ids []uuid.UUID, many int) error {
	for {
		n, err := a.count(ctx, condition, ids)
		if err == nil && n >= many {
			return nil
		}
		if restErr := rest(ctx); restErr != nil {
			return fmt.Errorf("waiting for %d rows with %s, of which there are %d: %w", many, condition, n,
				errors.Join(restErr, err))
		}
	}
}

func (a *Ambush) count(ctx context.Context, condition string, ids []uuid.UUID) (n int, err error) {
	err = a.World.Pool.QueryRow(ctx, "SELECT count(*) FROM outbox.messages WHERE id = ANY ($1) AND "+condition,
		ids).Scan(&n)
	return n, err
}

// refuses reports whether the queue retried refuses what somebody sends.
func (a *Ambush) refuses(from string) bool {
	agent := a.agent(from)
	return a.refusing.Load() && agent != nil && agent.is(Starter)
}

// finalOf returns the messages that have ended.
const finalOf = `SELECT id FROM outbox.messages WHERE id = ANY ($1) AND finished_at IS NOT NULL`

// sending notes each copy that SQS is about to take, and whether its row was final
// by then: such a copy is one too many, whoever died.
func (a *Ambush) sending(s Sending) func() {
	if s.Queue != retried || !a.refuses(s.From) {
		final, err := a.final(context.Background(), s.IDs)
		a.mu.Lock()
		if err != nil {
			a.blind = append(a.blind, err)
		}
		for _, id := range s.IDs {
			a.copies[id] = append(a.copies[id], copySent{s.From, time.Now(), slices.Contains(final, id)})
		}
		a.mu.Unlock()
	}
	if watch := a.watch.Load(); watch != nil {
		return (*watch)(s)
	}
	return nil
}

func (a *Ambush) final(ctx context.Context, ids []uuid.UUID) ([]uuid.UUID, error) {
	rows, err := a.World.Pool.Query(ctx, finalOf, ids)
	if err != nil {
		return nil, fmt.Errorf("looking whether messages have ended: %w", err)
	}
	final, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil {
		return nil, fmt.Errorf("looking whether messages have ended: %w", err)
	}
	return final, nil
}

// sentBy are the shot's messages of which an agent has sent a copy.
func (a *Ambush) sentBy(s *shot, agent string) (ids []uuid.UUID) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, id := range s.ids {
		if slices.ContainsFunc(a.copies[id], func(c copySent) bool { return c.from == agent }) {
			ids = append(ids, id)
		}
	}
	return ids
}

// toldBy are the shot's messages whose callback an agent was the last to send.
func (a *Ambush) toldBy(s *shot, agent string) (ids []uuid.UUID) {
	for _, id := range s.ids {
		if a.Receiver.of(callbackID(id, 1, outflow.Delivered)).from == agent {
			ids = append(ids, id)
		}
	}
	return ids
}

func callbackID(id uuid.UUID, generation int, state outflow.State) string {
	return outbox.Callback{Outcome: outflow.Outcome{ID: id, Generation: generation, State: state}}.CallbackID()
}

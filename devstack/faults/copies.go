package faults

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/outflowhq/outflow/internal/timing"
	"github.com/outflowhq/outflow/publish/awssqs"
	"github.com/outflowhq/outflow/publish/publishtest/fakesqs"
)

// Risk says which messages a fault may make come twice. docs/guarantees.md has
// the reasons.
type Risk int

// The risks of faults. NoRisk is that of a fault which sends nothing twice.
const (
	NoRisk Risk = iota
	// ProcessLost: what one process has sent and nobody has marked.
	ProcessLost
	// AnswersLost: what SQS has taken and not yet answered.
	AnswersLost
	// EngineLost: what is sent, and not marked for so long that its run, or its
	// attempt, goes to another process.
	EngineLost
)

// Cause is a fault as it happened.
type Cause struct {
	Name     string // of its kind
	Risk     Risk
	From, To time.Time
	Caller   string // the process, of ProcessLost
}

const (
	// onItsWay is the most that a request or an answer takes between a program and
	// SQS, with what SQS takes (World.AnswersIn).
	onItsWay = 250 * time.Millisecond
	// givenAway is the least time from a send until Temporal can have given the
	// attempt, or the run, to another process: a fast path sends nothing when less than
	// a call is left until its timeout, and a run is given out again seconds later.
	givenAway = timing.FastPathCall + time.Second
	// wakesFor is how long a process that was stopped goes on with what it had
	// begun before it meets its own deadlines.
	wakesFor = timing.LocalPublish
	// tooLate is when an answer of SQS may miss its caller: one of the fast path,
	// whose call has timing.FastPathCall, counted from before its connection is made.
	tooLate = timing.FastPathCall - onItsWay
)

// Copy is a message as SQS took it once. The same message may come again, and
// until it is settled there may be a reason for that.
type Copy struct {
	fakesqs.Acceptance
	ID uuid.UUID

	settled time.Time // it was marked, or the next copy came
	next    *Copy
}

// Copies returns all that SQS took, each message's in their order.
func (w *World) Copies(ctx context.Context) (map[uuid.UUID][]*Copy, error) {
	rows, err := w.Pool.Query(ctx, "SELECT id, finished_at FROM outbox.messages WHERE finished_at IS NOT NULL")
	if err != nil {
		return nil, fmt.Errorf("reading when messages were marked: %w", err)
	}
	marks := map[uuid.UUID]time.Time{}
	var id uuid.UUID
	var at time.Time
	if _, err := pgx.ForEachRow(rows, []any{&id, &at}, func() error { marks[id] = at; return nil }); err != nil {
		return nil, fmt.Errorf("reading when messages were marked: %w", err)
	}
	return copiesOf(w.Queues.Acceptances(), marks, time.Now()), nil
}

func copiesOf(acceptances []fakesqs.Acceptance, marks map[uuid.UUID]time.Time, now time.Time) map[uuid.UUID][]*Copy {
	copies := map[uuid.UUID][]*Copy{}
	for _, a := range acceptances {
		id, _ := uuid.Parse(a.MessageAttributes[awssqs.AttributeMessageID].StringValue)
		c := &Copy{Acceptance: a, ID: id, settled: now}
		if c.Answered.IsZero() {
			c.Answered = now
		}
		if at, ok := marks[id]; ok {
			c.settled = at
		}
		copies[id] = append(copies[id], c)
	}
	for _, all := range copies {
		slices.SortFunc(all, func(a, b *Copy) int { return a.Received.Compare(b.Received) })
		for i, c := range all[:len(all)-1] {
			if c.next = all[i+1]; c.next.Received.Before(c.settled) {
				c.settled = c.next.Received
			}
		}
	}
	return copies
}

// unheard reports what SQS itself saw: its answer was cut off, or came so late
// that its caller need not have waited for it.
func (c *Copy) unheard() bool { return c.Cut || c.Answered.Sub(c.Received) >= tooLate }

// HeldBy reports whether a process that ran since a moment had sent the copy at another one, and nothing
// had settled it.
func (c *Copy) HeldBy(caller string, since, at time.Time) bool {
	return c.Caller == caller && c.Received.After(since.Add(onItsWay)) && c.Received.Before(at.Add(onItsWay)) &&
		c.settled.After(at)
}

// risked reports whether the message may come again because of the cause.
func (c *Copy) risked(by Cause) bool {
	during := func(end time.Time) bool {
		return c.Received.Add(-onItsWay).Before(by.To) && end.Add(onItsWay).After(by.From)
	}
	switch by.Risk {
	case ProcessLost:
		return c.Caller == by.Caller && during(c.settled)
	case AnswersLost:
		return during(c.Answered)
	case EngineLost:
		return c.settled.Sub(c.Received) >= givenAway && during(c.settled)
	}
	return false
}

// resumed reports whether the next copy is what a process had begun before it was
// stopped, while another took the message over.
func (c *Copy) resumed(by Cause) bool {
	return by.Risk == ProcessLost && c.next != nil && c.next.Caller == by.Caller && c.Received.Before(by.To) &&
		c.next.Received.After(by.From) && c.next.Received.Before(by.To.Add(wakesFor))
}

// Unheard is the cause that SQS itself saw.
const Unheard = "unheard answers"

// Verdict is what the causes explain of what came twice.
type Verdict struct {
	// Duplicates came after another copy; Hidden are those of them that a FIFO
	// queue dropped.
	Duplicates, Hidden int
	// AtRisk are the messages that some cause may have made come twice, each
	// counted once.
	AtRisk int
	// Causes are by their names.
	Causes map[string]*Share
	// Unexplained are duplicates that no cause explains, in words.
	Unexplained []string
}

// Share is what the causes of one name have part in. A message may be at risk,
// and a duplicate explained, by more than one.
type Share struct{ Times, AtRisk, Duplicates int }

// Judge looks at each copy for a cause that was at work between its arrival and
// its settlement. It counts no message twice for one name.
func Judge(copies map[uuid.UUID][]*Copy, causes []Cause) Verdict {
	v := Verdict{Causes: map[string]*Share{Unheard: {}}}
	for _, cause := range causes {
		if v.Causes[cause.Name] == nil {
			v.Causes[cause.Name] = &Share{}
		}
		v.Causes[cause.Name].Times++
	}
	for _, all := range copies {
		atRisk := map[string]bool{}
		for _, c := range all {
			v.judge(c, causes, atRisk)
		}
		for name := range atRisk {
			v.Causes[name].AtRisk++
		}
		if len(atRisk) > 0 {
			v.AtRisk++
		}
	}
	v.Causes[Unheard].Times = v.Causes[Unheard].AtRisk
	return v
}

// judge adds one copy and, if there is one, the copy that follows.
func (v *Verdict) judge(c *Copy, causes []Cause, atRisk map[string]bool) {
	explains := map[string]bool{}
	if c.unheard() {
		explains[Unheard] = true
	}
	for _, cause := range causes {
		if c.risked(cause) || c.resumed(cause) {
			explains[cause.Name] = true
		}
	}
	for name := range explains {
		atRisk[name] = true
		if c.next != nil {
			v.Causes[name].Duplicates++
		}
	}
	if c.next == nil {
		return
	}
	v.Duplicates++
	if c.next.Deduplicated {
		v.Hidden++
	}
	if len(explains) == 0 {
		const clock = "15:04:05.000"
		v.Unexplained = append(v.Unexplained,
			fmt.Sprintf("%s to %s: taken from %s at %s, answered at %s, and from %s at %s; settled at %s",
				c.ID, c.Queue, c.Caller, c.Received.Format(clock), c.Answered.Format(clock),
				c.next.Caller, c.next.Received.Format(clock), c.settled.Format(clock)))
	}
}

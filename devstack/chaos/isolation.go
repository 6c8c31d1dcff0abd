package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/devstack/faults"
	"github.com/outflowhq/outflow/publish/publishtest/fakesqs"
)

const (
	// Bounds on what one bad destination may do to the healthy ones.
	leastThroughput = 0.9
	mostP99         = 1.2
	// A slow host takes its messages, 200 at once: that is its share of a machine with two cores.
	// What is held is that the healthy ones keep their pace, not that nobody notices.
	leastThroughputBesideSlow = 0.75
	mostP50BesideSlow         = 3.0

	badBacklog = 300 // messages that wait for the bad destination
	badRate    = 10  // a second, beside it
	recovery   = 30 * time.Second
	// The first messages find out that a queue is bad, and cost what messages cost:
	// what is held is the time after them. A slow one takes its backlog, and costs
	// what any backlog costs until it has.
	onset     = 3 * time.Second
	slowOnset = 15 * time.Second
)

// trouble is one way in which a destination is bad.
type trouble struct {
	name  string
	onset time.Duration
	begin func(f *fleet, queue string)
	end   func(f *fleet, queue string)
}

var troubles = []trouble{
	failing("down", onset, fakesqs.Fault{Error: &fakesqs.Error{Status: http.StatusServiceUnavailable,
		Code: "ServiceUnavailable", Message: "try again later"}}),
	failing("throttled", onset, fakesqs.Fault{Error: &fakesqs.Error{Status: http.StatusBadRequest,
		Code: "ThrottlingException", Message: "Rate exceeded"}}),
	failing("forbidden", onset, fakesqs.Fault{Error: &fakesqs.Error{Status: http.StatusForbidden,
		Code: "AccessDeniedException", Message: "no policy allows it"}}),
	{"missing", onset,
		func(f *fleet, queue string) { f.Queues.DeleteQueue("", queue) },
		func(f *fleet, queue string) { f.Queues.CreateQueue("", queue, nil) }},
	failing("slow", slowOnset, fakesqs.Fault{Delay: 2 * time.Second}),
}

func troubleNames() (names []string) {
	for _, t := range troubles {
		names = append(names, t.name)
	}
	return names
}

func failing(name string, onset time.Duration, fault fakesqs.Fault) trouble {
	return trouble{name, onset,
		func(f *fleet, queue string) { fault.Queue = queue; f.Queues.Inject(fault) },
		func(f *fleet, queue string) { f.Queues.Heal(queue) }}
}

// isolation measures the healthy destinations without and with a bad one beside
// them, in turn, for each way of being bad.
func isolation(ctx context.Context, c *chaos) error {
	f, err := c.deploy(ctx, "isolation")
	if err != nil {
		return err
	}
	f.AnswersIn(answers)
	f.Queues.AutoCreate = false
	for _, q := range healthy {
		f.Queues.CreateQueue("", q, nil)
	}
	i := &isolated{chaos: c, fleet: f}
	_, err = c.measureRound(ctx, f) // warm up
	for _, t := range troubles {
		if err == nil && (c.only == t.name || !slices.Contains(troubleNames(), c.only)) {
			err = i.isolate(ctx, t)
		}
	}
	return errors.Join(err, i.count(context.WithoutCancel(ctx)), f.close(c.stack.Logs()))
}

// isolated is the fleet beside the bad queues.
type isolated struct {
	*chaos
	*fleet
	causes []faults.Cause
}

// isolate does the rounds of one trouble, and holds its bounds.
func (i *isolated) isolate(ctx context.Context, t trouble) error {
	r, err := i.compare(t.name,
		func(int) (measure, error) {
			pause(ctx, t.onset) // rounds alike: what the machine and the engine do each minute meets both kinds
			return i.measureRound(ctx, i.fleet)
		},
		func(round int) (measure, error) { return i.beside(ctx, t, fmt.Sprintf("%s-%d", t.name, round)) })
	if err != nil {
		return err
	}
	i.hold(t.name, r)
	return nil
}

const stillPending = `SELECT count(*) FROM outbox.messages WHERE destination = $1 AND state = 'pending'`

const notDelivered = `SELECT count(*), count(*) FILTER (WHERE state <> 'delivered') FROM outbox.messages`

// count errs where a message of any queue, good or bad, was not delivered in the
// end, or came twice without a reason.
func (i *isolated) count(ctx context.Context) error {
	var all, rest int
	if err := i.Pool.QueryRow(ctx, notDelivered).Scan(&all, &rest); err != nil {
		return fmt.Errorf("counting what was delivered: %w", err)
	}
	i.result("enqueued %d, delivered %d, lost %d", all, all-rest, rest)
	_, err := i.judge(ctx, i.fleet, i.causes)
	if rest > 0 {
		err = errors.Join(err, fmt.Errorf("%d messages are not delivered", rest))
	}
	return err
}

// hold notes a bound that is broken: the other measurements are made all the same.
func (c *chaos) hold(name string, r ratios) {
	c.holdLeast(name, "throughput", r.throughput, leastThroughput)
	c.holdP99(name, r)
}

func (c *chaos) holdBesideSlow(name string, r ratios) {
	c.holdLeast(name, "throughput", r.throughput, leastThroughputBesideSlow)
	c.holdMost(name, "healthy p50", r.p50, mostP50BesideSlow)
}

func (c *chaos) holdP99(name string, r ratios) { c.holdMost(name, "healthy p99", r.p99, mostP99) }

func (c *chaos) holdLeast(name, what string, ratio, least float64) {
	if ratio < least {
		c.broken = append(c.broken, fmt.Sprintf("%s: %s %.2f (at least %.2f)", name, what, ratio, least))
	}
}

func (c *chaos) holdMost(name, what string, ratio, most float64) {
	if ratio > most {
		c.broken = append(c.broken, fmt.Sprintf("%s: %s %.2f (at most %.1f)", name, what, ratio, most))
	}
}

// beside measures a round with a bad queue of its own, which had worked before.
func (i *isolated) beside(ctx context.Context, t trouble, queue string) (measure, error) {
	destination := "sqs://" + queue
	bad := func(int) outflow.Message {
		return outflow.Message{Destination: destination, Type: "bad", Payload: []byte(`{"bad":true}`)}
	}
	settle := func() error {
		settling, cancel := context.WithTimeout(ctx, recovery)
		defer cancel()
		return i.awaitNone(settling, "destination = $1 AND state = 'pending'", destination)
	}
	i.Queues.CreateQueue("", queue, nil)
	if err := errors.Join(i.enqueue(ctx, 1, bad), settle()); err != nil {
		return measure{}, err
	}
	// One that is slow may be too slow for the time of a call, and has the message.
	cause := faults.Cause{Name: t.name, Risk: faults.AnswersLost, From: time.Now()}
	t.begin(i.fleet, queue)
	if err := i.enqueue(ctx, badBacklog, bad); err != nil {
		return measure{}, err
	}
	load := i.StartLoad(badRate, destination)
	pause(ctx, t.onset)
	var waiting int
	if err := i.Pool.QueryRow(ctx, stillPending, destination).Scan(&waiting); err != nil {
		load.Stop()
		return measure{}, fmt.Errorf("counting what waits: %w", err)
	}
	m, err := i.measureRound(ctx, i.fleet)
	load.Stop()
	t.end(i.fleet, queue)
	cause.To = time.Now()
	i.causes = append(i.causes, cause)
	if err != nil {
		return m, err
	}
	if err := settle(); err != nil {
		i.leftovers(ctx, i.chaos)
		return m, fmt.Errorf("%s: not drained %s after it was healed: %w", t.name, recovery, err)
	}
	i.say("%s: %d waited when the round began; drained %.1f s after it was healed", t.name, waiting,
		time.Since(cause.To).Seconds())
	return m, nil
}

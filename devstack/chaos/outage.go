package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/outflowhq/outflow/devstack/faults"
	"github.com/outflowhq/outflow/publish/publishtest/fakesqs"
)

const (
	longestOutage = 5 // minutes
	// outageShare of the load goes to the queues that are out, beside all of it to
	// the healthy.
	outageShare = 4
	// Beside an outage something healthy is delivered at least this often.
	longestPause = 5 * time.Second
	// untouchedShare of what waits has spent no attempt.
	untouchedShare = 0.9

	// A queue that is back is seen by its next probe, 15 s away at most (lastOpening),
	// or, where that one is lost, when its lease of 20 s is over (probeLease); the
	// signals to its runs have a lease of 20 s, too. Then its backlog goes at the least
	// rate of a busy laptop, in messages a second.
	probed       = 15*time.Second + 20*time.Second + 20*time.Second
	slowestDrain = 25

	// A silent connection is noticed after 45 s at most, and what had been claimed
	// then comes back after its lease of 30 s; a few retries lie between.
	flowsWithin = 2 * time.Minute
	swallowsFor = 20 * time.Second
	sample      = 5 * time.Second // of the load after a fault, that has to arrive
)

// out are the queues of an outage, with what they answer.
var out = []struct {
	queue  string
	answer fakesqs.Error
}{
	{"down", fakesqs.Error{Status: http.StatusServiceUnavailable, Code: "ServiceUnavailable",
		Message: "try again later"}},
	{"throttled", fakesqs.Error{Status: http.StatusBadRequest, Code: "ThrottlingException", Message: "Rate exceeded"}},
}

// outage has one queue answer 503 and another throttle for minutes, and then
// connections go half open, all under load. Everything goes on by itself.
func outage(ctx context.Context, c *chaos) error {
	f, err := c.deploy(ctx, "outage")
	if err != nil {
		return err
	}
	f.AnswersIn(answers)
	f.Queues.AutoCreate = false
	for _, q := range healthy {
		f.Queues.CreateQueue("", q, nil)
	}
	var destinations []string
	for _, o := range out {
		f.Queues.CreateQueue("", o.queue, nil)
		destinations = append(destinations, "sqs://"+o.queue)
	}
	o := &outageRun{chaos: c, fleet: f, destinations: destinations}
	return errors.Join(o.run(ctx), f.close(c.stack.Logs()))
}

type outageRun struct {
	*chaos
	*fleet
	destinations []string // of the queues that are out
	causes       []faults.Cause
}

func (o *outageRun) run(ctx context.Context) error {
	steady := o.StartLoad(o.rate, healthyDestinations()...)
	defer steady.Stop()
	waiting := o.StartLoad(max(o.rate/outageShare, 1), o.destinations...)
	defer waiting.Stop()
	errs := []error{o.outOfOrder(ctx), o.silences(ctx)}
	steady.Stop()
	waiting.Stop()

	draining, cancel := context.WithTimeout(ctx, flowsWithin)
	defer cancel()
	drained, err := o.Drain(draining)
	errs = append(errs, err)
	tally, err := steady.Tally(ctx, healthy...)
	errs = append(errs, err)
	rest, err := waiting.Tally(ctx, out[0].queue, out[1].queue)
	errs = append(errs, err)
	o.result("enqueued %d, delivered %d, lost %d, duplicates %d, time to drain %s at the end",
		tally.Enqueued+rest.Enqueued,
		tally.Delivered+rest.Delivered, tally.Lost+rest.Lost, tally.Duplicates+rest.Duplicates, drained.Round(10*time.Millisecond))
	_, err = o.judge(ctx, o.fleet, o.causes)
	errs = append(errs, o.holdLost(tally), o.holdLost(rest), err)
	for _, m := range o.members() {
		for _, end := range m.Ends() {
			errs = append(errs, fmt.Errorf("nobody restarts anything by hand: %w", end))
		}
	}
	return errors.Join(errs...)
}

// outOfOrder is the outage itself.
func (o *outageRun) outOfOrder(ctx context.Context) error {
	length := time.Duration(min(o.minutes, longestOutage) * float64(time.Minute))
	if !pause(ctx, calm) { // all of it flows at first
		return ctx.Err()
	}
	began, err := o.moment(ctx)
	if err != nil {
		return err
	}
	for _, q := range out {
		o.Queues.Inject(fakesqs.Fault{Queue: q.queue, Error: &q.answer})
		o.say("%s answers %s for %s", q.queue, q.answer.Code, length)
	}
	pause(ctx, length)
	errs := []error{o.healthyDid(ctx, began)}
	backlog := 0
	for _, d := range o.destinations {
		n, err := o.waits(ctx, d)
		backlog += n
		errs = append(errs, err)
	}
	for _, q := range out {
		o.Queues.Heal(q.queue)
	}
	healed, err := o.moment(ctx)
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	within := probed + time.Duration(backlog)*time.Second/slowestDrain
	draining, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	now := time.Now()
	err = o.awaitNone(draining, "state = 'pending' AND enqueued_at < $1", healed)
	o.say("healed: time to drain %s, for %d that waited (at most %s), with the load going on",
		time.Since(now).Round(10*time.Millisecond), backlog, within)
	if err != nil {
		o.leftovers(ctx, o.chaos)
	}
	return errors.Join(append(errs, err)...)
}

const healthyMeanwhile = `
SELECT count(*), count(*) FILTER (WHERE state = 'pending' AND enqueued_at < now() - interval '5 seconds'),
       coalesce(percentile_disc(0.99) WITHIN GROUP (ORDER BY finished_at - enqueued_at), interval '0'),
       coalesce(max(pause), interval '0')
  FROM (SELECT m.*, finished_at - lag(finished_at) OVER (ORDER BY finished_at) AS pause
          FROM outbox.messages AS m WHERE destination = ANY ($2) AND enqueued_at >= $1) AS m`

// healthyDid says how the healthy did since a moment.
func (o *outageRun) healthyDid(ctx context.Context, since time.Time) error {
	var n, late int
	var p99, longest time.Duration
	if err := o.Pool.QueryRow(ctx, healthyMeanwhile, since, healthyDestinations()).Scan(&n, &late, &p99,
		&longest); err != nil {
		return fmt.Errorf("reading how the healthy did: %w", err)
	}
	o.result("healthy meanwhile: %d messages, p99 %s, longest time without a delivery %s, %d late at its end", n,
		p99.Round(time.Millisecond), longest.Round(time.Millisecond), late)
	if late > 0 || longest > longestPause || n == 0 {
		return fmt.Errorf("healthy destinations did not go on beside the outage: %d late, %s without a delivery", late,
			longest)
	}
	return nil
}

const whatWaits = `
SELECT count(*), count(*) FILTER (WHERE attempts = 0), coalesce(sum(attempts), 0), coalesce(max(attempts), 0), count(*) FILTER (WHERE retrying)
  FROM outbox.messages WHERE destination = $1 AND state = 'pending'`

// waits says what an outage has cost those that wait for its end, and returns how
// many they are.
func (o *outageRun) waits(ctx context.Context, destination string) (int, error) {
	var n, untouched, attempts, most, retrying int
	if err := o.Pool.QueryRow(ctx, whatWaits, destination).Scan(&n, &untouched, &attempts, &most,
		&retrying); err != nil {
		return 0, fmt.Errorf("reading what waits for %s: %w", destination, err)
	}
	o.result("%s: %d wait, %d of them untouched, %d as runs; attempts %d in all, %d at most", destination, n, untouched,
		retrying, attempts, most)
	if n == 0 || float64(untouched) < untouchedShare*float64(n) {
		return n, fmt.Errorf("%s: of %d that wait only %d have spent no attempt", destination, n, untouched)
	}
	return n, nil
}

// silences has connections go half open, on each link in turn: those of a moment
// for good, then all for a while.
func (o *outageRun) silences(ctx context.Context) error {
	var errs []error
	for _, l := range []struct {
		link *faults.Link
		risk faults.Risk
		// deaf is how long a connection that was deafened may do what risk says.
		deaf, after time.Duration
	}{
		{o.Postgres, faults.NoRisk, 0, 0},
		{o.Temporal, faults.EngineLost, silence, reconnects},
		{o.SQS, faults.AnswersLost, 0, 0},
	} {
		cause := func(from time.Time, after time.Duration) {
			o.causes = append(o.causes, faults.Cause{Name: "silence of " + l.link.Name, Risk: l.risk, From: from,
				To: time.Now().Add(after)})
		}
		from := time.Now()
		errs = append(errs, l.link.Deafen())
		cause(from, l.deaf)
		errs = append(errs, o.flows(ctx, "connections to "+l.link.Name+" are half open for good"))

		from = time.Now()
		errs = append(errs, l.link.Swallow())
		pause(ctx, swallowsFor)
		errs = append(errs, l.link.Heal())
		cause(from, l.after)
		errs = append(errs, o.flows(ctx, fmt.Sprintf("everything to %s was swallowed for %s", l.link.Name,
			swallowsFor)))
	}
	return errors.Join(errs...)
}

// flows waits until all that was enqueued so far, and in the next seconds, is
// delivered.
func (o *outageRun) flows(ctx context.Context, after string) error {
	began := time.Now()
	since, err := o.moment(ctx)
	if err != nil || !pause(ctx, sample) {
		return errors.Join(err, ctx.Err())
	}
	waiting, cancel := context.WithTimeout(ctx, flowsWithin)
	defer cancel()
	err = o.awaitNone(waiting, "state = 'pending' AND enqueued_at < $1", since.Add(sample))
	o.say("%s: the load goes on; all of its next %s is delivered after %s", after, sample,
		time.Since(began).Round(100*time.Millisecond))
	if err != nil {
		o.leftovers(ctx, o.chaos)
	}
	return err
}

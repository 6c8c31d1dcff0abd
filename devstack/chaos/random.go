package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/outflowhq/outflow/devstack/faults"
)

// queues that the load goes to. The FIFO queue deduplicates by itself.
var queues = []string{"orders", "letters", "invoices", "events", "ledger.fifo"}

// drainWithin bounds the wait for the last message: the longest retry is five
// minutes away, its lease a little more.
const drainWithin = 10 * time.Minute

// leastLoad of the rate asked for has to be committed: Postgres is away for some of
// the time, and no longer.
const leastLoad = 0.85

// random strikes at random times under a steady load with poison in it, heals,
// drains and counts.
func random(ctx context.Context, c *chaos) error {
	struck := kinds
	for _, k := range kinds {
		if k.name == c.only {
			struck = []kind{k}
		}
	}
	f, err := c.deploy(ctx, "chaos", soonDead)
	if err != nil {
		return err
	}
	f.AnswersIn(answers)
	f.Queues.AutoCreate = false
	for _, q := range queues {
		f.Queues.CreateQueue("", q, map[string]string{"MaximumMessageSize": poisonLimit})
	}
	h := newHazard(c, f, kinds, queues)
	length := time.Duration(c.minutes * float64(time.Minute))
	err = h.run(ctx, length, plan(c.seed, length, struck))
	for _, m := range f.members() {
		for _, end := range m.Ends() {
			c.say("%v", end)
		}
	}
	return errors.Join(err, f.close(c.stack.Logs()))
}

func (h *hazard) run(ctx context.Context, length time.Duration, strikes []strike) error {
	var destinations []string
	for _, q := range h.queues {
		destinations = append(destinations, "sqs://"+q)
	}
	load := h.StartLoad(h.rate, destinations...)
	poison := h.StartLoadOf(max(h.rate/poisonShare, 1), poisonAmong)
	err := h.strikeAll(ctx, length, strikes)
	load.Stop()
	poison.Stop()
	if err != nil {
		return err
	}
	h.say("the last fault is healed: %d committed, %d in flight", load.Committed()+poison.Committed(), h.count(ctx))
	draining, cancel := context.WithTimeout(ctx, drainWithin)
	defer cancel()
	drained, drainErr := h.Drain(draining)
	tally, err := load.Tally(ctx, h.queues...)
	if err != nil {
		return errors.Join(drainErr, err)
	}
	tally.Drain, tally.InFlight = drained, int(h.met.Load()+h.lostAcks.Load())
	h.result("%s", tally)
	h.result("in flight at kills: %d leased or retrying, %d whose acknowledgement was lost", h.met.Load(),
		h.lostAcks.Load())
	errs := []error{drainErr, h.holdLost(tally), h.holdPoison(ctx, poison)}
	if asked := float64(h.rate) * length.Seconds(); float64(tally.Enqueued) < leastLoad*asked {
		errs = append(errs, fmt.Errorf("%d messages were enqueued, of %.0f that were asked for: "+
			"the machine is too slow for this rate", tally.Enqueued, asked))
	}
	verdict, err := h.judge(ctx, h.fleet, h.causes)
	if verdict.Duplicates > tally.InFlight {
		errs = append(errs, fmt.Errorf("%d duplicates, and only %d were in flight at a fault", verdict.Duplicates,
			tally.InFlight))
	}
	return errors.Join(append(errs, err)...)
}

// holdLost prints what is lost, and errs where anything is.
func (c *chaos) holdLost(t faults.Tally) error {
	for _, id := range t.LostIDs {
		c.result("  lost %s", id)
	}
	if t.Lost > 0 {
		return fmt.Errorf("%d messages are lost", t.Lost)
	}
	return nil
}

package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"
)

// queues that the load goes to. The FIFO queue deduplicates by itself.
var queues = []string{"orders", "letters", "invoices", "events", "ledger.fifo"}

const (
	// answers is about what SQS takes: it is what a kill has to hit.
	answers = 60 * time.Millisecond
	// drainWithin bounds the wait for the last message: the longest retry is five
	// minutes away, its lease a little more.
	drainWithin = 10 * time.Minute
	healWithin  = 2 * time.Minute
)

// hazard is one run of the scenario random.
type hazard struct {
	*fleet
	*chaos

	parts    map[string]*sync.Mutex
	seen     atomic.Int64 // in flight, when last counted
	met      atomic.Int64 // in flight at the strikes, in sum
	lostAcks atomic.Int64
}

// random strikes at random times under a steady load, heals, drains and counts.
func random(ctx context.Context, c *chaos) error {
	struck := kinds
	for _, k := range kinds {
		if k.name == c.only {
			struck = []kind{k}
		}
	}
	strikes := plan(c.seed, time.Duration(c.minutes*float64(time.Minute)), struck)
	f, err := c.deploy(ctx, "chaos")
	if err != nil {
		return err
	}
	h := &hazard{fleet: f, chaos: c, parts: map[string]*sync.Mutex{}}
	for _, k := range kinds {
		h.parts[k.part] = &sync.Mutex{}
	}
	err = h.run(ctx, strikes)
	for _, m := range f.members() {
		for _, end := range m.Ends() {
			c.say("%v", end)
		}
	}
	return errors.Join(err, f.close(c.stack.Logs()))
}

func (h *hazard) run(ctx context.Context, strikes []strike) error {
	h.AnswersIn(answers)
	var destinations []string
	for _, q := range queues {
		destinations = append(destinations, "sqs://"+q)
	}
	watching, stopWatching := context.WithCancel(ctx)
	defer stopWatching()
	go h.watch(watching)

	load := h.StartLoad(h.rate, destinations...)
	err := h.strikeAll(ctx, strikes)
	load.Stop()
	if err != nil {
		return err
	}
	h.say("the last fault is healed: %d committed, %d in flight", load.Committed(), h.count(ctx))
	draining, cancel := context.WithTimeout(ctx, drainWithin)
	defer cancel()
	drained, drainErr := h.Drain(draining)
	tally, err := load.Tally(ctx, queues...)
	if err != nil {
		return errors.Join(drainErr, err)
	}
	tally.Drain, tally.InFlight = drained, int(h.met.Load()+h.lostAcks.Load())
	h.result("%s", tally)
	h.result("in flight at kills: %d leased or retrying, %d whose acknowledgement was lost", h.met.Load(), h.lostAcks.Load())
	errs := []error{drainErr}
	if tally.Lost > 0 {
		errs = append(errs, fmt.Errorf("%d messages are lost", tally.Lost))
		for _, id := range tally.LostIDs {
			h.result("  lost %s", id)
		}
	}
	if tally.Duplicates > tally.InFlight {
		errs = append(errs, fmt.Errorf("%d duplicates, and only %d were in flight at a fault", tally.Duplicates, tally.InFlight))
	}
	return errors.Join(errs...)
}

// strikeAll strikes as planned and returns when every fault is healed and the
// length of the run is over.
func (h *hazard) strikeAll(ctx context.Context, strikes []strike) error {
	began := time.Now()
	length := time.Duration(h.minutes * float64(time.Minute))
	var running sync.WaitGroup
	var mu sync.Mutex
	var errs []error
	for _, s := range strikes {
		if !pause(ctx, s.at-time.Since(began)) {
			break
		}
		running.Go(func() {
			if err := h.strike(ctx, s); err != nil {
				mu.Lock()
				errs = append(errs, fmt.Errorf("%s: %w", s.kind.name, err))
				mu.Unlock()
			}
		})
	}
	pause(ctx, length-time.Since(began))
	running.Wait()
	return errors.Join(append(errs, ctx.Err())...)
}

// strike begins one fault and heals it. What is in flight is the most that was
// seen from just before it until just after it.
func (h *hazard) strike(ctx context.Context, s strike) error {
	part := h.parts[s.kind.part]
	part.Lock()
	defer part.Unlock()
	before := h.count(ctx)
	if err := s.kind.do(h, s); err != nil {
		return err
	}
	met := max(before, h.count(ctx))
	h.met.Add(int64(met))
	h.say("%s for %s, in flight %d", s.kind.name, s.lasts.Round(100*time.Millisecond), met)
	if s.kind.undo == nil {
		return nil
	}
	pause(ctx, s.lasts)
	// Also where the run was interrupted: nothing can end while it is broken.
	healing, cancel := context.WithTimeout(context.WithoutCancel(ctx), healWithin)
	defer cancel()
	return s.kind.undo(healing, h, s)
}

// count counts what is in flight, or says what was last seen while the database
// does not answer.
func (h *hazard) count(ctx context.Context) int {
	ctx, cancel := context.WithTimeout(ctx, time.Second)
	defer cancel()
	n, err := h.InFlight(ctx)
	if err != nil {
		return int(h.seen.Load())
	}
	h.seen.Store(int64(n))
	return n
}

func (h *hazard) watch(ctx context.Context) {
	for pause(ctx, 250*time.Millisecond) {
		h.count(ctx)
	}
}

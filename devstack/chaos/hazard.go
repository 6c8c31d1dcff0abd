package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outflowhq/outflow/devstack/faults"
)

const (
	// answers is about what SQS takes: it is what a kill has to hit.
	answers    = 60 * time.Millisecond
	healWithin = 4 * time.Minute
)

// hazard strikes at a fleet as planned, and notes what each strike may have made
// come twice.
type hazard struct {
	*fleet
	*chaos
	queues []string

	parts    map[string]*sync.Mutex
	seen     atomic.Int64 // in flight, when last counted
	met      atomic.Int64 // in flight at the strikes, in sum
	lostAcks atomic.Int64

	mu     sync.Mutex
	causes []faults.Cause
}

func newHazard(c *chaos, f *fleet, kinds []kind, queues []string) *hazard {
	h := &hazard{fleet: f, chaos: c, queues: queues, parts: map[string]*sync.Mutex{}}
	for _, k := range kinds {
		h.parts[k.part] = &sync.Mutex{}
	}
	return h
}

// strikeAll strikes as planned and returns when every fault is healed and the
// length of the run is over.
func (h *hazard) strikeAll(ctx context.Context, length time.Duration, strikes []strike) error {
	watching, stopWatching := context.WithCancel(ctx)
	defer stopWatching()
	go h.watch(watching)
	began := time.Now()
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
	cause := faults.Cause{Name: s.kind.name, Risk: s.kind.risk, From: time.Now()}
	if s.kind.among != nil {
		cause.Caller = pick(s.kind.among(h), s).Name
	}
	err := s.kind.do(h, s)
	cause.To = time.Now()
	defer func() {
		if !s.kind.atOnce {
			cause.To = time.Now().Add(s.kind.after)
		}
		h.cause(cause)
	}()
	if err != nil {
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

func (h *hazard) cause(c faults.Cause) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.causes = append(h.causes, c)
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

// judge prints what each kind of fault had its part in, and errs where a
// message came twice and nothing explains it.
func (c *chaos) judge(ctx context.Context, f *fleet, causes []faults.Cause) (faults.Verdict, error) {
	copies, err := f.Copies(ctx)
	if err != nil {
		return faults.Verdict{}, err
	}
	v := faults.Judge(copies, causes)
	for _, name := range slices.Sorted(maps.Keys(v.Causes)) {
		if share := v.Causes[name]; share.AtRisk > 0 {
			c.result("  %s, %d times: %d messages at risk, %d duplicates", name, share.Times, share.AtRisk,
				share.Duplicates)
		}
	}
	c.result("taken twice by SQS %d (of these the FIFO queue dropped %d), at risk %d messages, each counted once; unexplained %d",
		v.Duplicates, v.Hidden, v.AtRisk, len(v.Unexplained))
	if len(v.Unexplained) == 0 {
		return v, nil
	}
	for _, u := range v.Unexplained[:min(len(v.Unexplained), 10)] {
		c.result("  unexplained %s", u)
	}
	return v, fmt.Errorf("%d duplicates that no fault explains", len(v.Unexplained))
}

const readLeftovers = `
SELECT format('%s to %s: enqueued %s ago, %s claims, %s attempts, retrying %s, available in %s, last error %s', m.id, m.destination,
              now() - m.enqueued_at, m.claims, m.attempts, m.retrying, m.available_at - now(), coalesce(m.last_error, 'none'))
  FROM outbox.messages AS m WHERE m.state = 'pending' ORDER BY m.enqueued_at LIMIT 10`

// leftovers prints the oldest messages that are pending.
func (f *fleet) leftovers(ctx context.Context, c *chaos) {
	rows, err := f.Pool.Query(ctx, readLeftovers)
	if err != nil {
		c.result("reading what is left: %v", err)
		return
	}
	left, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		c.result("reading what is left: %v", err)
	}
	for _, l := range left {
		c.result("  pending %s", l)
	}
}

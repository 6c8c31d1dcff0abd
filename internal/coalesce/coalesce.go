// Package coalesce joins many single calls into few shared calls: SQS sends into SendMessageBatch,
// marks into one UPDATE, loads into one SELECT.
//
// The invariant: every entry given to Do is settled exactly once. Either it is refused with
// outflow.ErrNotAttempted and was in no shared call, or the one shared call that it was in answers
// it. An entry's place in that call is fixed when the batch is sealed. From then on it can't be
// withdrawn, because no caller could know whether it took effect.
package coalesce

import (
	"container/list"
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/outflowhq/outflow"
)

// Options bound the shared calls of one Coalescer.
type Options[In any] struct {
	// MaxItems is the most entries in one call; less than 1 means 1.
	MaxItems int
	// MaxBytes is the most bytes in one call, summed by Size; 0 means no bound. A larger entry has
	// a call of its own.
	MaxBytes int
	// Size returns an entry's size in bytes. It is called in the goroutine of Do. nil counts every
	// entry as 0 bytes.
	Size func(In) int
	// Linger is how long the oldest entry waits for others; 0 means not at all. While MaxCalls are
	// under way, entries wait longer, and more of them share a call.
	Linger time.Duration
	// LoneAtOnce has an entry wait for no other where none has come for twice as long as it would
	// wait: it is most likely alone.
	LoneAtOnce bool
	// BusyLinger replaces Linger under load: after a call with several entries, until a call with a
	// single entry. Calls are fuller then, for a little more wait. Less than Linger means Linger.
	BusyLinger time.Duration
	// MaxCalls is the most shared calls at once; less than 1 means 1.
	MaxCalls int
	// Timeout is the shared call's own deadline, counted from the sealing. An entry whose own
	// deadline is nearer is refused. 0 means no deadline.
	Timeout time.Duration
}

// Result is the answer for one entry.
type Result[Out any] struct {
	Value Out
	Err   error
}

// Coalescer joins the entries of concurrent Do calls. It is safe for concurrent use, holds no
// goroutine while idle, and needs no closing.
type Coalescer[In, Out any] struct {
	opts Options[In]
	call func(ctx context.Context, in []In) []Result[Out]

	mu      sync.Mutex
	waiting *list.List // of *entry[In, Out], in the order of arrival
	bytes   int        // the sum of the waiting entries' sizes
	calls   int        // shared calls under way
	busy    bool       // the last call had several entries
	alarm   bool       // a timer will call wake
	last    time.Time  // when the last entry came
}

// entry is one Do call. place is nil once the entry is sealed or refused.
type entry[In, Out any] struct {
	ctx     context.Context
	in      In
	size    int
	arrived time.Time
	alone   bool // it waits for no other
	place   *list.Element
	answer  chan Result[Out] // buffered: settling never blocks
}

// New returns a Coalescer over call, which gets the entries in the order of their arrival and
// returns a result for each, in the same order. Missing results and a panic become errors of the
// entries. call must respect its context's deadline: the callers wait for it.
func New[In, Out any](opts Options[In], call func(ctx context.Context, in []In) []Result[Out]) *Coalescer[In, Out] {
	opts.MaxItems = max(opts.MaxItems, 1)
	opts.MaxCalls = max(opts.MaxCalls, 1)
	return &Coalescer[In, Out]{opts: opts, call: call, waiting: list.New()}
}

// Do passes in to a shared call and returns its result. Until its batch is sealed, the end of ctx
// withdraws the entry: the error then wraps both outflow.ErrNotAttempted and ctx.Err(). Once it is
// sealed, Do waits for the result, however late. Where ctx's deadline leaves less than
// Options.Timeout, the entry is refused with outflow.ErrNotAttempted. The values of ctx do not
// reach the call.
func (c *Coalescer[In, Out]) Do(ctx context.Context, in In) (Out, error) {
	e := &entry[In, Out]{ctx: ctx, in: in, answer: make(chan Result[Out], 1)}
	if c.opts.Size != nil {
		e.size = c.opts.Size(in)
	}
	tooLate, stop := c.lastMoment(ctx)
	defer stop()

	c.mu.Lock()
	e.arrived = time.Now()
	e.alone = c.opts.LoneAtOnce && c.waiting.Len() == 0 && e.arrived.Sub(c.last) >= 2*c.linger()
	c.last = e.arrived
	e.place = c.waiting.PushBack(e)
	c.bytes += e.size
	c.pump()
	c.mu.Unlock()

	var r Result[Out]
	select {
	case r = <-e.answer:
		return r.Value, r.Err
	case <-ctx.Done():
	case <-tooLate:
	}
	c.mu.Lock()
	if e.place != nil {
		c.refuse(e)
	}
	c.mu.Unlock()
	r = <-e.answer
	return r.Value, r.Err
}

// lastMoment returns a channel that fires when ctx leaves too little time for a call, so that no
// caller waits for a slot that comes too late.
func (c *Coalescer[In, Out]) lastMoment(ctx context.Context) (<-chan time.Time, func() bool) {
	deadline, ok := ctx.Deadline()
	if !ok || c.opts.Timeout <= 0 {
		return nil, func() bool { return false }
	}
	t := time.NewTimer(time.Until(deadline) - c.opts.Timeout)
	return t.C, t.Stop
}

// pump seals and starts as many calls as may start now, and sets the alarm for the next. It runs
// under the lock, for each new entry and each slot that becomes free.
func (c *Coalescer[In, Out]) pump() {
	for c.calls < c.opts.MaxCalls && c.ready() {
		now := time.Now()
		batch := c.seal(now)
		if len(batch) == 0 {
			continue // all of them were refused
		}
		c.calls++
		c.busy = len(batch) > 1
		go c.run(batch, now)
	}
	if c.alarm || c.calls >= c.opts.MaxCalls || c.waiting.Len() == 0 {
		return
	}
	c.alarm = true
	time.AfterFunc(c.linger()-time.Since(c.oldest().arrived), c.wake)
}

func (c *Coalescer[In, Out]) linger() time.Duration {
	if c.busy {
		return max(c.opts.Linger, c.opts.BusyLinger)
	}
	return c.opts.Linger
}

func (c *Coalescer[In, Out]) wake() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.alarm = false
	c.pump()
}

func (c *Coalescer[In, Out]) oldest() *entry[In, Out] {
	return c.waiting.Front().Value.(*entry[In, Out])
}

// ready reports whether the next batch waits only for a slot.
func (c *Coalescer[In, Out]) ready() bool {
	n := c.waiting.Len()
	return n >= c.opts.MaxItems ||
		n > 0 && (c.opts.MaxBytes > 0 && c.bytes >= c.opts.MaxBytes || c.oldest().alone ||
			time.Since(c.oldest().arrived) >= c.linger())
}

// seal takes the next batch off the queue, and refuses entries whose callers left or have too
// little time.
func (c *Coalescer[In, Out]) seal(now time.Time) (batch []*entry[In, Out]) {
	bytes := 0
	for c.waiting.Len() > 0 && len(batch) < c.opts.MaxItems {
		e := c.oldest()
		if deadline, ok := e.ctx.Deadline(); e.ctx.Err() != nil || ok && deadline.Sub(now) < c.opts.Timeout {
			c.refuse(e)
			continue
		}
		if c.opts.MaxBytes > 0 && len(batch) > 0 && bytes+e.size > c.opts.MaxBytes {
			break
		}
		c.remove(e)
		bytes += e.size
		batch = append(batch, e)
	}
	return batch
}

func (c *Coalescer[In, Out]) remove(e *entry[In, Out]) {
	c.waiting.Remove(e.place)
	e.place = nil
	c.bytes -= e.size
}

// refuse settles a waiting entry that is in no call.
func (c *Coalescer[In, Out]) refuse(e *entry[In, Out]) {
	c.remove(e)
	err := outflow.ErrNotAttempted
	if cause := e.ctx.Err(); cause != nil {
		err = fmt.Errorf("%w: %w", outflow.ErrNotAttempted, cause)
	}
	e.answer <- Result[Out]{Err: err}
}

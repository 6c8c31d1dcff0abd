package scanner_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/scanner"
)

// trigger is a scanner.Trigger that a test drives.
type trigger struct {
	mu     sync.Mutex
	hinted func(passed int)
	broken bool
	rest   outbox.Rest
	busy   bool // it was passed on since the last Rest
	looks  []time.Time
	passed []int
}

func newTrigger() *trigger {
	return &trigger{rest: outbox.Rest{Registered: true, NextIn: 24 * time.Hour}, busy: true}
}

func (f *trigger) Name() string { return "fake" }

func (f *trigger) Problem() string {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.broken {
		return "it is broken"
	}
	return ""
}

func (f *trigger) Run(ctx context.Context, hinted func(int)) {
	f.mu.Lock()
	f.hinted = hinted
	f.mu.Unlock()
	<-ctx.Done()
}

func (f *trigger) Rest(context.Context) (outbox.Rest, bool) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.looks = append(f.looks, time.Now())
	rest := f.rest
	rest.Began, f.busy = f.busy, false
	return rest, !f.broken
}

func (f *trigger) PassOn(_ context.Context, passed int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.passed = append(f.passed, passed)
	f.busy = true
}

func (f *trigger) set(edit func(*trigger)) {
	f.mu.Lock()
	defer f.mu.Unlock()
	edit(f)
}

func (f *trigger) looked() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return len(f.looks)
}

func (f *trigger) hint(passed int) {
	f.mu.Lock()
	hinted := f.hinted
	f.mu.Unlock()
	hinted(passed)
}

func (f *trigger) passes() []int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return append([]int(nil), f.passed...)
}

// claimsWithin counts the claims of the next while.
func claimsWithin(w *world, while time.Duration) int {
	before := len(w.table.seen().claims)
	pass(while)
	return len(w.table.seen().claims) - before
}

// settled is after the polling that a scanner does when it has begun to wait for hints.
const settled = 7 * time.Second

func TestAnIdleScannerWaitsForItsTrigger(t *testing.T) {
	f := newTrigger()
	inWorld(t, scanner.Options{Trigger: f, PollInterval: time.Hour}, nil, func(w *world) {
		assert.Greater(t, claimsWithin(w, 5*time.Second), 15, "it polls at first: it may have missed a hint")
		pass(settled)
		assert.Zero(t, claimsWithin(w, 50*time.Minute))
		looks := f.looked()
		pass(time.Minute)
		assert.InDelta(t, 6, f.looked()-looks, 1, "it looks at what is due next")

		w.table.enqueue("sqs://orders", 1)
		f.hint(0)
		pass(10 * time.Millisecond)
		assert.Equal(t, 1, w.engine.count())
		pass(time.Second)
		assert.LessOrEqual(t, claimsWithin(w, 5*time.Minute), 1)
		assert.Positive(t, claimsWithin(w, time.Hour), "the poll comes all the same")
	})
}

// What is due next is claimed on time, whatever the poll.
func TestATriggerWaitsNoLongerThanTheNextDueMessage(t *testing.T) {
	for name, rest := range map[string]outbox.Rest{
		"in three seconds": {Registered: true, NextIn: 3 * time.Second},
		"in an hour":       {Registered: true, NextIn: time.Hour - time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			f := newTrigger()
			inWorld(t, scanner.Options{Trigger: f, PollInterval: 2 * time.Hour}, nil, func(w *world) {
				pass(settled)
				due := time.Now().Add(rest.NextIn)
				w.table.set(func(t *table) {
					time.AfterFunc(rest.NextIn, func() { w.table.enqueue("sqs://later", 1) })
				})
				stop := make(chan struct{})
				go func() { // what the look would say
					for {
						f.set(func(f *trigger) { f.rest.NextIn = time.Until(due) })
						select {
						case <-stop:
							return
						case <-time.After(100 * time.Millisecond):
						}
					}
				}()
				// A look comes within ten seconds; what is due before it was known at the last one.
				f.hint(0)
				pass(rest.NextIn + 400*time.Millisecond)
				assert.Equal(t, 1, w.engine.count())
				close(stop)
				f.set(func(f *trigger) { f.rest.NextIn = 24 * time.Hour })
			})
		})
	}
}

// A look that sees a message which may be claimed is followed by a claim: a hint was lost.
func TestALostHintCostsSeconds(t *testing.T) {
	f := newTrigger()
	inWorld(t, scanner.Options{Trigger: f, PollInterval: time.Hour}, nil, func(w *world) {
		pass(10 * time.Minute)
		w.table.enqueue("sqs://orders", 1)
		f.set(func(f *trigger) { f.rest.Due = true })
		pass(11 * time.Second)
		assert.Equal(t, 1, w.engine.count())
	})
}

func TestABrokenTriggerMeansPolling(t *testing.T) {
	f := newTrigger()
	inWorld(t, scanner.Options{Trigger: f, PollInterval: time.Hour}, nil, func(w *world) {
		pass(10 * time.Minute)
		f.set(func(f *trigger) { f.broken = true })
		f.hint(outbox.MaxPassed) // as a trigger does that breaks
		assert.Greater(t, claimsWithin(w, time.Minute), 200)
		f.set(func(f *trigger) { f.broken, f.busy = false, true })
		pass(settled)
		assert.Zero(t, claimsWithin(w, 10*time.Minute))
		w.table.set(func(t *table) {
			assert.Contains(w, fmt.Sprint(t.announced), "fake it is broken", "others are told")
		})
	})
}

// A scanner without room tells another one.
func TestAFullScannerPassesTheHintOn(t *testing.T) {
	f := newTrigger()
	inWorld(t, scanner.Options{Trigger: f, PollInterval: time.Hour, InFlight: 2, PerDestination: 2}, func(w *world) {
		w.engine.fastPath = time.Minute
	}, func(w *world) {
		pass(settled)
		w.table.enqueue("sqs://orders", 5)
		f.hint(0)
		pass(time.Second)
		assert.Equal(t, 2, w.engine.count())
		assert.NotEmpty(t, f.passes(), "there is more than it can take")
		f.set(func(f *trigger) { f.passed = nil })
		f.hint(1)
		pass(time.Second)
		assert.NotEmpty(t, f.passes(), "and still")
		pass(5 * time.Minute)
		assert.Equal(t, 5, w.engine.count(), "slots that come free are used without a hint")
	})
}

// The database's log may show a commit before others may read it: a hint that finds nothing is followed
// by claims soon, and polls for some seconds.
func TestAHintMayBeEarly(t *testing.T) {
	for late, limit := range map[time.Duration]time.Duration{
		5 * time.Millisecond: 30 * time.Millisecond, 100 * time.Millisecond: 150 * time.Millisecond,
		800 * time.Millisecond: 300 * time.Millisecond,
	} {
		t.Run(late.String(), func(t *testing.T) {
			f := newTrigger()
			inWorld(t, scanner.Options{Trigger: f, PollInterval: time.Hour}, nil, func(w *world) {
				pass(10 * time.Minute)
				f.hint(0)
				pass(late)
				w.table.enqueue("sqs://orders", 1)
				pass(limit)
				assert.Equal(t, 1, w.engine.count())
				pass(settled)
				assert.Zero(t, claimsWithin(w, 10*time.Minute), "then it waits again")
			})
		})
	}
}

// A hint for a message that this scanner can't send goes to another.
func TestAScannerPassesOnWhatItCantSend(t *testing.T) {
	f := newTrigger()
	inWorld(t, scanner.Options{Trigger: f, PollInterval: time.Hour}, nil, func(w *world) {
		pass(settled)
		f.hint(0)
		pass(time.Second)
		assert.Empty(t, f.passes(), "another was quicker")
		w.table.set(func(t *table) { t.refused = map[string]error{"sns://topic": errors.New("no publisher")} })
		f.hint(1)
		pass(time.Second)
		assert.Equal(t, []int{1}, f.passes())
	})
}

// A start that failed makes its message due: the scanner does not wait for a hint.
func TestAFailedStartIsRepeatedWithATrigger(t *testing.T) {
	f := newTrigger()
	inWorld(t, scanner.Options{Trigger: f, PollInterval: time.Hour}, func(w *world) {
		failures := 3
		w.engine.reply = func(start) error {
			if failures--; failures >= 0 {
				return errNo
			}
			return nil
		}
	}, func(w *world) {
		pass(settled)
		w.table.enqueue("sqs://orders", 1)
		f.hint(0)
		pass(10 * time.Second)
		assert.Equal(t, 4, w.engine.count())
	})
}

package scanner

import (
	"context"
	"errors"
	"maps"
	"sync"
	"time"

	"go.temporal.io/api/serviceerror"

	"github.com/outflowhq/outflow/internal/stall"
	"github.com/outflowhq/outflow/outbox"
)

const (
	// checkInterval lies between two checks of stalled runs, checkSoon where the last check found
	// nothing to log.
	checkInterval = time.Minute
	checkSoon     = 5 * time.Second
	// checkTimeout bounds one check, which is a handful of calls.
	checkTimeout = 5 * time.Second
	// maxCollisions bounds what a scanner remembers. Where there are more, it drops those older
	// than keepCollisions: a lease lasts an hour at most.
	maxCollisions  = 10_000
	keepCollisions = 2 * time.Hour
)

// collisions remembers the starts that found a run open already, by workflow ID. A run that makes
// progress renews its row's lease, so that a start collides with it once at most. A run that has
// two collisions is stalled: its task queue has no worker, or it belongs to another outbox.
type collisions struct {
	mu        sync.Mutex
	byID      map[string]collision
	stalled   int // runs that collided again since the last check
	nextCheck time.Time
	checking  bool
	pruned    time.Time
}

type collision struct {
	runID string
	times int
	last  time.Time
}

// note adds a collision. It reports whether to check the run now, and how many other runs
// collided again since the last check.
func (c *collisions) note(workflowID, runID string) (others int, check bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	known, ok := c.byID[workflowID]
	if !ok && !c.hasRoom() {
		return 0, false
	}
	if known.runID != runID {
		known = collision{runID: runID}
	}
	known.times, known.last = known.times+1, time.Now()
	c.byID[workflowID] = known
	if known.times < 2 {
		return 0, false
	}
	c.stalled++
	if c.checking || time.Now().Before(c.nextCheck) {
		return 0, false
	}
	others, c.stalled, c.checking = c.stalled-1, 0, true
	return others, true
}

// hasRoom drops old collisions where there are too many. The caller holds the lock.
func (c *collisions) hasRoom() bool {
	if c.byID == nil {
		c.byID = make(map[string]collision)
	}
	if len(c.byID) >= maxCollisions && time.Since(c.pruned) > keepCollisions/10 {
		c.pruned = time.Now()
		maps.DeleteFunc(c.byID, func(_ string, known collision) bool { return time.Since(known.last) > keepCollisions })
	}
	return len(c.byID) < maxCollisions
}

// checked ends a check. Where it logged nothing, the next one may come soon.
func (c *collisions) checked(logged bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	wait := checkSoon
	if logged {
		wait = checkInterval
	}
	c.checking, c.nextCheck = false, time.Now().Add(wait)
}

// noteCollision notes that a start found a run open already. It checks a stalled run in the
// background. It changes nothing: the message stays with its run.
func (s *Scanner) noteCollision(ctx context.Context, workflowID, workflow string, ref outbox.Ref, err error) {
	var running *serviceerror.WorkflowExecutionAlreadyStarted
	if !errors.As(err, &running) {
		return
	}
	others, check := s.collisions.note(workflowID, running.RunId)
	if !check {
		return
	}
	s.background.Go(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), checkTimeout) // the start is over
		defer cancel()
		s.collisions.checked(s.checkStalled(ctx, workflowID, workflow, ref, others))
	})
}

// checkStalled logs why a run makes no progress, and reports whether it logged anything.
func (s *Scanner) checkStalled(
	ctx context.Context, workflowID, workflow string, ref outbox.Ref, others int,
) (logged bool) {
	in, err := s.inputOf(ctx, ref)
	var problem *stall.Problem
	if err == nil {
		problem, err = stall.Look(ctx, s.client, stall.Expected{WorkflowID: workflowID, Type: workflow, Input: in})
	}
	switch {
	case err != nil:
		s.opts.Logger.Warn("checking a stalled run", "workflow_id", workflowID, "error", err)
	case problem != nil:
		s.opts.Logger.Warn("a message waits: the run under its workflow ID makes no progress",
			"found", problem.Text, "workflow_id", workflowID, "workflow", problem.Type,
			"task_queue", problem.TaskQueue, "advice", problem.Remedy, "others_like_it", others)
	}
	return err != nil || problem != nil
}

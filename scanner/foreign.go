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
	// lookAtMost is how often a scanner looks at a run that stands in the way, and
	// says what it finds; lookSoon, where it found nothing to say.
	lookAtMost = time.Minute
	lookSoon   = 5 * time.Second
	// lookTimeout bounds one look, which is a handful of calls.
	lookTimeout = 5 * time.Second
	// mostMeetings bounds what a scanner remembers of refused starts, rememberMeeting
	// for how long where there are more: a lease lasts an hour at most.
	mostMeetings    = 10_000
	rememberMeeting = 2 * time.Hour
)

// meetings remembers the runs that starts met, by workflow ID. A run that goes on
// renews its row's lease, so a start meets it once at most. One that is met twice
// does not take its message: its task queue has no worker, or it is somebody else's.
type meetings struct {
	mu       sync.Mutex
	byID     map[string]meeting
	stalled  int // met again since the last look
	nextLook time.Time
	looking  bool
	pruned   time.Time
}

type meeting struct {
	runID string
	times int
	last  time.Time
}

// again notes a meeting, and reports whether to look at the run now, and how many
// others were met again since the last look.
func (r *meetings) again(workflowID, runID string) (others int, look bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	m, known := r.byID[workflowID]
	if !known && !r.room() {
		return 0, false
	}
	if m.runID != runID {
		m = meeting{runID: runID}
	}
	m.times, m.last = m.times+1, time.Now()
	r.byID[workflowID] = m
	if m.times < 2 {
		return 0, false
	}
	r.stalled++
	if r.looking || time.Now().Before(r.nextLook) {
		return 0, false
	}
	others, r.stalled, r.looking = r.stalled-1, 0, true
	return others, true
}

// room makes some where it can: those not met for long have gone on. It runs under the
// lock.
func (r *meetings) room() bool {
	if r.byID == nil {
		r.byID = make(map[string]meeting)
	}
	if len(r.byID) >= mostMeetings && time.Since(r.pruned) > rememberMeeting/10 {
		r.pruned = time.Now()
		maps.DeleteFunc(r.byID, func(_ string, m meeting) bool { return time.Since(m.last) > rememberMeeting })
	}
	return len(r.byID) < mostMeetings
}

// looked says how a look ended; without anything said, the next one may come soon.
func (r *meetings) looked(said bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	wait := lookSoon
	if said {
		wait = lookAtMost
	}
	r.looking, r.nextLook = false, time.Now().Add(wait)
}

// met notes a start that met a run, and looks at one that is met again. It changes
// nothing: the message stays with its run, or without one, as it was.
func (s *Scanner) met(ctx context.Context, workflowID, workflow string, ref outbox.Ref, err error) {
	var running *serviceerror.WorkflowExecutionAlreadyStarted
	if !errors.As(err, &running) {
		return
	}
	others, look := s.meetings.again(workflowID, running.RunId)
	if !look {
		return
	}
	s.aside.Go(func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lookTimeout) // whoever met it is done
		defer cancel()
		s.meetings.looked(s.lookAt(ctx, workflowID, workflow, ref, others))
	})
}

// lookAt warns of what keeps a run from its message, and reports whether it did.
func (s *Scanner) lookAt(ctx context.Context, workflowID, workflow string, ref outbox.Ref, others int) (said bool) {
	in, err := s.inputOf(ctx, ref)
	var problem *stall.Problem
	if err == nil {
		problem, err = stall.Look(ctx, s.client, stall.Expected{WorkflowID: workflowID, Type: workflow, Input: in})
	}
	switch {
	case err != nil:
		s.opts.Logger.Warn("looking at a run that does not take its message", "workflow_id", workflowID, "error", err)
	case problem != nil:
		s.opts.Logger.Warn("a run does not take its message, which waits", "found", problem.Text, "workflow_id", workflowID, "workflow", problem.Type,
			"task_queue", problem.TaskQueue, "advice", problem.Remedy, "others_like_it", others)
	}
	return err != nil || problem != nil
}

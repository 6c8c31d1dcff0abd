package scanner

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/google/uuid"
	"go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/activities"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/workflows"
)

// Identity tells this database from every other one; outboxdb.Store has it, and
// reads it once.
type Identity interface {
	DatabaseID(ctx context.Context) (uuid.UUID, error)
}

const (
	// startTimeout bounds one start with the SDK's own retries.
	startTimeout = 10 * time.Second
	// takenWithin is how soon an eagerly started run takes its message over.
	// takenSoon is the patience once runs are seen to go elsewhere; one in
	// patientOnce still waits the whole time, so that a process which was merely
	// slow finds its way back, and its bounds with it.
	takenWithin = time.Second
	takenSoon   = 20 * time.Millisecond
	patientOnce = 16
	// settledWithin bounds the fast path: one workflow task.
	settledWithin = activities.WorkflowTask
)

// deliver starts the run of one message and holds its slot until the fast path
// is over, here or, as far as can be seen, elsewhere.
func (s *Scanner) deliver(ctx context.Context, m outbox.ClaimedMessage) {
	err := s.startTraced(ctx, m)
	s.started()
	switch {
	case err == nil:
		s.temporal.succeeded()
		s.watch(m)
	case temporal.IsWorkflowExecutionAlreadyStartedError(err):
		// A live run met an expired lease. It goes on; the claim did not count.
		s.temporal.succeeded()
		s.giveBack(ctx, m, s.store.Uncount)
		s.met(ctx, workflows.DeliverID(s.opts.Outbox, m.ID), workflows.WorkflowDeliver, m.Ref(), err)
	default:
		s.temporal.failed()
		s.opts.Logger.Error("starting a delivery in Temporal", "message", m.ID, "destination", outflow.DisplayDestination(m.Destination), "error", err)
		s.giveBack(ctx, m, s.store.Release)
	}
}

// giveBack returns a claim. Where even that fails, the lease runs out.
func (s *Scanner) giveBack(ctx context.Context, m outbox.ClaimedMessage, give func(context.Context, outbox.ClaimedMessage) error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 5*time.Second)
	defer cancel()
	if err := give(ctx, m); err != nil {
		s.opts.Logger.Warn("giving a claim back; its lease will run out", "message", m.ID, "error", err)
	}
}

// watch waits until the run has left the fast path.
func (s *Scanner) watch(m outbox.ClaimedMessage) {
	patience := takenWithin
	if s.elsewhere.Load() && rand.IntN(patientOnce) > 0 {
		patience = takenSoon
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case <-m.Taken:
		s.elsewhere.Store(false)
	case <-m.Settled:
		s.elsewhere.Store(false)
		return
	case <-timer.C:
		s.elsewhere.Store(true)
		s.store.Forget(m.Ref())
		return
	}
	timer.Reset(settledWithin)
	select {
	case <-m.Settled:
	case <-timer.C:
	}
}

// startTraced is start under a span. A run that is there already is no failure.
func (s *Scanner) startTraced(ctx context.Context, m outbox.ClaimedMessage) error {
	ctx, span := s.tracer.Start(ctx, m.Record, workflows.DeliverID(s.opts.Outbox, m.ID))
	runID, err := s.start(ctx, m)
	running := temporal.IsWorkflowExecutionAlreadyStartedError(err)
	span.Started(runID, running)
	if running {
		span.End(nil, "")
	} else {
		span.End(err, "temporal")
	}
	return err
}

// start asks Temporal for the message's run.
func (s *Scanner) start(ctx context.Context, m outbox.ClaimedMessage) (runID string, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, startTimeout, fmt.Errorf("no answer within %s", startTimeout))
	defer cancel()
	in, err := s.inputOf(ctx, m.Ref())
	if err != nil {
		return "", err
	}
	return s.withAttributes(ctx, s.startOptions(m), m.Destination, m.Type, workflows.WorkflowDeliver, in)
}

// inputOf is the input of a message's run, and of its callback's.
func (s *Scanner) inputOf(ctx context.Context, ref outbox.Ref) (workflows.DeliverInput, error) {
	database, err := s.store.DatabaseID(ctx)
	return workflows.DeliverInput{Outbox: s.opts.Outbox, Database: database, MessageID: ref.ID, Generation: ref.Generation}, err
}

// withAttributes starts a run with the search attributes of its message. The
// namespace may not know them; then the start is repeated without.
func (s *Scanner) withAttributes(ctx context.Context, options client.StartWorkflowOptions, destination, messageType, workflow string, in any) (runID string, err error) {
	if s.plain.now() {
		return s.execute(ctx, options, workflow, in)
	}
	options.TypedSearchAttributes = workflows.StartAttributes(destination, messageType)
	runID, err = s.execute(ctx, options, workflow, in)
	var invalid *serviceerror.InvalidArgument
	if !errors.As(err, &invalid) {
		return runID, err
	}
	options.TypedSearchAttributes = temporal.SearchAttributes{}
	runID, plainErr := s.execute(ctx, options, workflow, in)
	if plainErr != nil {
		return "", plainErr // they were not to blame, or not alone
	}
	if s.plain.begin() {
		s.opts.Logger.Warn("Temporal refused the search attributes; starting without them for a while", "error", err)
	}
	return runID, nil
}

func (s *Scanner) execute(ctx context.Context, options client.StartWorkflowOptions, workflow string, in any) (runID string, err error) {
	run, err := s.client.ExecuteWorkflow(ctx, options, workflow, in)
	if err != nil || run == nil {
		return "", err
	}
	return run.GetRunID(), nil
}

// startOptions: two runs of a message never overlap (FAIL), and after one has
// ended the row alone decides whether there is anything to do (ALLOW_DUPLICATE).
func (s *Scanner) startOptions(m outbox.ClaimedMessage) client.StartWorkflowOptions {
	return client.StartWorkflowOptions{
		ID:                                       workflows.DeliverID(s.opts.Outbox, m.ID),
		TaskQueue:                                s.opts.TaskQueue,
		WorkflowTaskTimeout:                      activities.WorkflowTask,
		WorkflowIDReusePolicy:                    enums.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE,
		WorkflowIDConflictPolicy:                 enums.WORKFLOW_ID_CONFLICT_POLICY_FAIL,
		WorkflowExecutionErrorWhenAlreadyStarted: true,
		EnableEagerStart:                         true,
		StaticSummary:                            workflows.Summary(m.Destination, m.Type),
		StaticDetails:                            workflows.Details(m.Record),
	}
}

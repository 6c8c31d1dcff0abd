package control

import (
	"context"
	"errors"
	"fmt"
	"time"

	"go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/sdk/client"

	"github.com/outflowhq/outflow/workflows"
)

// ErrNoRun says that Temporal knows no run of a workflow ID; of Cancel and
// TryNow, that none is open.
var ErrNoRun = errors.New("no run")

// Runs is Temporal as an operator needs it; NewRuns makes one. Every method may
// be repeated.
type Runs interface {
	// Describe returns the newest run.
	Describe(ctx context.Context, workflowID string) (Run, error)
	// Cancel asks the open run to cancel.
	Cancel(ctx context.Context, workflowID string) error
	// TryNow asks the open run to make its next attempt soon.
	TryNow(ctx context.Context, workflowID string) error
}

// Run is a workflow's newest run as Temporal shows it.
type Run struct {
	WorkflowID string     `json:"workflowId"`
	RunID      string     `json:"runId"`
	Status     string     `json:"status"` // such as Running, Completed, Failed, Canceled
	StartedAt  time.Time  `json:"startedAt"`
	ClosedAt   *time.Time `json:"closedAt,omitempty"`
	// Activities are those that have not ended: "publish" while a message is
	// retried, "mark" while its end can't be written.
	Activities []Activity `json:"activities,omitempty"`
}

// Activity is a pending activity.
type Activity struct {
	ID      string `json:"id"`
	State   string `json:"state"` // such as Scheduled, Started, Paused
	Attempt int    `json:"attempt"`
	// NextAttemptAt is nil while an attempt is under way or the activity is paused.
	NextAttemptAt *time.Time `json:"nextAttemptAt,omitempty"`
	LastFailure   string     `json:"lastFailure,omitempty"`
}

// NewRuns returns the runs that the client sees.
func NewRuns(c client.Client) Runs { return runs{client: c} }

// runTimeout bounds a call with the SDK's own retries.
const runTimeout = 5 * time.Second

type runs struct{ client client.Client }

func (r runs) Describe(ctx context.Context, workflowID string) (Run, error) {
	ctx, cancel := context.WithTimeout(ctx, runTimeout)
	defer cancel()
	described, err := r.client.DescribeWorkflowExecution(ctx, workflowID, "")
	if err != nil {
		return Run{}, asked("describing", workflowID, err)
	}
	info := described.GetWorkflowExecutionInfo()
	run := Run{
		WorkflowID: workflowID, RunID: info.GetExecution().GetRunId(),
		Status: info.GetStatus().String(), StartedAt: info.GetStartTime().AsTime(),
	}
	if info.GetCloseTime() != nil {
		at := info.GetCloseTime().AsTime()
		run.ClosedAt = &at
	}
	for _, pending := range described.GetPendingActivities() {
		run.Activities = append(run.Activities, activityOf(pending))
	}
	return run, nil
}

func activityOf(pending *workflowpb.PendingActivityInfo) Activity {
	a := Activity{
		ID: pending.GetActivityId(), State: pending.GetState().String(), Attempt: int(pending.GetAttempt()),
		LastFailure: pending.GetLastFailure().GetMessage(),
	}
	waits := pending.GetState() == enums.PENDING_ACTIVITY_STATE_SCHEDULED
	if pending.GetNextAttemptScheduleTime() != nil && waits {
		at := pending.GetNextAttemptScheduleTime().AsTime()
		a.NextAttemptAt = &at
	}
	return a
}

func (r runs) Cancel(ctx context.Context, workflowID string) error {
	ctx, cancel := context.WithTimeout(ctx, runTimeout)
	defer cancel()
	return asked("cancelling", workflowID, r.client.CancelWorkflow(ctx, workflowID, ""))
}

func (r runs) TryNow(ctx context.Context, workflowID string) error {
	ctx, cancel := context.WithTimeout(ctx, runTimeout)
	defer cancel()
	return asked("signalling", workflowID, r.client.SignalWorkflow(ctx, workflowID, "", workflows.SignalTryNow, nil))
}

// asked says what Temporal's answer means: a workflow that is unknown and one
// that has ended are both not found. A missing namespace is another matter.
func asked(doing, workflowID string, err error) error {
	var none *serviceerror.NotFound
	if errors.As(err, &none) {
		return ErrNoRun
	}
	if err != nil {
		return fmt.Errorf("%s workflow %s: %w", doing, workflowID, err)
	}
	return nil
}

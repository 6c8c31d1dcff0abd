package operator

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/temporal"

	"github.com/outflowhq/outflow/workflows"
)

// ErrNoRun says that Temporal knows no run of a workflow ID; of Cancel and TryNow, that none is
// open.
var ErrNoRun = errors.New("no run")

// ErrRunOpen says that a run of the workflow ID is open.
var ErrRunOpen = errors.New("a run is open")

// Runs is Temporal as an Operator needs it; NewRuns and ConnectLater make one. Every method may be
// repeated.
type Runs interface {
	// Describe returns the newest run.
	Describe(ctx context.Context, workflowID string) (Run, error)
	// Cancel asks the open run to cancel.
	Cancel(ctx context.Context, workflowID string) error
	// TryNow asks the open run to make its next attempt soon.
	TryNow(ctx context.Context, workflowID string) error
	// StartStream starts the run of a stream. Where one is open the error is ErrRunOpen.
	StartStream(
		ctx context.Context, options client.StartWorkflowOptions, in workflows.StreamInput,
	) (runID string, err error)
}

// Run is a workflow's newest run as Temporal shows it.
type Run struct {
	WorkflowID string     `json:"workflowId"`
	RunID      string     `json:"runId"`
	Status     string     `json:"status"` // such as Running, Completed, Failed, Canceled
	StartedAt  time.Time  `json:"startedAt"`
	ClosedAt   *time.Time `json:"closedAt,omitempty"`
	// Cancelling says that the open run was asked to cancel.
	Cancelling bool `json:"cancelling,omitempty"`
	// Activities are those that have not ended: "publish" while a message is retried, "mark" while
	// its end can't be written.
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
func NewRuns(c client.Client) Runs {
	return runs(func() (client.Client, error) { return c, nil })
}

// ConnectLater returns the runs of a client that it connects when a run is first needed: most acts
// need the database only, and work without Temporal. A connection that fails is not tried again.
// The returned function closes the client.
func ConnectLater(connect func() (client.Client, error)) (r Runs, closeClient func()) {
	var connected client.Client
	once := sync.OnceValues(func() (_ client.Client, err error) {
		connected, err = connect()
		return connected, err
	})
	return runs(once), func() {
		if connected != nil {
			connected.Close()
		}
	}
}

const (
	// runTimeout bounds a call with the SDK's own retries.
	runTimeout = 5 * time.Second
	// startTimeout bounds a start: a busy server takes seconds for one.
	startTimeout = 15 * time.Second
)

// runs returns the client, or why there is none.
type runs func() (client.Client, error)

func (r runs) Describe(ctx context.Context, workflowID string) (Run, error) {
	c, err := r()
	if err != nil {
		return Run{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, runTimeout)
	defer cancel()
	described, err := c.DescribeWorkflowExecution(ctx, workflowID, "")
	if err != nil {
		return Run{}, runError("describing", workflowID, err)
	}
	info := described.GetWorkflowExecutionInfo()
	run := Run{
		WorkflowID: workflowID, RunID: info.GetExecution().GetRunId(),
		Status: info.GetStatus().String(), StartedAt: info.GetStartTime().AsTime(),
		Cancelling: info.GetCloseTime() == nil && described.GetWorkflowExtendedInfo().GetCancelRequested(),
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
	c, err := r()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, runTimeout)
	defer cancel()
	if err := c.CancelWorkflow(ctx, workflowID, ""); err != nil {
		return runError("cancelling", workflowID, err)
	}
	// Temporal accepts the cancel of a run that has ended.
	described, err := c.DescribeWorkflowExecution(ctx, workflowID, "")
	if err == nil && described.GetWorkflowExecutionInfo().GetCloseTime() != nil {
		return ErrNoRun
	}
	return runError("describing", workflowID, err)
}

func (r runs) TryNow(ctx context.Context, workflowID string) error {
	c, err := r()
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, runTimeout)
	defer cancel()
	return runError("signalling", workflowID, c.SignalWorkflow(ctx, workflowID, "", workflows.SignalTryNow, nil))
}

// StartStream starts a run without its search attributes where the namespace refuses them.
func (r runs) StartStream(
	ctx context.Context, options client.StartWorkflowOptions, in workflows.StreamInput,
) (runID string, err error) {
	c, err := r()
	if err != nil {
		return "", err
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	run, err := c.ExecuteWorkflow(ctx, options, workflows.WorkflowStream, in)
	var invalid *serviceerror.InvalidArgument
	if errors.As(err, &invalid) {
		options.TypedSearchAttributes = temporal.SearchAttributes{}
		run, err = c.ExecuteWorkflow(ctx, options, workflows.WorkflowStream, in)
	}
	switch {
	case temporal.IsWorkflowExecutionAlreadyStartedError(err):
		return "", ErrRunOpen
	case err != nil:
		return "", fmt.Errorf("starting workflow %s: %w", options.ID, err)
	}
	return run.GetRunID(), nil
}

// runError makes Temporal's "not found" ErrNoRun: Temporal answers it for an unknown workflow and
// for one that has ended. A missing namespace is another error.
func runError(doing, workflowID string, err error) error {
	var none *serviceerror.NotFound
	if errors.As(err, &none) {
		return ErrNoRun
	}
	if err != nil {
		return fmt.Errorf("%s workflow %s: %w", doing, workflowID, err)
	}
	return nil
}

// errNoTemporal is what an Operator without Runs answers.
var errNoTemporal = errors.New("no connection to Temporal was given")

func noRuns() (client.Client, error) { return nil, errNoTemporal }

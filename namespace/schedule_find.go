package namespace

import (
	"context"
	"errors"
	"fmt"

	"github.com/google/uuid"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"

	"github.com/outflowhq/outflow/workflows"
)

// ErrNoSchedule says that nobody has written the schedule yet, or that somebody deleted it.
var ErrNoSchedule = errors.New("no schedule")

// FoundSchedule is the schedule <outbox>/maintain as Temporal has it.
type FoundSchedule struct {
	Paused    bool
	Note      string
	TaskQueue string
	// Database is the ID of the database that its runs maintain; zero where the input is not
	// Outflow's.
	Database uuid.UUID
}

// MaintainsAnother reports whether the schedule maintains another database.
func (f FoundSchedule) MaintainsAnother(database uuid.UUID) bool {
	return f.Database != uuid.Nil && f.Database != database
}

// FindSchedule returns an outbox's schedule, or ErrNoSchedule. It changes nothing.
func FindSchedule(ctx context.Context, c client.Client, namespace, outbox string) (FoundSchedule, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	id := workflows.MaintainID(outbox)
	found, err := c.WorkflowService().DescribeSchedule(ctx,
		&workflowservice.DescribeScheduleRequest{Namespace: namespace, ScheduleId: id})
	var missing *serviceerror.NotFound
	if errors.As(err, &missing) {
		return FoundSchedule{}, ErrNoSchedule
	}
	if err != nil {
		return FoundSchedule{}, fmt.Errorf("looking at schedule %s in namespace %s: %w", id, namespace, err)
	}
	run := found.GetSchedule().GetAction().GetStartWorkflow()
	var in workflows.MaintainInput
	if converter.GetDefaultDataConverter().FromPayloads(run.GetInput(), &in) != nil {
		in.Database = uuid.Nil
	}
	state := found.GetSchedule().GetState()
	return FoundSchedule{
		Paused: state.GetPaused(), Note: state.GetNotes(), TaskQueue: run.GetTaskQueue().GetName(), Database: in.Database,
	}, nil
}

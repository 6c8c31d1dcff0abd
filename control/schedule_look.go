package control

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

// ErrNoSchedule says that nobody has written the schedule, or somebody deleted it.
var ErrNoSchedule = errors.New("no schedule")

// ScheduleFound is the schedule <outbox>/maintain as it stands.
type ScheduleFound struct {
	Paused    bool
	Note      string
	TaskQueue string
	// Database is the one that its runs maintain; zero where its input is not
	// Outflow's.
	Database uuid.UUID
}

// OfAnother reports whether the schedule maintains another database.
func (f ScheduleFound) OfAnother(database uuid.UUID) bool {
	return f.Database != uuid.Nil && f.Database != database
}

// FindSchedule looks at an outbox's schedule. It changes nothing, and returns
// ErrNoSchedule where there is none.
func FindSchedule(ctx context.Context, c client.Client, namespace, outbox string) (ScheduleFound, error) {
	ctx, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	id := workflows.MaintainID(outbox)
	found, err := c.WorkflowService().DescribeSchedule(ctx, &workflowservice.DescribeScheduleRequest{Namespace: namespace, ScheduleId: id})
	var missing *serviceerror.NotFound
	if errors.As(err, &missing) {
		return ScheduleFound{}, ErrNoSchedule
	}
	if err != nil {
		return ScheduleFound{}, fmt.Errorf("looking at schedule %s in namespace %s: %w", id, namespace, err)
	}
	run := found.GetSchedule().GetAction().GetStartWorkflow()
	var in workflows.MaintainInput
	if converter.GetDefaultDataConverter().FromPayloads(run.GetInput(), &in) != nil {
		in.Database = uuid.Nil
	}
	state := found.GetSchedule().GetState()
	return ScheduleFound{Paused: state.GetPaused(), Note: state.GetNotes(), TaskQueue: run.GetTaskQueue().GetName(), Database: in.Database}, nil
}

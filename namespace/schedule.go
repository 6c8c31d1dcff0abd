package namespace

import (
	"cmp"
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"
	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/api/enums/v1"
	schedulepb "go.temporal.io/api/schedule/v1"
	sdkpb "go.temporal.io/api/sdk/v1"
	"go.temporal.io/api/serviceerror"
	taskqueuepb "go.temporal.io/api/taskqueue/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/outflowhq/outflow/workflows"
)

const (
	// MaintainEvery is how often the table is maintained.
	MaintainEvery = 5 * time.Minute
	// maintainJitter keeps the outboxes of one namespace apart.
	maintainJitter = 30 * time.Second
	// maintainCatchup is how late a missed run may start: the next run does its work too.
	// Temporal's default is a year.
	maintainCatchup = time.Minute
	// maintainRun bounds a run, whose activities end long before.
	maintainRun = 30 * time.Minute
	// scheduleWait leaves time for a server that is starting, and for other processes that write
	// the schedule at the same moment: Temporal refuses all but one.
	scheduleWait = 15 * time.Second

	scheduleIdentity = "outflow schedule"
	maintainSummary  = "purge final messages, look at the table's health"
)

// Schedule says when and how the workflow Maintain runs.
type Schedule struct {
	Namespace, Outbox string
	// Database is the ID that outboxdb.Store.DatabaseID returns.
	Database uuid.UUID
	// TaskQueue is the worker's. Default: workflows.TaskQueueFor(Outbox).
	TaskQueue string
	// Every is the interval; 0 means MaintainEvery.
	Every time.Duration
	// Input has the retention. Its Outbox and Database are set to those above.
	Input workflows.MaintainInput
}

// EnsureSchedule creates the schedule <outbox>/maintain, changes it where it differs from s, or
// leaves it as it is. A schedule that an operator paused stays paused and keeps its note. Several
// processes may call it at once; if they want different things, the last one wins.
func EnsureSchedule(ctx context.Context, c client.Client, s Schedule) error {
	if s.Every == 0 {
		s.Every = MaintainEvery
	}
	id := workflows.MaintainID(s.Outbox)
	if s.Database == uuid.Nil {
		return fmt.Errorf("writing schedule %s: Database: wants the ID that outboxdb.Store.DatabaseID returns", id)
	}
	s.TaskQueue = cmp.Or(s.TaskQueue, workflows.TaskQueueFor(s.Outbox))
	s.Input.Outbox, s.Input.Database = s.Outbox, s.Database
	want, err := s.proto()
	if err != nil {
		return fmt.Errorf("preparing schedule %s: %w", id, err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, scheduleWait, fmt.Errorf("not within %s", scheduleWait))
	defer cancel()
	worthIt := func(err error) bool { return isConflict(err) || isTransient(err) }
	err = retry(ctx, worthIt, func(ctx context.Context) error { return s.ensure(ctx, c.WorkflowService(), id, want) })
	if err != nil {
		return fmt.Errorf("writing schedule %s in namespace %s: %w", id, s.Namespace, err)
	}
	return nil
}

// ensure looks and writes once. Temporal refuses the write if another process wrote in between.
func (s Schedule) ensure(
	ctx context.Context, service workflowservice.WorkflowServiceClient, id string, want *schedulepb.Schedule,
) error {
	found, err := service.DescribeSchedule(ctx,
		&workflowservice.DescribeScheduleRequest{Namespace: s.Namespace, ScheduleId: id})
	var missing *serviceerror.NotFound
	if errors.As(err, &missing) {
		_, err = service.CreateSchedule(ctx, &workflowservice.CreateScheduleRequest{
			Namespace: s.Namespace, ScheduleId: id, Schedule: want, Identity: scheduleIdentity,
			RequestId: rand.Text(),
		})
		return err
	}
	if err != nil || same(found.GetSchedule(), want) {
		return err
	}
	changed := found.GetSchedule()
	changed.Spec, changed.Action, changed.Policies = want.GetSpec(), want.GetAction(), want.GetPolicies()
	_, err = service.UpdateSchedule(ctx, &workflowservice.UpdateScheduleRequest{
		Namespace: s.Namespace, ScheduleId: id, Schedule: changed, ConflictToken: found.GetConflictToken(),
		Identity: scheduleIdentity, RequestId: rand.Text(),
	})
	return err
}

// isConflict reports whether another process was faster.
func isConflict(err error) bool {
	var exists *serviceerror.AlreadyExists
	var running *serviceerror.WorkflowExecutionAlreadyStarted
	var conflict *serviceerror.FailedPrecondition
	return errors.As(err, &exists) || errors.As(err, &running) || errors.As(err, &conflict)
}

// proto returns the schedule as Temporal's API has it.
func (s Schedule) proto() (*schedulepb.Schedule, error) {
	encode := converter.GetDefaultDataConverter()
	input, err := encode.ToPayloads(s.Input)
	if err != nil {
		return nil, err
	}
	summary, err := encode.ToPayload(maintainSummary)
	if err != nil {
		return nil, err
	}
	run := &workflowpb.NewWorkflowExecutionInfo{
		WorkflowId:               workflows.MaintainID(s.Outbox), // the server adds the time
		WorkflowType:             &commonpb.WorkflowType{Name: workflows.WorkflowMaintain},
		TaskQueue:                &taskqueuepb.TaskQueue{Name: s.TaskQueue, Kind: enums.TASK_QUEUE_KIND_NORMAL},
		Input:                    input,
		WorkflowExecutionTimeout: durationpb.New(maintainRun),
		UserMetadata:             &sdkpb.UserMetadata{Summary: summary},
	}
	return &schedulepb.Schedule{
		Spec: &schedulepb.ScheduleSpec{
			Interval: []*schedulepb.IntervalSpec{{Interval: durationpb.New(s.Every)}},
			Jitter:   durationpb.New(maintainJitter),
		},
		Action: &schedulepb.ScheduleAction{Action: &schedulepb.ScheduleAction_StartWorkflow{StartWorkflow: run}},
		Policies: &schedulepb.SchedulePolicies{
			OverlapPolicy: enums.SCHEDULE_OVERLAP_POLICY_SKIP,
			CatchupWindow: durationpb.New(maintainCatchup),
		},
	}, nil
}

// same compares the parts of two schedules that Outflow writes. It passes over what only others
// set, such as an operator's pause.
func same(a, b *schedulepb.Schedule) bool {
	digest := func(s *schedulepb.Schedule) string {
		spec, policies, run := s.GetSpec(), s.GetPolicies(), s.GetAction().GetStartWorkflow()
		parts := []any{
			len(spec.GetInterval()), len(spec.GetStructuredCalendar()), spec.GetJitter().AsDuration(),
			policies.GetOverlapPolicy(), policies.GetCatchupWindow().AsDuration(),
			run.GetWorkflowId(), run.GetWorkflowType().GetName(), run.GetTaskQueue().GetName(),
			run.GetWorkflowExecutionTimeout().AsDuration(), string(run.GetUserMetadata().GetSummary().GetData()),
		}
		for _, i := range spec.GetInterval() {
			parts = append(parts, i.GetInterval().AsDuration(), i.GetPhase().AsDuration())
		}
		for _, p := range run.GetInput().GetPayloads() {
			parts = append(parts, string(p.GetData()))
		}
		text, _ := json.Marshal(parts) // it has strings and numbers only
		return string(text)
	}
	return digest(a) == digest(b)
}

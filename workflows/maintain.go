package workflows

import (
	"time"

	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"github.com/outflowhq/outflow/activities"
	"github.com/outflowhq/outflow/outbox"
)

// RegisterMaintain registers the workflow Maintain and its activities.
func RegisterMaintain(w worker.Registry, m *activities.MaintenanceActivities) {
	w.RegisterWorkflowWithOptions(Maintain, registered(WorkflowMaintain))
	w.RegisterActivityWithOptions(m.TableHealth, activity.RegisterOptions{Name: ActivityTableHealth})
	w.RegisterActivityWithOptions(m.Purge, activity.RegisterOptions{Name: ActivityPurge})
}

// MaintainResult is what a run of Maintain found and did.
type MaintainResult struct {
	Purged activities.PurgeResult `json:"purged"`
	// Health is the table's from before the purge.
	Health outbox.TableHealth `json:"health"`
	// Warnings are what somebody should do something about.
	Warnings []string `json:"warnings,omitempty"`
}

// Maintain looks at the table's health and deletes what is older than the
// retention. It ends within some minutes, done or not: a schedule starts it
// again. A health that can't be looked at is a warning; the purge goes on.
func Maintain(ctx workflow.Context, in MaintainInput) (MaintainResult, error) {
	var result MaintainResult
	if err := workflow.ExecuteActivity(lookAtHealth(ctx), ActivityTableHealth, activities.HealthInput{Owner: in.owner()}).Get(ctx, &result.Health); err != nil {
		if temporal.IsCanceledError(err) {
			return result, err
		}
		result.Warnings = append(result.Warnings, "looking at the table's health: "+reason(err))
	}
	for _, h := range result.Health.Held {
		result.Warnings = append(result.Warnings, h.Advice())
	}
	err := workflow.ExecuteActivity(purge(ctx), ActivityPurge, activities.PurgeInput{Owner: in.owner(), Retention: in.Retention}).Get(ctx, &result.Purged)
	return result, err
}

func lookAtHealth(ctx workflow.Context) workflow.Context {
	return workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		ActivityID:             ActivityIDHealth,
		StartToCloseTimeout:    activities.Look,
		ScheduleToCloseTimeout: activities.LookAltogether,
		RetryPolicy:            maintained,
		Summary:                "look at the table's health",
	})
}

func purge(ctx workflow.Context) workflow.Context {
	return workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		ActivityID:             ActivityIDPurge,
		StartToCloseTimeout:    activities.PurgeAttempt,
		ScheduleToCloseTimeout: activities.PurgeAltogether,
		HeartbeatTimeout:       activities.PurgeHeartbeat,
		RetryPolicy:            maintained,
		Summary:                "delete what is older than the retention",
	})
}

// maintained retries within the activity's ScheduleToClose timeout.
var maintained = &temporal.RetryPolicy{InitialInterval: 5 * time.Second, BackoffCoefficient: 2, MaximumInterval: time.Minute}

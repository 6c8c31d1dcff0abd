package workflows

import (
	"time"

	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/workflow"

	"github.com/outflowhq/outflow/activities"
	"github.com/outflowhq/outflow/internal/timing"
	"github.com/outflowhq/outflow/outbox"
)

// MaintainResult is what a run of Maintain found and did.
type MaintainResult struct {
	Purged activities.PurgeResult `json:"purged"`
	// Health is the table's health before the purge.
	Health outbox.TableHealth `json:"health"`
	// Warnings are for an operator: each says what to do.
	Warnings []string `json:"warnings,omitempty"`
}

// Maintain reads the table's health and deletes final messages older than the retention. It ends
// within some minutes, done or not: a schedule starts it again. A failure to read the health is
// a warning, and the purge goes on.
func Maintain(ctx workflow.Context, in MaintainInput) (MaintainResult, error) {
	var result MaintainResult
	health := activities.HealthInput{Owner: in.owner()}
	if err := workflow.ExecuteActivity(readHealth(ctx), ActivityTableHealth, health).Get(ctx,
		&result.Health); err != nil {
		if temporal.IsCanceledError(err) {
			return result, err
		}
		result.Warnings = append(result.Warnings, "reading the table's health: "+reason(err))
	}
	for _, h := range result.Health.Held {
		result.Warnings = append(result.Warnings, h.Advice())
	}
	old := activities.PurgeInput{Owner: in.owner(), Retention: in.Retention}
	err := workflow.ExecuteActivity(purge(ctx), ActivityPurge, old).Get(ctx, &result.Purged)
	return result, err
}

func readHealth(ctx workflow.Context) workflow.Context {
	return workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		ActivityID:             ActivityIDHealth,
		StartToCloseTimeout:    timing.TableHealth,
		ScheduleToCloseTimeout: timing.TableHealthTotal,
		RetryPolicy:            maintenancePolicy,
		Summary:                "read the table's health",
	})
}

func purge(ctx workflow.Context) workflow.Context {
	return workflow.WithActivityOptions(ctx, workflow.ActivityOptions{
		ActivityID:             ActivityIDPurge,
		StartToCloseTimeout:    timing.PurgeAttempt,
		ScheduleToCloseTimeout: timing.PurgeTotal,
		HeartbeatTimeout:       timing.PurgeHeartbeatTimeout,
		RetryPolicy:            maintenancePolicy,
		Summary:                "delete what is older than the retention",
	})
}

// maintenancePolicy retries within the activity's ScheduleToClose timeout.
var maintenancePolicy = unlimited(timing.Backoff{First: 5 * time.Second, Max: time.Minute})

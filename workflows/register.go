package workflows

import (
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"github.com/outflowhq/outflow/activities"
)

// Register registers the workflows Deliver and Callback and their activities with a worker. The
// worker may use Worker Versioning (worker.DeploymentOptions), with or without a default
// behavior: all of Outflow's workflows are auto-upgraded.
//
// Package dispatcher makes a worker and registers with it. A worker of your own needs
//
//   - a WorkerStopTimeout of at least dispatcher.StopTimeout. With the SDK's default of 0 a
//     published message stays unmarked, and another worker publishes it again.
//   - a MaxHeartbeatThrottleInterval of at most dispatcher.HeartbeatThrottle. With the SDK's
//     default a busy Temporal takes a slow publish for a crashed one.
func Register(w worker.Registry, a *activities.Activities) {
	w.RegisterWorkflowWithOptions(Deliver, registered(WorkflowDeliver))
	w.RegisterWorkflowWithOptions(Callback, registered(WorkflowCallback))
	for name, function := range map[string]any{
		ActivityPublish:            a.Publish,
		ActivityMarkDelivered:      a.MarkDelivered,
		ActivityMarkDead:           a.MarkDead,
		ActivityMarkExpired:        a.MarkExpired,
		ActivityMarkCancelled:      a.MarkCancelled,
		ActivityCallback:           a.Callback,
		ActivityMarkCallbackFailed: a.MarkCallbackFailed,
	} {
		w.RegisterActivityWithOptions(function, activity.RegisterOptions{Name: name})
	}
}

// RegisterMaintain registers the workflow Maintain and its activities.
func RegisterMaintain(w worker.Registry, m *activities.MaintenanceActivities) {
	w.RegisterWorkflowWithOptions(Maintain, registered(WorkflowMaintain))
	w.RegisterActivityWithOptions(m.TableHealth, activity.RegisterOptions{Name: ActivityTableHealth})
	w.RegisterActivityWithOptions(m.Purge, activity.RegisterOptions{Name: ActivityPurge})
}

// RegisterStream registers the workflow Stream and its activity, with a worker on StreamTaskQueue. Each
// of its activity slots has one stream.
func RegisterStream(w worker.Registry, s *activities.Streams) {
	w.RegisterWorkflowWithOptions(Stream, registered(WorkflowStream))
	w.RegisterActivityWithOptions(s.Stream, activity.RegisterOptions{Name: ActivityStream})
}

// registered returns the options of each workflow. A versioned worker needs a behavior, and it is
// auto-upgrade. A run may retry for days while its destination is down. Pinned, it would keep
// its deployment version from draining, and would stop forever with that version's last worker.
// Changes of the code replay the histories of earlier versions, with Worker Versioning or without.
func registered(name string) workflow.RegisterOptions {
	return workflow.RegisterOptions{Name: name, VersioningBehavior: workflow.VersioningBehaviorAutoUpgrade}
}

package workflows_test

import (
	"testing"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"github.com/outflowhq/outflow/activities"
	"github.com/outflowhq/outflow/workflows"
)

// registry notes the behavior that each workflow is registered with: one of its own
// comes before the worker's default.
type registry struct {
	worker.Registry
	behaviors map[string]workflow.VersioningBehavior
}

func (r registry) RegisterWorkflowWithOptions(w any, options workflow.RegisterOptions) {
	r.behaviors[options.Name] = options.VersioningBehavior
	r.Registry.RegisterWorkflowWithOptions(w, options)
}

// TestRegisterOnAVersionedWorker: the SDK panics at a workflow without a behavior where
// the worker has no default. A run that is pinned by the default would stop with its version.
func TestRegisterOnAVersionedWorker(t *testing.T) {
	c, err := client.NewLazyClient(client.Options{})
	require.NoError(t, err)
	defer c.Close()
	for name, behavior := range map[string]workflow.VersioningBehavior{
		"no default": workflow.VersioningBehaviorUnspecified, "pinned by default": workflow.VersioningBehaviorPinned,
	} {
		t.Run(name, func(t *testing.T) {
			w := worker.New(c, "shop", worker.Options{DeploymentOptions: worker.DeploymentOptions{
				UseVersioning: true, DefaultVersioningBehavior: behavior,
				Version: worker.WorkerDeploymentVersion{DeploymentName: "shop", BuildID: "1"},
			}})
			r := registry{w, map[string]workflow.VersioningBehavior{}}
			require.NotPanics(t, func() {
				workflows.Register(r, activities.New(&table{}, &broker{}))
				workflows.RegisterMaintain(r, activities.NewMaintenance(nil))
				workflows.RegisterStream(r, activities.NewStreams(activities.New(&table{}, &broker{}), nil, nil))
			})
			require.Equal(t, map[string]workflow.VersioningBehavior{
				workflows.WorkflowDeliver:  workflow.VersioningBehaviorAutoUpgrade,
				workflows.WorkflowCallback: workflow.VersioningBehaviorAutoUpgrade,
				workflows.WorkflowMaintain: workflow.VersioningBehaviorAutoUpgrade,
				workflows.WorkflowStream:   workflow.VersioningBehaviorAutoUpgrade,
			}, r.behaviors)
		})
	}
}

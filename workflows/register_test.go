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

// TestRegisterOnAVersionedWorker: the SDK panics at a workflow without a behavior
// where the worker has no default, which is the SDK's own.
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
			require.NotPanics(t, func() {
				workflows.Register(w, activities.New(&table{}, &broker{}))
				workflows.RegisterMaintain(w, activities.NewMaintenance(nil))
			})
		})
	}
}

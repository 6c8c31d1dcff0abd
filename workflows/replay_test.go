package workflows_test

import (
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"github.com/outflowhq/outflow/workflows"
)

// TestReplay holds the code against histories of real runs, one per path. A
// failure here means that the change breaks the runs that are open when it is
// deployed: use workflow.GetVersion. "make histories VERSION=v1.2.3" records
// those of a release under its name, once; they are never recorded again.
func TestReplay(t *testing.T) {
	files, err := filepath.Glob("testdata/*/*.json")
	require.NoError(t, err)
	require.NotEmpty(t, files)
	for _, file := range files {
		name, err := filepath.Rel("testdata", file)
		require.NoError(t, err)
		t.Run(name, func(t *testing.T) {
			replayer := worker.NewWorkflowReplayer()
			replayer.RegisterWorkflowWithOptions(workflows.Deliver,
				workflow.RegisterOptions{Name: workflows.WorkflowDeliver})
			replayer.RegisterWorkflowWithOptions(workflows.Callback,
				workflow.RegisterOptions{Name: workflows.WorkflowCallback})
			replayer.RegisterWorkflowWithOptions(workflows.Maintain,
				workflow.RegisterOptions{Name: workflows.WorkflowMaintain})
			replayer.RegisterWorkflowWithOptions(workflows.Stream,
				workflow.RegisterOptions{Name: workflows.WorkflowStream})
			require.NoError(t, replayer.ReplayWorkflowHistoryFromJSONFile(nil, file))
		})
	}
}

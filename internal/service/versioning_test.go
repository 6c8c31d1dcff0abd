package service

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/api/enums/v1"
	historypb "go.temporal.io/api/history/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/activities"
	"github.com/outflowhq/outflow/internal/config"
	"github.com/outflowhq/outflow/workflows"
)

// deploy starts a worker as one build of a deployment, and makes it current.
func (w *world) deploy(build string) worker.Worker {
	w.Helper()
	options := workerOptions(config.Config{}, make(chan error, 1))
	options.DeploymentOptions = worker.DeploymentOptions{
		UseVersioning: true, Version: worker.WorkerDeploymentVersion{DeploymentName: w.opts.TaskQueue, BuildID: build},
	}
	run := worker.New(w.client, w.opts.TaskQueue, options)
	workflows.Register(run, activities.New(w.store, w.broker))
	require.NoError(w, run.Start())
	deployment := w.client.WorkerDeploymentClient().GetHandle(w.opts.TaskQueue)
	var err error
	w.eventually(func() bool { // the server learns of a build by its polls
		_, err = deployment.SetCurrentVersion(w.Context(),
			client.WorkerDeploymentSetCurrentVersionOptions{BuildID: build})
		return err == nil
	}, func() string { return err.Error() })
	return run
}

// A run that waits for its destination must not keep an old build's workers alive,
// nor end with them.
func TestAVersionedRunGoesOnWithTheNextBuild(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	first := w.deploy("build-1")
	w.scan()

	id := w.enqueue("before")
	w.until(id, func(r row) bool { return r.State == outflow.Delivered })
	_, history := w.closed(id)
	assert.Equal(t, 1, count(history, enums.EVENT_TYPE_WORKFLOW_TASK_STARTED))
	assert.True(t, history.GetEvents()[0].GetWorkflowExecutionStartedEventAttributes().GetEagerExecutionAccepted(),
		"docs/running.md says so")

	w.broker.set(func(int) (string, error) { return "", outflow.Unavailable(errors.New("down")) })
	id = w.enqueue("through both")
	w.until(id, func(r row) bool { return r.Retrying })
	second := w.deploy("build-2")
	t.Cleanup(second.Stop)
	first.Stop()
	w.broker.set(nil)
	require.NoError(t, w.client.SignalWorkflow(t.Context(), w.workflowID(id), "", workflows.SignalTryNow, nil))
	w.until(id, func(r row) bool { return r.State == outflow.Delivered })
	status, history := w.closed(id)
	assert.Equal(t, enums.WORKFLOW_EXECUTION_STATUS_COMPLETED, status)
	var last *historypb.WorkflowTaskCompletedEventAttributes
	for _, event := range history.GetEvents() {
		if completed := event.GetWorkflowTaskCompletedEventAttributes(); completed != nil {
			last = completed
		}
	}
	assert.Equal(t, "build-2", last.GetDeploymentVersion().GetBuildId())
	assert.Equal(t, enums.VERSIONING_BEHAVIOR_AUTO_UPGRADE, last.GetVersioningBehavior())
}

package service

import (
	"encoding/base64"
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/api/enums/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/fieldmaskpb"

	activitypb "go.temporal.io/api/activity/v1"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/timing"
	"github.com/outflowhq/outflow/workflows"
)

// What only a real Temporal shows. Each run's history is replayed against the
// code, too.

func TestFastPathIsOneWorkflowTask(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.work()
	w.scan()
	marker := "a marker that belongs into no history"
	id := w.enqueue(marker)
	r := w.until(id, func(r row) bool { return r.State == outflow.Delivered })
	assert.Equal(t, 1, r.Attempts)
	status, history := w.closed(id)
	assert.Equal(t, enums.WORKFLOW_EXECUTION_STATUS_COMPLETED, status)
	assert.LessOrEqual(t, len(history.GetEvents()), 7)
	assert.Equal(t, 1, count(history, enums.EVENT_TYPE_WORKFLOW_TASK_STARTED))
	assert.Zero(t, count(history, enums.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED))
	started := history.GetEvents()[0].GetWorkflowExecutionStartedEventAttributes()
	assert.True(t, started.GetEagerExecutionAccepted(), "the first task came with the start's answer")
	assert.NotEmpty(t, started.GetSearchAttributes().GetIndexedFields())

	exported, err := proto.Marshal(history)
	require.NoError(t, err)
	require.Contains(t, string(exported), id.String())
	assert.NotContains(t, string(exported), "marker")
	for cut := range 3 {
		assert.NotContains(t, string(exported), base64.StdEncoding.EncodeToString([]byte(marker)[cut:cut+30]))
	}
}

// A lease that runs out beside a live run starts no second one, and an ended
// run keeps no new one from starting: then the row decides.
func TestTwoRunsOfAMessage(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.work()
	release := make(chan struct{})
	w.broker.set(func(int) (string, error) { <-release; return "broker-1", nil })
	id := w.enqueue("{}")
	w.scan()
	w.eventually(func() bool { return w.broker.count() == 1 }, func() string { return "no publish" })
	_, err := w.pool.Exec(t.Context(), `UPDATE outbox.messages SET available_at = now() WHERE id = $1`, id)
	require.NoError(t, err)
	// Claimed again, met the live run, uncounted.
	w.until(id, func(r row) bool { return !r.Due && r.Claims == 1 })
	close(release)
	w.until(id, func(r row) bool { return r.State == outflow.Delivered })
	status, _ := w.closed(id)
	assert.Equal(t, enums.WORKFLOW_EXECUTION_STATUS_COMPLETED, status)
	first, err := w.client.DescribeWorkflowExecution(t.Context(), w.workflowID(id), "")
	require.NoError(t, err)

	run, err := w.client.ExecuteWorkflow(t.Context(), client.StartWorkflowOptions{
		ID: w.workflowID(id), TaskQueue: w.opts.TaskQueue,
		WorkflowIDReusePolicy:                    enums.WORKFLOW_ID_REUSE_POLICY_ALLOW_DUPLICATE,
		WorkflowIDConflictPolicy:                 enums.WORKFLOW_ID_CONFLICT_POLICY_FAIL,
		WorkflowExecutionErrorWhenAlreadyStarted: true,
	}, workflows.WorkflowDeliver, workflows.DeliverInput{Outbox: w.opts.Outbox, Database: w.database(), MessageID: id, Generation: 1})
	require.NoError(t, err)
	assert.NotEqual(t, first.GetWorkflowExecutionInfo().GetExecution().GetRunId(), run.GetRunID())
	var outcome outflow.Outcome
	require.NoError(t, run.Get(t.Context(), &outcome))
	assert.Equal(t, outflow.Delivered, outcome.State)
	assert.Equal(t, 1, w.broker.count())
}

// The cancel makes Temporal refuse the task's completion and drop its markers:
// everything runs again, except the publish.
func TestCancelDuringTheLocalPublish(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.work()
	w.scan()
	sending, release := make(chan struct{}, 10), make(chan struct{})
	w.broker.set(func(int) (string, error) { sending <- struct{}{}; <-release; return "broker-1", nil })
	id := w.enqueue("{}")
	<-sending
	require.NoError(t, w.client.CancelWorkflow(t.Context(), w.workflowID(id), ""))
	close(release)
	w.until(id, func(r row) bool { return r.State == outflow.Delivered })
	status, history := w.closed(id)
	assert.Equal(t, enums.WORKFLOW_EXECUTION_STATUS_COMPLETED, status)
	assert.Equal(t, 1, count(history, enums.EVENT_TYPE_WORKFLOW_TASK_FAILED), "the completion was refused")
	assert.Equal(t, 1, w.broker.count())
	assert.Equal(t, outflow.Delivered, w.row(id).State)
}

func TestCancelBeforeTheFirstTask(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.scan() // no worker yet: the run waits
	id := w.enqueue("{}")
	w.eventually(func() bool {
		return w.client.CancelWorkflow(t.Context(), w.workflowID(id), "") == nil
	}, func() string { return "not started" })
	w.work()
	r := w.until(id, func(r row) bool { return r.State == outflow.Cancelled })
	assert.Zero(t, r.Attempts)
	status, _ := w.closed(id)
	assert.Equal(t, enums.WORKFLOW_EXECUTION_STATUS_CANCELED, status)
	assert.Zero(t, w.broker.count())
}

func TestCancelDuringBackoff(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.broker.set(func(n int) (string, error) {
		return "", &outflow.Failure{Class: outflow.ClassUnavailable, RetryAfter: 50e9, Err: fmt.Errorf("failure %d", n)}
	})
	w.work()
	w.scan()
	id := w.enqueue("{}")
	w.eventually(func() bool { return w.broker.count() == 2 }, func() string { return "no durable attempt" })
	require.NoError(t, w.client.CancelWorkflow(t.Context(), w.workflowID(id), ""))
	r := w.until(id, func(r row) bool { return r.State == outflow.Cancelled })
	assert.Equal(t, 2, r.Attempts)
	status, _ := w.closed(id)
	assert.Equal(t, enums.WORKFLOW_EXECUTION_STATUS_CANCELED, status)
}

// Cancelled while a durable attempt is under way in another process: the run
// waits for its answer.
func TestCancelDuringADurablePublish(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	sending, release := make(chan struct{}, 1), make(chan struct{})
	w.broker.set(func(n int) (string, error) {
		if n == 1 {
			return "", fmt.Errorf("failure %d", n)
		}
		sending <- struct{}{}
		<-release
		return "broker-2", nil
	})
	w.workApart()
	w.scan()
	id := w.enqueue("{}")
	<-sending
	require.NoError(t, w.client.CancelWorkflow(t.Context(), w.workflowID(id), ""))
	w.eventually(func() bool {
		described, err := w.client.DescribeWorkflowExecution(t.Context(), w.workflowID(id), "")
		require.NoError(t, err)
		pending := described.GetPendingActivities()
		return len(pending) == 1 && pending[0].GetState() == enums.PENDING_ACTIVITY_STATE_CANCEL_REQUESTED
	}, func() string { return "the activity was not asked to cancel" })
	// Newer servers notify the worker at once, which must not leave: by the time
	// another start would have been marked, this one is still open.
	assert.Never(t, func() bool { return w.row(id).State != outflow.Pending }, time.Second, 50*time.Millisecond)
	close(release)
	r := w.until(id, func(r row) bool { return r.State != outflow.Pending })
	assert.Equal(t, outflow.Delivered, r.State)
	assert.Equal(t, 2, r.Attempts)
	status, _ := w.closed(id)
	assert.Equal(t, enums.WORKFLOW_EXECUTION_STATUS_COMPLETED, status)
}

// A cancel request, which the first heartbeat brings back, ends no heartbeats: a call that
// takes longer than timing.HeartbeatTimeout is waited for all the same.
func TestCancelDuringALongPublish(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	sending := make(chan struct{}, 1)
	w.broker.set(func(n int) (string, error) {
		if n == 1 {
			return "", fmt.Errorf("failure %d", n)
		}
		sending <- struct{}{}
		time.Sleep(timing.HeartbeatTimeout + 2*timing.HeartbeatThrottle)
		return "broker-2", nil
	})
	w.workApart()
	w.scan()
	id := w.enqueue("{}")
	<-sending
	require.NoError(t, w.client.CancelWorkflow(t.Context(), w.workflowID(id), ""))
	r := w.until(id, func(r row) bool { return r.State != outflow.Pending })
	assert.Equal(t, outflow.Delivered, r.State)
	status, _ := w.closed(id)
	assert.Equal(t, enums.WORKFLOW_EXECUTION_STATUS_COMPLETED, status)
}

// The failure that an attempt leaves in its heartbeat reaches the next one; the
// Web UI's operations find the activity by its ID.
func TestDurableAttempts(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.broker.set(func(n int) (string, error) {
		if n < 4 {
			return "", fmt.Errorf("failure %d", n)
		}
		return "broker-4", nil
	})
	w.work()
	w.scan()
	id := w.enqueue("{}")
	seen := map[string]bool{}
	r := w.until(id, func(r row) bool {
		seen[r.LastError] = true
		return r.State == outflow.Delivered
	})
	assert.Equal(t, 4, r.Attempts)
	assert.Equal(t, "failure 3", r.LastError)
	assert.True(t, seen["failure 2"], "noted by the attempt after it")
	status, history := w.closed(id)
	assert.Equal(t, enums.WORKFLOW_EXECUTION_STATUS_COMPLETED, status)
	assert.Equal(t, 1, count(history, enums.EVENT_TYPE_UPSERT_WORKFLOW_SEARCH_ATTRIBUTES))
	assert.Equal(t, 1, count(history, enums.EVENT_TYPE_ACTIVITY_TASK_SCHEDULED))
}

func TestPermanentFailureFailsTheRun(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.broker.set(func(int) (string, error) { return "", outflow.Permanent(fmt.Errorf("no such queue")) })
	w.work()
	w.scan()
	id := w.enqueue("{}")
	r := w.until(id, func(r row) bool { return r.State == outflow.Dead })
	assert.Equal(t, "no such queue", r.LastError)
	assert.Equal(t, 1, r.Attempts)
	status, history := w.closed(id)
	assert.Equal(t, enums.WORKFLOW_EXECUTION_STATUS_FAILED, status)
	assert.LessOrEqual(t, len(history.GetEvents()), 7)
}

// An operator limits the attempts: that is no cancel, and the row says why it ended.
func TestAnOperatorLimitsTheAttempts(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.broker.set(func(n int) (string, error) { return "", fmt.Errorf("failure %d", n) })
	w.work()
	w.scan()
	id := w.enqueue("{}")
	w.eventually(func() bool { return w.broker.count() == 2 }, func() string { return "no durable attempt" })
	_, err := w.client.WorkflowService().UpdateActivityOptions(t.Context(),
		&workflowservice.UpdateActivityOptionsRequest{
			Namespace: "default", Execution: &commonpb.WorkflowExecution{WorkflowId: w.workflowID(id)},
			Activity:        &workflowservice.UpdateActivityOptionsRequest_Id{Id: workflows.ActivityIDPublish},
			ActivityOptions: &activitypb.ActivityOptions{RetryPolicy: &commonpb.RetryPolicy{MaximumAttempts: 3}},
			UpdateMask:      &fieldmaskpb.FieldMask{Paths: []string{"retry_policy.maximum_attempts"}},
		})
	require.NoError(t, err)
	r := w.until(id, func(r row) bool { return r.State != outflow.Pending })
	assert.Equal(t, outflow.Dead, r.State)
	// Not always the third: an attempt that has too little time on a busy machine sends nothing.
	assert.Regexp(t, `^failure \d \(an operator failed the activity or limited its attempts: fix the cause, then`+
		` retry or redirect the message\)$`, r.LastError)
	status, _ := w.closed(id)
	assert.Equal(t, enums.WORKFLOW_EXECUTION_STATUS_FAILED, status)
}

func TestMarkThatFailsOnThePostgresSide(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.work()
	w.scan()
	// A lock on the row makes the local mark run out of time.
	locked, err := w.pool.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = locked.Rollback(t.Context()) }()
	sending, release := make(chan struct{}, 1), make(chan struct{})
	w.broker.set(func(int) (string, error) { sending <- struct{}{}; <-release; return "broker-1", nil })
	id := w.enqueue("{}")
	<-sending
	_, err = locked.Exec(t.Context(), `SELECT FROM outbox.messages WHERE id = $1 FOR UPDATE`, id)
	require.NoError(t, err)
	close(release)
	w.eventually(func() bool {
		described, err := w.client.DescribeWorkflowExecution(t.Context(), w.workflowID(id), "")
		require.NoError(t, err)
		pending := described.GetPendingActivities()
		return len(pending) == 1 && pending[0].GetActivityId() == workflows.ActivityIDMark
	}, func() string { return "no regular mark" })
	require.NoError(t, locked.Rollback(t.Context()))
	r := w.until(id, func(r row) bool { return r.State == outflow.Delivered })
	assert.Equal(t, 1, r.Attempts)
	status, _ := w.closed(id)
	assert.Equal(t, enums.WORKFLOW_EXECUTION_STATUS_COMPLETED, status)
	assert.Equal(t, 1, w.broker.count())
}

func TestExpiredMessageFailsTheRun(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.enqueue("{}")
	_, err := w.pool.Exec(t.Context(), `UPDATE outbox.messages SET expires_at = now() WHERE id = $1`, id)
	require.NoError(t, err)
	w.work()
	w.scan()
	r := w.until(id, func(r row) bool { return r.State != outflow.Pending })
	assert.Equal(t, outflow.Expired, r.State)
	assert.Zero(t, r.Attempts)
	status, _ := w.closed(id)
	assert.Equal(t, enums.WORKFLOW_EXECUTION_STATUS_FAILED, status)
	assert.Zero(t, w.broker.count())
}

// An operator starts the message again while the old broker acknowledges: the
// run of the old generation marks nothing and makes way for the next.
func TestSupersededWhilePublishing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	sending, release := make(chan struct{}, 10), make(chan struct{})
	w.broker.set(func(n int) (string, error) {
		sending <- struct{}{}
		<-release
		return fmt.Sprintf("broker-%d", n), nil
	})
	w.work()
	w.scan()
	id := w.enqueue("{}")
	<-sending
	first, err := w.client.DescribeWorkflowExecution(t.Context(), w.workflowID(id), "")
	require.NoError(t, err)
	_, err = w.pool.Exec(t.Context(), `UPDATE outbox.messages SET generation = 2 WHERE id = $1`, id)
	require.NoError(t, err)
	close(release)

	var outcome outflow.Outcome
	old := first.GetWorkflowExecutionInfo().GetExecution()
	require.NoError(t, w.client.GetWorkflow(t.Context(), old.GetWorkflowId(), old.GetRunId()).Get(t.Context(),
		&outcome))
	assert.Equal(t, 2, outcome.Generation)
	assert.Equal(t, outflow.Pending, outcome.State)
	r := w.until(id, func(r row) bool { return r.State == outflow.Delivered })
	assert.Equal(t, 1, r.Attempts, "those of the new start")
	var brokerID string
	require.NoError(t, w.pool.QueryRow(t.Context(), `SELECT broker_message_id FROM outbox.messages WHERE id = $1`,
		id).Scan(&brokerID))
	assert.Equal(t, "broker-2", brokerID)
	w.history(id, old.GetRunId())
}

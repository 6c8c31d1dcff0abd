package workflows_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/interceptor"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"github.com/outflowhq/outflow/activities"
	"github.com/outflowhq/outflow/internal/timing"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/workflows"
)

// turns plays the activity of a stream: an answer for each of its attempts. The last one repeats.
type turns struct {
	mu     sync.Mutex
	script []turn
	inputs []activities.StreamInput
}

type turn func(ctx context.Context) (activities.StreamResult, error)

func (s *turns) stream(ctx context.Context, in activities.StreamInput) (activities.StreamResult, error) {
	s.mu.Lock()
	next := s.script[min(len(s.inputs), len(s.script)-1)]
	s.inputs = append(s.inputs, in)
	s.mu.Unlock()
	return next(ctx)
}

func (s *turns) seen() []activities.StreamInput {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]activities.StreamInput(nil), s.inputs...)
}

// ends is an activity that ended for a reason, with so many delivered and so many dead.
func ends(why outbox.StreamEnd, delivered, dead int64) turn {
	return func(context.Context) (activities.StreamResult, error) {
		return activities.StreamResult{Ended: why, Progress: outbox.Progress{
			Delivered: delivered, Dead: dead, PerSecond: int(delivered),
		}}, nil
	}
}

func streamEnvironment(t *testing.T, script ...turn) (*testsuite.TestWorkflowEnvironment, *turns, *spy) {
	t.Helper()
	var suite testsuite.WorkflowTestSuite
	env := suite.NewTestWorkflowEnvironment()
	seen, played := &spy{}, &turns{script: script}
	env.SetWorkerOptions(worker.Options{Interceptors: []interceptor.WorkerInterceptor{seen}})
	env.RegisterWorkflowWithOptions(workflows.Stream, workflow.RegisterOptions{Name: workflows.WorkflowStream})
	env.RegisterActivityWithOptions(played.stream, activity.RegisterOptions{Name: workflows.ActivityStream})
	return env, played, seen
}

var backlog = workflows.StreamInput{Outbox: "outbox", Database: uuid.MustParse("6f757466-6c6f-4077-8000-000000000001"),
	Destination: "sqs://orders"}

// A turn that is over, and a worker that stops, are followed by another activity. Any other end is the
// run's.
func TestStreamGoesOn(t *testing.T) {
	for _, why := range []outbox.StreamEnd{outbox.StreamDrained, outbox.StreamFailing} {
		env, played, seen := streamEnvironment(t, ends(outbox.StreamTurn, 5, 1), ends(outbox.StreamStopped, 7, 0),
			ends(why, 11, 2))
		env.ExecuteWorkflow(workflows.WorkflowStream, backlog)
		require.NoError(t, env.GetWorkflowError())
		var result workflows.StreamResult
		require.NoError(t, env.GetWorkflowResult(&result))
		assert.Equal(t, workflows.StreamResult{Ended: why, Progress: outbox.Progress{
			Delivered: 23, Dead: 3, PerSecond: 11}}, result)

		inputs := played.seen()
		require.Len(t, inputs, 3)
		owner := activities.Owner{Outbox: "outbox", Database: backlog.Database}
		assert.Equal(t, activities.StreamInput{Owner: owner, Destination: "sqs://orders", First: true}, inputs[0])
		assert.Equal(t, activities.StreamInput{Owner: owner, Destination: "sqs://orders",
			Before: outbox.Progress{Delivered: 5, Dead: 1, PerSecond: 5}}, inputs[1])
		assert.Equal(t, outbox.Progress{Delivered: 12, Dead: 1, PerSecond: 7}, inputs[2].Before)
		for _, options := range seen.regular {
			assert.Equal(t, "stream", options.ActivityID)
			assert.Equal(t, timing.StreamHeartbeatTimeout, options.HeartbeatTimeout, "a lost worker is noticed")
			assert.Equal(t, timing.StreamAttempt, options.StartToCloseTimeout)
			assert.True(t, options.WaitForCancellation, "its last ends are written")
			assert.Zero(t, options.RetryPolicy.MaximumAttempts, "it goes on until it is drained")
		}
		require.Len(t, seen.regular, 3)
	}
}

// A history that has become long goes on in a new run, which begins with the counts of the old one.
func TestStreamContinuesAsNew(t *testing.T) {
	env, played, _ := streamEnvironment(t, ends(outbox.StreamTurn, 5, 1))
	env.SetContinueAsNewSuggested(true)
	before := backlog
	before.Done = outbox.Progress{Delivered: 100, HandedOver: 3, Expired: 2, Cancelled: 1}
	env.ExecuteWorkflow(workflows.WorkflowStream, before)
	var again *workflow.ContinueAsNewError
	require.ErrorAs(t, env.GetWorkflowError(), &again)
	require.Len(t, played.seen(), 1)
	require.False(t, played.seen()[0].First, "an earlier run has begun the stream")
	assert.Equal(t, before.Done, played.seen()[0].Before)
	assert.Equal(t, workflows.WorkflowStream, again.WorkflowType.Name)
	var next workflows.StreamInput
	require.NoError(t, converter.GetDefaultDataConverter().FromPayloads(again.Input, &next))
	want := backlog
	want.Done = outbox.Progress{Delivered: 105, Dead: 1, HandedOver: 3, Expired: 2, Cancelled: 1, PerSecond: 5}
	assert.Equal(t, want, next)

	env, _, _ = streamEnvironment(t, ends(outbox.StreamDrained, 10, 0))
	env.SetContinueAsNewSuggested(true)
	env.ExecuteWorkflow(workflows.WorkflowStream, next)
	require.NoError(t, env.GetWorkflowError(), "an ended stream has no next run")
	var result workflows.StreamResult
	require.NoError(t, env.GetWorkflowResult(&result))
	assert.EqualValues(t, 115, result.Delivered)
	assert.EqualValues(t, 3, result.HandedOver)
}

// A run that is cancelled ends so: WaitForCancellation, above, has its activity write its last ends.
func TestStreamIsCancelled(t *testing.T) {
	var env *testsuite.TestWorkflowEnvironment
	env, played, _ := streamEnvironment(t, ends(outbox.StreamTurn, 5, 0),
		func(context.Context) (activities.StreamResult, error) {
			env.CancelWorkflow()
			return activities.StreamResult{Ended: outbox.StreamCancelled}, nil
		})
	env.ExecuteWorkflow(workflows.WorkflowStream, backlog)
	require.True(t, temporal.IsCanceledError(env.GetWorkflowError()), "%v", env.GetWorkflowError())
	require.Len(t, played.seen(), 2, "it does not begin again")
}

// An activity that fails is retried. A failure for good is the run's.
func TestStreamFails(t *testing.T) {
	failsAs := func(err error) turn {
		return func(context.Context) (activities.StreamResult, error) { return activities.StreamResult{}, err }
	}
	env, played, _ := streamEnvironment(t, failsAs(errors.New("the database is away")), ends(outbox.StreamDrained, 1, 0))
	env.ExecuteWorkflow(workflows.WorkflowStream, backlog)
	require.NoError(t, env.GetWorkflowError())
	require.Len(t, played.seen(), 2)

	env, played, _ = streamEnvironment(t, ends(outbox.StreamTurn, 5, 0),
		failsAs(temporal.NewNonRetryableApplicationError("no stream for https://a", "Permanent", nil)))
	env.ExecuteWorkflow(workflows.WorkflowStream, backlog)
	require.ErrorContains(t, env.GetWorkflowError(), "no stream for https://a")
	require.Len(t, played.seen(), 2)
}

// Histories, schedules and scripts hold these.
func TestStreamWireContract(t *testing.T) {
	assert.Equal(t, []string{"Stream", "Stream", "stream", "outflow-outbox-streams",
		"outbox/stream/sqs://orders-bda62bb9339b"}, []string{
		workflows.WorkflowStream, workflows.ActivityStream, workflows.ActivityIDStream,
		workflows.StreamTaskQueue(workflows.TaskQueueFor("outbox")), workflows.StreamID("outbox", "sqs://orders")})
	in := backlog
	payload, err := converter.GetDefaultDataConverter().ToPayload(in)
	require.NoError(t, err)
	assert.JSONEq(t, `{"outbox":"outbox","database":"6f757466-6c6f-4077-8000-000000000001","destination":"sqs://orders"}`,
		string(payload.GetData()))
	in.Done = outbox.Progress{Delivered: 1, Dead: 2, Expired: 3, Cancelled: 4, HandedOver: 5, PerSecond: 6}
	payload, err = converter.GetDefaultDataConverter().ToPayload(in)
	require.NoError(t, err)
	assert.JSONEq(t, `{"outbox":"outbox","database":"6f757466-6c6f-4077-8000-000000000001","destination":"sqs://orders",
		"done":{"delivered":1,"dead":2,"expired":3,"cancelled":4,"handedOver":5,"perSecond":6}}`, string(payload.GetData()))
	result, err := json.Marshal(workflows.StreamResult{Ended: outbox.StreamDrained})
	require.NoError(t, err)
	assert.JSONEq(t, `{"delivered":0,"ended":"drained"}`, string(result))
}

// One destination has one stream, whose ID Temporal takes and which shows no secret. Others have others.
func TestStreamOptions(t *testing.T) {
	long := "rabbitmq://exchange/" + strings.Repeat("key.", 300)
	options := workflows.StreamOptions("outbox", "outflow-outbox", long+"a")
	assert.Less(t, len(options.ID), 1000, "the server takes no longer one")
	assert.NotEqual(t, options.ID, workflows.StreamOptions("outbox", "outflow-outbox", long+"b").ID)
	assert.Equal(t, "outflow-outbox-streams", options.TaskQueue)
	assert.NotContains(t, workflows.StreamID("outbox", "https://host/path?token=secret"), "secret")
	tracked := workflows.DeliverOptions("outbox", "outflow-outbox", outbox.Record{})
	conflicts := func(o client.StartWorkflowOptions) []any {
		return []any{o.WorkflowIDConflictPolicy, o.WorkflowIDReusePolicy, o.WorkflowExecutionErrorWhenAlreadyStarted}
	}
	assert.Equal(t, conflicts(tracked), conflicts(options), "a second start meets the first")
}

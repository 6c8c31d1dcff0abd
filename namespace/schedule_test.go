package namespace_test

import (
	"log/slog"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/api/enums/v1"
	"go.temporal.io/sdk/client"
	sdklog "go.temporal.io/sdk/log"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/namespace"
	"github.com/outflowhq/outflow/workflows"
)

// scheduled is the schedule of an outbox that only this test knows.
type scheduled struct {
	*testing.T
	client client.Client
	want   namespace.Schedule
	handle client.ScheduleHandle
}

func newScheduled(t *testing.T) *scheduled {
	t.Helper()
	c, err := client.Dial(client.Options{HostPort: teststack.Temporal(t),
		Logger: sdklog.NewStructuredLogger(slog.New(slog.DiscardHandler))})
	require.NoError(t, err)
	t.Cleanup(c.Close)
	s := &scheduled{T: t, client: c, want: namespace.Schedule{
		Namespace: client.DefaultNamespace, Outbox: "test-" +
			uuid.NewString(), Database: uuid.New(), TaskQueue: "nobody", Every: 24 * time.Hour,
		Input: workflows.MaintainInput{Retention: outflow.DefaultRetention()},
	}}
	s.handle = c.ScheduleClient().GetHandle(t.Context(), workflows.MaintainID(s.want.Outbox))
	t.Cleanup(func() { _ = s.handle.Delete(t.Context()) })
	return s
}

func (s *scheduled) ensure() {
	s.Helper()
	require.NoError(s, namespace.EnsureSchedule(s.Context(), s.client, s.want))
}

func (s *scheduled) described() *client.ScheduleDescription {
	s.Helper()
	d, err := s.handle.Describe(s.Context())
	require.NoError(s, err)
	return d
}

func (s *scheduled) action() *client.ScheduleWorkflowAction {
	s.Helper()
	action, ok := s.described().Schedule.Action.(*client.ScheduleWorkflowAction)
	require.True(s, ok)
	return action
}

func TestScheduleIsCreatedOnce(t *testing.T) {
	t.Parallel()
	s := newScheduled(t)
	s.ensure()
	d := s.described()
	require.Len(t, d.Schedule.Spec.Intervals, 1)
	assert.Equal(t, 24*time.Hour, d.Schedule.Spec.Intervals[0].Every)
	assert.Equal(t, 30*time.Second, d.Schedule.Spec.Jitter)
	assert.Equal(t, enums.SCHEDULE_OVERLAP_POLICY_SKIP, d.Schedule.Policy.Overlap)
	assert.Equal(t, time.Minute, d.Schedule.Policy.CatchupWindow)
	action := s.action()
	assert.Equal(t, workflows.WorkflowMaintain, action.Workflow)
	assert.Equal(t, "nobody", action.TaskQueue)
	assert.Equal(t, s.want.Outbox+"/maintain", action.ID)

	s.ensure()
	assert.Zero(t, s.described().Info.LastUpdateAt.Unix(), "nothing was different, nothing was written")
}

func TestScheduleIsChanged(t *testing.T) {
	t.Parallel()
	s := newScheduled(t)
	s.ensure()
	for name, change := range map[string]func(){
		"interval":   func() { s.want.Every = 12 * time.Hour },
		"task queue": func() { s.want.TaskQueue = "another" },
		"database":   func() { s.want.Database = uuid.New() },
		"settings":   func() { s.want.Input.Retention.History = true },
	} {
		before := s.described().Info.LastUpdateAt
		change()
		s.ensure()
		updated := s.described().Info.LastUpdateAt
		assert.True(t, updated.After(before), name)
		s.ensure()
		assert.Equal(t, updated, s.described().Info.LastUpdateAt, name)
	}
	assert.Equal(t, 12*time.Hour, s.described().Schedule.Spec.Intervals[0].Every)
	assert.Equal(t, "another", s.action().TaskQueue)
}

func TestScheduleStaysPaused(t *testing.T) {
	t.Parallel()
	s := newScheduled(t)
	s.ensure()
	require.NoError(t, s.handle.Pause(t.Context(), client.SchedulePauseOptions{Note: "the disk is being moved"}))
	s.ensure()
	before := s.described().Info.LastUpdateAt
	s.want.Input.Retention.Delivered = outflow.Keep(time.Hour)
	s.ensure()
	d := s.described()
	assert.True(t, d.Schedule.State.Paused)
	assert.Equal(t, "the disk is being moved", d.Schedule.State.Note)
	assert.True(t, d.Info.LastUpdateAt.After(before), "it was changed all the same")
}

func TestSchedulesAtOnce(t *testing.T) {
	t.Parallel()
	s := newScheduled(t)
	for _, history := range []bool{false, true} { // all create, then all change
		s.want.Input.Retention.History = history
		var callers sync.WaitGroup
		for range 4 {
			callers.Go(func() { assert.NoError(t, namespace.EnsureSchedule(t.Context(), s.client, s.want)) })
		}
		callers.Wait()
	}
	updated := s.described().Info.LastUpdateAt
	s.ensure()
	assert.Equal(t, updated, s.described().Info.LastUpdateAt, "it is as asked for")
}

func TestScheduleOfAnUnknownNamespace(t *testing.T) {
	t.Parallel()
	s := newScheduled(t)
	s.want.Namespace = "never-" + s.want.Outbox
	err := namespace.EnsureSchedule(t.Context(), s.client, s.want)
	require.ErrorContains(t, err, "writing schedule "+s.want.Outbox+"/maintain in namespace never-")
}

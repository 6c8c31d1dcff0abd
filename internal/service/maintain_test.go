package service

import (
	"bytes"
	"context"
	"log/slog"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/api/enums/v1"
	historypb "go.temporal.io/api/history/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/activities"
	"github.com/outflowhq/outflow/internal/config"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/publish/webhook"
	"github.com/outflowhq/outflow/workflows"
)

// The schedule as the programs make it, a worker, the real table: an old row
// goes to history, and the run says so.
func TestMaintainOnSchedule(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	run := worker.New(w.client, w.opts.TaskQueue, workerOptions(config.Config{}, make(chan error, 1)))
	workflows.RegisterMaintain(run, activities.NewMaintenance(w.store))
	require.NoError(t, run.Start())
	t.Cleanup(run.Stop)
	for _, ago := range []string{"2 hours", "1 minute"} {
		_, err := w.pool.Exec(t.Context(), `INSERT INTO outbox.messages (id, destination, type, payload, state, finished_at)
			VALUES (gen_random_uuid(), 'sqs://orders', 'a', '{}', 'delivered', now() - $1::text::interval)`, ago)
		require.NoError(t, err)
	}

	p := &parts{client: w.client, store: w.store, log: w.log}
	c := config.Config{Scanner: w.opts, Retention: outflow.Retention{Delivered: outflow.Keep(time.Hour), History: true}}
	stop := p.schedule(c).Keep(t.Context())
	id := workflows.MaintainID(w.opts.Outbox)
	handle := w.client.ScheduleClient().GetHandle(t.Context(), id)
	w.eventually(func() bool { _, err := handle.Describe(t.Context()); return err == nil },
		func() string { return "no schedule" })
	stop()
	t.Cleanup(func() { _ = handle.Delete(context.Background()) })
	require.NoError(t, handle.Trigger(t.Context(), client.ScheduleTriggerOptions{}))

	var started []client.ScheduleActionResult
	w.eventually(func() bool {
		d, err := handle.Describe(t.Context())
		require.NoError(t, err)
		started = d.Info.RecentActions
		return len(started) > 0
	}, func() string { return "no run" })
	execution := started[0].StartWorkflowResult
	var result workflows.MaintainResult
	require.NoError(t, w.client.GetWorkflow(t.Context(), execution.WorkflowID,
		execution.FirstExecutionRunID).Get(t.Context(), &result))
	assert.Equal(t, activities.PurgeResult{Delivered: 1, Moved: 1}, result.Purged)
	assert.Positive(t, result.Health.TableBytes)
	var left, moved int
	require.NoError(t, w.pool.QueryRow(t.Context(),
		`SELECT (SELECT count(*) FROM outbox.messages), (SELECT count(*) FROM outbox.history)`).Scan(&left, &moved))
	assert.Equal(t, []int{1, 1}, []int{left, moved})

	history := &historypb.History{}
	events := w.client.GetWorkflowHistory(t.Context(), execution.WorkflowID, execution.FirstExecutionRunID, false,
		enums.HISTORY_EVENT_FILTER_TYPE_ALL_EVENT)
	for events.HasNext() {
		event, err := events.Next()
		require.NoError(t, err)
		history.Events = append(history.Events, event)
	}
	w.replay(history, "")
}

// Without a schedule, deliveries go on, and the log says what is missing.
func TestNoScheduleStopsNothing(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var logged bytes.Buffer
	p := &parts{client: w.client, store: w.store, log: slog.New(slog.NewTextHandler(&logged, nil))}
	c := config.Config{Scanner: w.opts}
	c.Temporal.Namespace = "never-" + w.opts.Outbox
	p.schedule(c).Keep(t.Context())() // it neither waits for success nor outlives the program
	require.False(t, p.schedule(c).Write(t.Context()))
	assert.Contains(t, logged.String(), "level=WARN")
	assert.Contains(t, logged.String(), "final messages are not purged")
}

// Both programs ensure the schedule by themselves, and end when they are asked to.
func TestProgramsScheduleMaintenance(t *testing.T) {
	t.Parallel()
	for name, program := range map[string]func(context.Context, config.Config, *slog.Logger) error{"worker": Worker,
		"starter": Starter} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			c := config.Config{
				Database: w.pool.Config(), Scanner: w.opts, Brokers: brokersOf(aws.Config{Region: "eu-west-1"},
					webhook.Options{}), Retention: outflow.DefaultRetention(),
				Temporal: client.Options{HostPort: teststack.Temporal(t)},
			}
			ctx, stop := context.WithCancel(t.Context())
			ended := make(chan error, 1)
			go func() { ended <- program(ctx, c, w.log) }()
			handle := w.client.ScheduleClient().GetHandle(t.Context(), workflows.MaintainID(w.opts.Outbox))
			w.eventually(func() bool { _, err := handle.Describe(t.Context()); return err == nil },
				func() string { return "no schedule" })
			require.NoError(t, handle.Delete(t.Context()))
			stop()
			require.NoError(t, <-ended)
		})
	}
}

// A schedule that somebody deletes comes back, and one that is there stays as it is:
// paused, or as another process with other settings wrote it.
func TestADeletedScheduleComesBack(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var logged notes
	p := &parts{client: w.client, store: w.store, log: logged.logger()}
	c := configOf(w)
	keeper := p.schedule(c)
	keeper.Again = 50 * time.Millisecond
	stop := keeper.Keep(t.Context())
	handle := w.client.ScheduleClient().GetHandle(t.Context(), workflows.MaintainID(w.opts.Outbox))
	t.Cleanup(func() { stop(); _ = handle.Delete(context.Background()) })
	there := func() bool { _, err := handle.Describe(t.Context()); return err == nil }
	w.eventually(there, func() string { return "no schedule" })
	require.NoError(t, handle.Delete(t.Context()))
	w.eventually(there, logged.String)
	assert.Contains(t, logged.String(), "the schedule is gone: writing it again")

	other := c
	other.Retention.History = true
	require.True(t, p.schedule(other).Write(t.Context()))
	require.NoError(t, handle.Pause(t.Context(), client.SchedulePauseOptions{Note: "maintenance"}))
	before, err := handle.Describe(t.Context())
	require.NoError(t, err)
	for range 5 {
		require.True(t, p.schedule(c).WriteDeleted(t.Context()))
	}
	after, err := handle.Describe(t.Context())
	require.NoError(t, err)
	assert.Equal(t, before.Info.LastUpdateAt, after.Info.LastUpdateAt)
	assert.True(t, after.Schedule.State.Paused)
}

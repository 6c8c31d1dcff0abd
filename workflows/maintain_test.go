package workflows_test

import (
	"context"
	"encoding/json"
	"errors"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/converter"
	"go.temporal.io/sdk/interceptor"
	"go.temporal.io/sdk/testsuite"
	"go.temporal.io/sdk/worker"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/activities"
	"github.com/outflowhq/outflow/internal/timing"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/workflows"
)

// oldRows is a table with a few old rows; its statements fail as a test says.
type oldRows struct {
	mu     sync.Mutex
	rows   map[outflow.State]int
	health outbox.TableHealth
	before func(statement string) error
}

// DatabaseID is zero, as that of an input which names none.
func (*oldRows) DatabaseID(context.Context) (uuid.UUID, error) { return uuid.Nil, nil }

var _ activities.Maintenance = (*oldRows)(nil)

func (o *oldRows) begin(statement string) error {
	if o.before == nil {
		return nil
	}
	return o.before(statement)
}

func (o *oldRows) PurgeMessages(_ context.Context, p outbox.Purge) (outbox.Purged, error) {
	if err := o.begin("purge"); err != nil {
		return outbox.Purged{}, err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	n := min(o.rows[p.State], p.Limit)
	o.rows[p.State] -= n
	return outbox.Purged{Rows: n}, nil
}

func (o *oldRows) PurgeAudit(context.Context, time.Duration, int) (int, error) { return 0, nil }
func (o *oldRows) PurgeKeys(context.Context, time.Duration, int) (int, error)  { return 0, nil }

func (o *oldRows) PurgeDestinations(context.Context, time.Duration, int) (int, error) { return 0, nil }

func (o *oldRows) TableHealth(context.Context, time.Duration) (outbox.TableHealth, error) {
	return o.health, o.begin("health")
}

func maintain(t *testing.T, table *oldRows, in workflows.MaintainInput) (*testsuite.TestWorkflowEnvironment, *spy) {
	t.Helper()
	var suite testsuite.WorkflowTestSuite
	env := suite.NewTestWorkflowEnvironment()
	seen := &spy{}
	env.SetWorkerOptions(worker.Options{Interceptors: []interceptor.WorkerInterceptor{seen}})
	env.SetTestTimeout(20 * time.Second)
	workflows.RegisterMaintain(env, activities.NewMaintenance(table))
	env.ExecuteWorkflow(workflows.WorkflowMaintain, in)
	require.True(t, env.IsWorkflowCompleted())
	return env, seen
}

var aDay = workflows.MaintainInput{Retention: outflow.Retention{Delivered: outflow.Keep(24 * time.Hour), History: true}}

func TestMaintain(t *testing.T) {
	table := &oldRows{rows: map[outflow.State]int{outflow.Delivered: 30, outflow.Dead: 4}, health: outbox.TableHealth{
		LiveRows: 5, DeadRows: 6, Held: []outbox.HeldSnapshot{{Holder: "session", PID: 42, Seconds: 901}}}}
	env, seen := maintain(t, table, aDay)
	require.NoError(t, env.GetWorkflowError())
	var result workflows.MaintainResult
	require.NoError(t, env.GetWorkflowResult(&result))
	assert.Equal(t, activities.PurgeResult{Delivered: 30, Moved: 30}, result.Purged)
	assert.Equal(t, table.health, result.Health)
	require.Len(t, result.Warnings, 1)
	assert.Contains(t, result.Warnings[0], "pg_terminate_backend(42)")
	assert.Equal(t, map[outflow.State]int{outflow.Delivered: 0, outflow.Dead: 4}, table.rows,
		"what is kept forever stays")

	assert.Equal(t, []string{"TableHealth", "Purge"}, seen.names)
	health, purge := seen.regular[0], seen.regular[1]
	assert.Equal(t, "health", health.ActivityID)
	assert.Equal(t, "purge", purge.ActivityID)
	assert.Equal(t, timing.PurgeHeartbeatTimeout, purge.HeartbeatTimeout)
	assert.Greater(t, purge.StartToCloseTimeout, timing.Purge)
	assert.Greater(t, purge.ScheduleToCloseTimeout, purge.StartToCloseTimeout)
	assert.Positive(t, health.ScheduleToCloseTimeout, "nobody waits forever")
}

func TestMaintainIsRetried(t *testing.T) {
	table := &oldRows{rows: map[outflow.State]int{outflow.Delivered: 30}, before: failsFirst("purge", 2)}
	env, _ := maintain(t, table, aDay)
	require.NoError(t, env.GetWorkflowError())
	var result workflows.MaintainResult
	require.NoError(t, env.GetWorkflowResult(&result))
	assert.Equal(t, 30, result.Purged.Delivered)
	assert.Empty(t, result.Warnings)
}

// A table that can't be read is purged all the same.
func TestMaintainWithoutHealth(t *testing.T) {
	table := &oldRows{rows: map[outflow.State]int{outflow.Delivered: 30}, before: func(statement string) error {
		if statement == "health" {
			return errors.New("permission denied")
		}
		return nil
	}}
	env, _ := maintain(t, table, aDay)
	require.NoError(t, env.GetWorkflowError())
	var result workflows.MaintainResult
	require.NoError(t, env.GetWorkflowResult(&result))
	assert.Equal(t, 30, result.Purged.Delivered)
	require.Len(t, result.Warnings, 1)
	assert.Contains(t, result.Warnings[0], "reading the table's health: ")
}

// A purge that never succeeds ends the run as failed, within its bound.
func TestMaintainFails(t *testing.T) {
	table := &oldRows{before: func(statement string) error {
		if statement == "purge" {
			return errors.New("permission denied for table messages")
		}
		return nil
	}}
	env, _ := maintain(t, table, aDay)
	require.ErrorContains(t, env.GetWorkflowError(), "permission denied for table messages")
}

// The schedule holds these.
func TestMaintainWireContract(t *testing.T) {
	assert.Equal(t, []string{"Maintain", "TableHealth", "Purge", "health", "purge", "outbox/maintain"}, []string{
		workflows.WorkflowMaintain, workflows.ActivityTableHealth, workflows.ActivityPurge, workflows.ActivityIDHealth,
		workflows.ActivityIDPurge, workflows.MaintainID("outbox"),
	})
	payload, err := converter.GetDefaultDataConverter().ToPayload(workflows.MaintainInput{
		Outbox: "outbox", Database: uuid.MustParse("6f757466-6c6f-4077-8000-000000000001"),
		Retention: outflow.DefaultRetention()})
	require.NoError(t, err)
	assert.JSONEq(t, `{"outbox":"outbox","database":"6f757466-6c6f-4077-8000-000000000001",
		"retention":{"delivered":"7d","dead":"forever","expired":"30d","cancelled":"30d","history":false}}`, string(payload.GetData()))
	result, err := json.Marshal(workflows.MaintainResult{})
	require.NoError(t, err)
	assert.JSONEq(t, `{"purged":{"delivered":0,"dead":0,"expired":0,"cancelled":0,"moved":0,"audit":0,"destinations":0,"more":false},
		"health":{"liveRows":0,"deadRows":0,"tableBytes":0,"indexBytes":0,"oldestSnapshotSeconds":0}}`, string(result))
}

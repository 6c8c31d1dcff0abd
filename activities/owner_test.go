package activities

import (
	"bytes"
	"errors"
	"log/slog"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	sdklog "go.temporal.io/sdk/log"
	"go.temporal.io/sdk/temporal"
	"go.temporal.io/sdk/testsuite"

	"github.com/outflowhq/outflow"
)

// Every activity refuses what is for another outbox or another database, before it
// touches the table: a worker of that outbox gets it later.
func TestTasksOfAnotherOutboxAreRefused(t *testing.T) {
	here, ref := uuid.New(), outflow.Ref{ID: uuid.New(), Generation: 1}
	for name, owner := range map[string]Owner{
		"another outbox":   {Outbox: "billing", Database: here},
		"another database": {Outbox: "shop", Database: uuid.New()},
		"no database":      {Outbox: "shop"},
	} {
		f, s := &fake{database: here, record: outflow.Record{Message: outflow.Message{ID: ref.ID}}}, newShelf()
		s.rows[outflow.Delivered], s.database = 5, here
		a := New(f, f, WithCallbacks(&sender{}), ForOutbox("shop"))
		m := NewMaintenance(s, MaintainOutbox("shop"))
		mark := MarkInput{Owner: owner, MessageID: ref.ID, Generation: 1}
		callback := CallbackInput{Owner: owner, MessageID: ref.ID, Generation: 1}
		for activity, call := range map[string]struct{ function, in any }{
			"Publish":       {a.Publish, PublishInput{Owner: owner, MessageID: ref.ID, Generation: 1}},
			"MarkDelivered": {a.MarkDelivered, mark}, "MarkDead": {a.MarkDead, mark},
			"MarkExpired": {a.MarkExpired, mark}, "MarkCancelled": {a.MarkCancelled, mark},
			"Callback": {a.Callback, callback}, "MarkCallbackFailed": {a.MarkCallbackFailed, callback},
			"TableHealth": {m.TableHealth, HealthInput{Owner: owner}}, "Purge": {m.Purge, PurgeInput{Owner: owner, Retention: keepAll}},
		} {
			var suite testsuite.WorkflowTestSuite
			env := suite.NewTestActivityEnvironment()
			env.RegisterActivity(call.function)
			_, err := env.ExecuteActivity(call.function, call.in)
			require.ErrorContains(t, err, "outbox", "%s: %s", name, activity)
			var failed *temporal.ApplicationError
			require.ErrorAs(t, err, &failed)
			assert.False(t, failed.NonRetryable(), "%s: %s", name, activity)
			assert.LessOrEqual(t, failed.NextRetryDelay(), 5*time.Second, "one of the others is the right one")
			if !strings.HasPrefix(activity, "T") && activity != "Purge" {
				assert.Equal(t, ErrTypeAnotherOutbox, failed.Type(), "%s: %s", name, activity)
			}
		}
		assert.Empty(t, f.loads)
		assert.Empty(t, f.renewals)
		assert.Empty(t, f.endings)
		assert.Empty(t, f.begun)
		assert.Empty(t, f.notes)
		assert.Empty(t, s.order)
	}
}

// The log says it, though not for each task; and where the database can't be asked,
// the task is tried again.
func TestRefusedTasksAreWarnedOf(t *testing.T) {
	f := &fake{database: uuid.New()}
	a := New(f, f, ForOutbox("shop"))
	var logged bytes.Buffer
	var suite testsuite.WorkflowTestSuite
	suite.SetLogger(sdklog.NewStructuredLogger(slog.New(slog.NewTextHandler(&logged, nil))))
	env := suite.NewTestActivityEnvironment()
	env.RegisterActivity(a.Publish)
	in := PublishInput{Owner: Owner{Outbox: "billing", Database: f.database}, MessageID: uuid.New(), Generation: 1}
	for range 3 {
		_, err := env.ExecuteActivity(a.Publish, in)
		require.ErrorContains(t, err, `this task is for outbox "billing", and this worker has outbox "shop"`)
	}
	assert.Equal(t, 1, strings.Count(logged.String(), "refusing a task of another outbox"), logged.String())
	assert.Contains(t, logged.String(), "level=WARN")
	assert.Contains(t, logged.String(), "OUTFLOW_TASK_QUEUE")

	in.Outbox, f.databaseErr = "shop", errors.New("connection lost")
	_, err := env.ExecuteActivity(a.Publish, in)
	var failed *temporal.ApplicationError
	require.ErrorAs(t, err, &failed)
	assert.False(t, failed.NonRetryable())
	assert.Equal(t, ErrTypeNotAttempted, failed.Type())
}

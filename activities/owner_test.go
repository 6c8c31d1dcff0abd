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
	"github.com/outflowhq/outflow/outbox"
)

// Every activity refuses what is for another outbox or another database, before it
// touches the table: a worker of that outbox gets it later.
func TestTasksOfAnotherOutboxAreRefused(t *testing.T) {
	here, ref := uuid.New(), outbox.Ref{ID: uuid.New(), Generation: 1}
	for name, owner := range map[string]Owner{
		"another outbox":   {Outbox: "billing", Database: here},
		"another database": {Outbox: "shop", Database: uuid.New()},
		"no database":      {Outbox: "shop"},
	} {
		f, s := &fake{database: here, record: outbox.Record{Message: outflow.Message{ID: ref.ID}}}, newShelf()
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
			"TableHealth": {m.TableHealth, HealthInput{Owner: owner}}, "Purge": {m.Purge,
				PurgeInput{Owner: owner, Retention: keepAll}},
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

// A refused durable attempt passes its input on to the next one: no process crashed, the fast
// path's failure is still to be noted, and its wait to be kept.
func TestARefusedAttemptPassesOnItsInput(t *testing.T) {
	for name, c := range map[string]struct {
		left *attemptNote
		want attemptNote
	}{
		"the first": {nil, attemptNote{Attempt: 1, LastError: "503", Uncounted: 1, PassedOn: true}},
		"a later one": {&attemptNote{Attempt: 6, LastError: "502", Uncounted: -1},
			attemptNote{Attempt: 1, LastError: "502", Uncounted: -1}},
		"one of a few": {&attemptNote{Attempt: 2, LastError: "503", Uncounted: 1, PassedOn: true},
			attemptNote{Attempt: 1, LastError: "503", Uncounted: 1, PassedOn: true}},
		"after silence": {&attemptNote{}, attemptNote{Attempt: 1}},
	} {
		t.Run(name, func(t *testing.T) {
			f, a, ref := newFake()
			ForOutbox("shop")(a)
			var notes []attemptNote
			var suite testsuite.WorkflowTestSuite
			env := suite.NewTestActivityEnvironment()
			keepNotes(t, env, &notes)
			if c.left != nil {
				env.SetHeartbeatDetails(*c.left)
			}
			env.RegisterActivity(a)
			_, err := env.ExecuteActivity(a.Publish, PublishInput{
				Owner: Owner{Outbox: "billing"}, MessageID: ref.ID, Generation: 1,
				LastError: "503", Attempts: 1, Wait: time.Hour,
			})
			require.Error(t, err)
			assert.Equal(t, []attemptNote{c.want}, notes)
			assert.Zero(t, f.sent)
		})
	}
	t.Run("the next one keeps the wait", func(t *testing.T) {
		f, a, ref := newFake()
		var suite testsuite.WorkflowTestSuite
		env := suite.NewTestActivityEnvironment()
		env.SetHeartbeatDetails(attemptNote{Attempt: 4, LastError: "503", Uncounted: 1, PassedOn: true})
		env.RegisterActivity(a)
		_, err := env.ExecuteActivity(a.Publish,
			PublishInput{MessageID: ref.ID, Generation: 1, LastError: "503", Attempts: 1, Wait: time.Hour})
		require.ErrorContains(t, err, "nothing is sent for 1h")
		assert.Zero(t, f.sent)
		require.Len(t, f.renewals, 1)
		assert.Equal(t, 1, f.renewals[0].Attempts)
		assert.True(t, f.renewals[0].Waits)
	})
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

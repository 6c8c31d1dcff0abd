package workflows_test

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/temporal"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/activities"
	"github.com/outflowhq/outflow/internal/golden"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/workflows"
)

// TestWhyMessagesEndDead pins the text on the row of each message that ends dead
// whatever its destination.
func TestWhyMessagesEndDead(t *testing.T) {
	var all []golden.Death
	add := func(cause string, prepare func(r *run)) {
		t.Helper()
		r := newRun(t, fails(errReset))
		prepare(r)
		_, err := r.execute()
		outcome := failedAs(t, err, workflows.ErrTypeDead)
		require.Equal(t, outflow.Dead, r.table.row.State, cause)
		require.Equal(t, outcome.LastError, r.table.row.LastError, cause)
		all = append(all, golden.Death{Cause: cause, LastError: r.table.row.LastError})
	}
	// byHand has an operator end the activity publish.
	byHand := func(result activities.PublishResult, err error) func(r *run) {
		return func(r *run) {
			r.env.OnActivity(workflows.ActivityPublish, anything, anything).Return(activities.PublishResult{},
				errReset).Once() // the fast path
			r.env.OnActivity(workflows.ActivityPublish, anything, anything).Return(result, err)
		}
	}

	add("its process crashed, again and again", func(r *run) { r.table.row.Claims = outbox.MaxClaims + 1 })
	add("a publisher of your own panics", func(r *run) {
		r.broker.script = []answer{func(context.Context, outflow.Message) (string,
			error) {
			panic("can't read " + payload)
		}}
	})
	add("its attempts were limited: temporal activity update-options --retry-maximum-attempts",
		func(r *run) { r.spy.attempts = 3 })
	add("temporal activity fail --reason 'not today'",
		byHand(activities.PublishResult{}, temporal.NewNonRetryableApplicationError("not today", "", nil)))
	add("temporal activity complete", byHand(activities.PublishResult{}, nil))
	golden.Deaths(t, "workflows", all, all)
}

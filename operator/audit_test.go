package operator

import (
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/teststack"
)

// The audit is kept for a year: no act writes the query of an address into it.
func TestTheAuditKeepsNoQuery(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	o := newActs(pool)
	const old, other = "https://shop.example/in?token=hunter2", "https://shop.example/other?token=hunter2"
	id, err := o.Send(t.Context(), message(old), ada)
	require.NoError(t, err)
	status, err := o.Message(t.Context(), id)
	require.NoError(t, err)
	require.NoError(t, o.noteSignal(t.Context(), status, ada))
	_, err = o.Redirect(t.Context(), []uuid.UUID{id}, other, ada)
	require.NoError(t, err)
	dead, delivered := finished(t, pool, message(old), outflow.Dead), finished(t, pool, message(old), outflow.Delivered)
	_, err = o.RetryTo(t.Context(), []uuid.UUID{dead}, other, ada)
	require.NoError(t, err)
	_, _, err = o.Resend(t.Context(), delivered, ada)
	require.NoError(t, err)
	setRule := func(r CallbackRule) {
		_, err := o.SetCallbackRule(t.Context(), r, ada)
		require.NoError(t, err)
	}
	setRule(CallbackRule{Destination: old, Callback: old})
	setRule(CallbackRule{Destination: old, Callback: other})
	found, err := o.UnsetCallbackRule(t.Context(), old, "", ada)
	require.NoError(t, err)
	require.True(t, found)

	rows := values[string](t, pool, `SELECT concat_ws(' ', act, destination, detail - 'new_id' - 'resend_of') FROM outbox.audit ORDER BY id`)
	assert.ElementsMatch(t, []string{
		"send https://shop.example/in {}",
		"try-now https://shop.example/in {}",
		`redirect https://shop.example/other {"from": "https://shop.example/in"}`,
		`redirect https://shop.example/other {"was": "dead", "from": "https://shop.example/in"}`,
		"resend https://shop.example/in {}",
		"send https://shop.example/in {}",
		`set-callback-rule https://shop.example/in {"callback": "https://shop.example/in"}`,
		`set-callback-rule https://shop.example/in {"was": "https://shop.example/in", "callback": "https://shop.example/other"}`,
		`unset-callback-rule https://shop.example/in {"was": "https://shop.example/other"}`,
	}, rows)
}

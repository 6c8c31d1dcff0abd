package operator

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/teststack"
)

// A message that redirect and reschedule refuse stays as it is: nothing is changed, noted or
// signalled.
func TestMovesThatAreRefused(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	runs := &noTemporal{}
	o := New(pool, runs, "")
	at := time.Date(2100, 1, 31, 8, 0, 0, 0, time.UTC)
	redirect := func(to string) func(uuid.UUID) ([]Answer, error) {
		return func(id uuid.UUID) ([]Answer, error) { return o.Redirect(t.Context(), []uuid.UUID{id}, to, ada) }
	}
	reschedule := func(at time.Time, in time.Duration) func(uuid.UUID) ([]Answer, error) {
		return func(id uuid.UUID) ([]Answer, error) {
			return o.Reschedule(t.Context(), []uuid.UUID{id}, at, in, ada)
		}
	}
	ended := func(state outflow.State) string { return `state = '` + string(state) + `', finished_at = now()` }
	const retrying = `claims = 1, retrying = true, available_at = now() + interval '5 minutes'`
	for name, c := range map[string]struct {
		row  string // what its row is set to
		act  func(uuid.UUID) ([]Answer, error)
		text string
	}{
		"redirect of a delivered one": {ended(outflow.Delivered), redirect("sqs://other"),
			`delivered: "outflow resend" sends a copy`},
		"redirect to where it goes":       {`claims = 0`, redirect("sqs://orders"), "it goes there already"},
		"redirect to where it is retried": {retrying, redirect("sqs://orders"), "it goes there already"},
		"redirect beside a cancel": {retrying + `, cancel_requested = true`, redirect("sqs://other"),
			"pending: its cancel was requested"},
		"reschedule of a delivered one": {ended(outflow.Delivered), reschedule(at, 0),
			`delivered: "outflow resend" sends a copy`},
		"reschedule of a dead one": {ended(outflow.Dead), reschedule(at, 0),
			`dead: "outflow retry" sends it`},
		"reschedule of an expired one": {ended(outflow.Expired), reschedule(at, 0),
			`expired: "outflow retry" sends it`},
		"reschedule of a cancelled one": {ended(outflow.Cancelled), reschedule(at, 0),
			`cancelled: "outflow retry" sends it`},
		"reschedule beside a cancel": {`cancel_requested = true`, reschedule(at, 0),
			"pending: its cancel was requested"},
		"reschedule to its expiry": {`expires_at = '2100-01-31T08:00:00Z'`, reschedule(at, 0),
			"it expires at 2100-01-31T08:00:00Z, and would be due after that"},
		"reschedule of a retrying one past that": {retrying + `, expires_at = '2100-01-31T08:00:00Z'`,
			reschedule(time.Time{}, 200*365*24*time.Hour), "it expires at 2100-01-31T08:00:00Z, and would be due after that"},
	} {
		t.Run(name, func(t *testing.T) {
			id, err := o.Send(t.Context(), outflow.Message{Destination: "sqs://orders", Type: "order-placed",
				Payload: []byte("{}")}, ada)
			require.NoError(t, err)
			_, err = pool.Exec(t.Context(), `UPDATE outbox.messages SET `+c.row+` WHERE id = $1`, id)
			require.NoError(t, err)
			row := func() (text string) {
				require.NoError(t, pool.QueryRow(t.Context(), `SELECT m::text FROM outbox.messages AS m WHERE id = $1`,
					id).Scan(&text))
				return text
			}
			runs.asked = 0
			before := row()
			s, err := o.Message(t.Context(), id)
			require.NoError(t, err)
			answers, err := c.act(id)
			require.NoError(t, err)
			assert.Equal(t, []Answer{{ID: id, Verdict: Refused, Text: c.text, State: s.State, Generation: 1}}, answers)
			assert.Equal(t, before, row())
			audit, err := o.audit(t.Context(), id)
			require.NoError(t, err)
			assert.Len(t, audit, 1, "that it was sent")
			assert.Zero(t, runs.asked)
		})
	}
	for name, act := range map[string]func(uuid.UUID) ([]Answer, error){"redirect": redirect("sqs://other"),
		"reschedule": reschedule(at, 0)} {
		t.Run(name+" of none", func(t *testing.T) {
			id := uuid.New()
			answers, err := act(id)
			require.NoError(t, err)
			assert.Equal(t, []Answer{{ID: id, Verdict: Refused, Text: "not found"}}, answers)
		})
	}
}

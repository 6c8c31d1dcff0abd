package main

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/operator"
)

// A copy of a delivered message goes out again, under an ID of its own; of any
// other there is none.
func TestResend(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	settings := map[string]string{"DATABASE_URL": pool.Config().ConnString(), "OUTFLOW_WHO": "ada@host"}
	sent := func(state outflow.State) uuid.UUID {
		out, errs, err := with(t, settings, `{"order":7}`,
			"send -destination sqs://orders.fifo -type order-placed -header tenant=a -ordering-key customer-7 -expires-in 1h")
		require.NoError(t, err, errs)
		id := uuid.MustParse(strings.TrimSpace(out))
		if state.Final() {
			_, err = pool.Exec(t.Context(),
				`UPDATE outbox.messages SET state = $2, finished_at = now(), attempts = 2, head = false,
				 follower = false WHERE id = $1`, id, state)
			require.NoError(t, err)
		}
		return id
	}
	resend := func(ids ...uuid.UUID) (answers []operator.Answer, err error) {
		line := "resend -json -why lost"
		for _, id := range ids {
			line += " " + id.String()
		}
		out, _, err := with(t, settings, "", line)
		for lines := json.NewDecoder(strings.NewReader(out)); lines.More(); {
			var a operator.Answer
			require.NoError(t, lines.Decode(&a))
			answers = append(answers, a)
		}
		return answers, err
	}
	one := func(sql string, args ...any) (text string) {
		require.NoError(t, pool.QueryRow(t.Context(), sql, args...).Scan(&text))
		return text
	}
	const written = `SELECT (SELECT count(*) FROM outbox.messages) || ' messages, ' || (SELECT count(*) FROM outbox.audit) || ' audit rows'`
	const audited = `SELECT string_agg(act || ' ' || generation || ' ' || who || ': ' || why || ' ' || detail, E'\n' ORDER BY id) FROM outbox.audit WHERE message_id = $1`

	delivered := sent(outflow.Delivered)
	answers, err := resend(delivered)
	require.NoError(t, err)
	require.Len(t, answers, 1)
	require.NotNil(t, answers[0].NewID)
	copied := *answers[0].NewID
	assert.NotEqual(t, delivered, copied)
	assert.Equal(t, []operator.Answer{{ID: delivered, Verdict: operator.Done, Text: "sent again as " + copied.String(),
		State: outflow.Delivered, Generation: 1, NewID: &copied}}, answers)

	const carried = `SELECT ROW(destination, type, payload, content_type, headers, ordering_key)::text FROM outbox.messages WHERE id = $1`
	assert.Equal(t, one(carried, delivered), one(carried, copied))
	assert.Equal(t, "pending, generation 1, 0 attempts, due: true, expires: never", one(`
		SELECT state || ', generation ' || generation || ', ' || attempts || ' attempts, due: ' || (available_at <= now()) || ', expires: ' || coalesce(expires_at::text, 'never')
		  FROM outbox.messages WHERE id = $1`, copied))
	assert.Equal(t, "delivered", one(`SELECT state FROM outbox.messages WHERE id = $1`, delivered))
	assert.Equal(t, "send 1 ada@host:  {}\nresend 1 ada@host: lost {\"new_id\": \""+copied.String()+"\"}",
		one(audited, delivered))
	assert.Equal(t, "send 1 ada@host: lost {\"resend_of\": \""+delivered.String()+"\"}", one(audited, copied))

	pending, dead, nobody := sent(outflow.Pending), sent(outflow.Dead), uuid.New()
	refusals := []operator.Answer{
		{ID: pending, Verdict: operator.Refused, Text: "pending: it was not delivered yet", State: outflow.Pending,
			Generation: 1},
		{ID: dead, Verdict: operator.Refused, Text: `dead: "outflow retry" sends it`, State: outflow.Dead,
			Generation: 1},
		{ID: nobody, Verdict: operator.Refused, Text: "not found"},
	}
	before := one(written)
	for _, want := range refusals {
		answers, err := resend(want.ID)
		assert.Equal(t, 3, code(err), want.Text)
		assert.Equal(t, []operator.Answer{want}, answers)
	}
	assert.Equal(t, before, one(written), "nothing was copied or noted")

	answers, err = resend(pending, delivered, nobody, dead)
	assert.Equal(t, 3, code(err))
	assert.EqualError(t, err, "3 of 4 messages: not done")
	require.Len(t, answers, 4)
	assert.Equal(t, refusals[0], answers[0])
	assert.Equal(t, operator.Done, answers[1].Verdict, "it goes on behind one that it can't copy")
	assert.NotEqual(t, copied, *answers[1].NewID)
	assert.Equal(t, refusals[2], answers[2])
	assert.Equal(t, refusals[1], answers[3])
}

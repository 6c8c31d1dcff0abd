package operator

import (
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/teststack"
)

func TestResendAnswers(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	o := New(pool, nil, "")
	delivered, pending := finished(t, pool, message("sqs://orders"), outflow.Delivered), enqueue(t, pool,
		message("sqs://orders"))[0]
	dead, expired := finished(t, pool, message("sqs://orders"), outflow.Dead), finished(t, pool,
		message("sqs://orders"), outflow.Expired)
	cancelled, nobody := finished(t, pool, message("sqs://orders"), outflow.Cancelled), uuid.New()
	want := []Answer{
		{ID: delivered, Verdict: Done, State: outflow.Delivered, Generation: 1},
		{ID: pending, Verdict: Refused, Text: "pending: it was not delivered yet", State: outflow.Pending,
			Generation: 1},
		{ID: dead, Verdict: Refused, Text: `dead: "outflow retry" sends it`, State: outflow.Dead, Generation: 1},
		{ID: expired, Verdict: Refused, Text: `expired: "outflow retry" sends it`, State: outflow.Expired,
			Generation: 1},
		{ID: cancelled, Verdict: Refused, Text: `cancelled: "outflow retry" sends it`, State: outflow.Cancelled,
			Generation: 1},
		{ID: nobody, Verdict: Refused, Text: "not found"},
	}
	ids := []uuid.UUID{delivered, pending, dead, expired, cancelled, nobody}
	// withCopy completes the answer for the delivered message with the copy's ID, which is new each
	// time.
	withCopy := func(answers []Answer) []Answer {
		require.NotNil(t, answers[0].NewID)
		want[0].NewID, want[0].Text = answers[0].NewID, "sent again as "+answers[0].NewID.String()
		return want
	}
	answers, err := o.Resend(t.Context(), ids, ada)
	require.NoError(t, err)
	assert.Equal(t, withCopy(answers), answers)

	unlucky := message("sqs://orders")
	unlucky.Type = "unlucky"
	refused := finished(t, pool, unlucky, outflow.Delivered)
	execute(t, pool, `CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'the server closed the connection'; END $$;
		CREATE TRIGGER refuse BEFORE INSERT ON outbox.messages FOR EACH ROW WHEN (NEW.type = 'unlucky') EXECUTE FUNCTION public.refuse()`)
	answers, err = o.Resend(t.Context(), append(ids[:2:2], refused, dead), ada)
	require.ErrorContains(t, err, "the server closed the connection")
	assert.Equal(t, withCopy(answers)[:2], answers, "those that it came to before the error")
}

package operator

import (
	"context"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/teststack"
)

// leasedUntil2100 is a time that answers can quote.
const leasedUntil2100 = `available_at = '2100-01-31T08:01:00Z'`

func TestRetryAnswers(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	for name, c := range map[string]struct {
		row     string // what its row is set to; empty: there is none
		verdict Verdict
		text    string
		asked   int
	}{
		"none": {"", Refused, "not found", 0},
		"dead": {`state = 'dead', finished_at = now()`, Done, "was dead, pending again", 0},
		"delivered": {`state = 'delivered', finished_at = now()`, Refused, `delivered: "outflow resend" sends a copy`,
			0},
		"delayed": {`due_at = '2100-01-31T08:00:00Z', ` + leasedUntil2100, Refused,
			`pending, due at 2100-01-31T08:00:00Z: "outflow reschedule" changes that`, 0},
		"leased": {`started = true, claims = 1, ` + leasedUntil2100, Refused, "pending: it is being delivered", 0},
		"waiting": {`started = true, last_error = 'no', ` + leasedUntil2100, Refused,
			`pending: it waits for its destination until 2100-01-31T08:01:00Z; "outflow show" says why`, 0},
		"due":      {`claims = 0`, Refused, "pending: it is due and waits for a scanner", 0},
		"retrying": {retryingRow, Failed, "retrying: its run could not be signalled: connection refused", 1},
		// Retrying a message whose cancel is requested would only have it cancelled sooner.
		"being cancelled": {retryingRow + `, cancel_requested = true`, Refused,
			"pending: its cancel was requested; retry it once it is cancelled", 0},
	} {
		t.Run(name, func(t *testing.T) {
			runs, id := &noTemporal{}, uuid.New()
			if c.row != "" {
				id = enqueue(t, pool, message("sqs://orders"))[0]
				execute(t, pool, `UPDATE outbox.messages SET `+c.row+` WHERE id = $1`, id)
			}
			answers, err := New(pool, runs, "").Retry(t.Context(), []uuid.UUID{id}, ada)
			require.NoError(t, err)
			require.Len(t, answers, 1)
			assert.Equal(t, c.verdict, answers[0].Verdict)
			assert.Equal(t, c.text, answers[0].Text)
			assert.Equal(t, c.asked, runs.asked)
			assert.Equal(t, c.verdict == Done, len(audited(t, pool, id)) == 1, "no run was signalled")
		})
	}
}

const retryingRow = `started = true, claims = 1, retrying = true, available_at = now() + interval '5 minutes'`

// willing is a Temporal whose runs accept signals.
type willing struct{ noTemporal }

func (w *willing) TryNow(context.Context, string) error { w.asked++; return nil }

// A signal is noted once Temporal has accepted it; a signal that can't be noted was sent all the
// same.
func TestRetryNotesSignals(t *testing.T) {
	t.Parallel()
	pool, runs := teststack.New(t), &willing{}
	id := enqueue(t, pool, message("sqs://orders"))[0]
	execute(t, pool, `UPDATE outbox.messages SET `+retryingRow+` WHERE id = $1`, id)
	retry := func(pool *pgxpool.Pool) ([]Answer, error) {
		return New(pool, runs, "").Retry(t.Context(), []uuid.UUID{id}, ada)
	}
	answers, err := retry(pool)
	require.NoError(t, err)
	require.Len(t, answers, 1)
	assert.Equal(t, Done, answers[0].Verdict)
	assert.Equal(t, "retrying: its run was signalled", answers[0].Text)
	assert.Equal(t, []string{"try-now 1 ada@host: the queue is back {}"}, audited(t, pool, id))
	assert.Equal(t, outflow.Pending, answers[0].State)

	execute(t, pool, `CREATE FUNCTION public.refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no connection'; END $$;
		CREATE TRIGGER refuse BEFORE INSERT ON outbox.audit FOR EACH ROW EXECUTE FUNCTION public.refuse()`)
	_, err = retry(pool)
	require.ErrorContains(t, err, "no connection")
	assert.Equal(t, 2, runs.asked)
}

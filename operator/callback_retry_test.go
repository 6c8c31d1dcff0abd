package operator

import (
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/teststack"
)

func TestRetryCallbacksAnswers(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	o := New(pool, nil, "")
	send := func(callback, change string) uuid.UUID {
		id, err := o.Send(t.Context(), outflow.Message{Destination: "sqs://orders", Type: "a", Payload: []byte("{}"),
			Callback: callback}, ada)
		require.NoError(t, err)
		if change != "" {
			_, err := pool.Exec(t.Context(),
				`UPDATE outbox.messages SET state = 'delivered', finished_at = now(), callback_due_at = now(), `+change+` WHERE id = $1`, id)
			require.NoError(t, err)
		}
		return id
	}
	const done = "https://shop.example/done"
	ids := []uuid.UUID{
		send(done, "callback_state = 'failed'"), send(done, "callback_state = 'sent'"), send(done,
			"callback_state = 'due'"),
		send(done, ""), send("", "last_error = NULL"), uuid.New(),
	}
	answers, err := o.RetryCallbacks(t.Context(), ids, ada)
	require.NoError(t, err)
	var said []string
	for _, a := range answers {
		said = append(said, string(a.Verdict)+": "+a.Text)
	}
	assert.Equal(t, []string{
		"done: its callback had failed, due again",
		"refused: its callback was sent",
		"refused: its callback is due: its run tries it, or a scanner starts one",
		"refused: pending: its callback is sent once it ends",
		"refused: it has no callback",
		"refused: not found",
	}, said)
}

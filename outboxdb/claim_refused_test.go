package outboxdb_test

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/outboxdb"
)

// What a process can't send to waits as a row that says why, and is no claim; another
// process may be able to. An operator's cancel ends it at once.
func TestRefusedDestinationsWaitAsRows(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	refused := enqueue(t, pool, messages("https://not-allowed.example.org/x", 3)...)
	enqueue(t, pool, message("sqs://a"))
	req := request()
	req.Refuse = func(d string) error {
		if d == "sqs://a" {
			return nil
		}
		return errors.New("the host is not allowed")
	}
	got := claim(t, store, req)
	require.Equal(t, map[string]int{"sqs://a": 1}, byDestination(got))
	require.Len(t, got.Refused, 1)
	require.NoError(t, got.Problem)
	s := stands(t, pool, refused[0])
	require.Equal(t, "the host is not allowed", *s.LastError)
	require.Zero(t, s.Claims)
	require.InDelta(t, 60, s.LeasedFor, 5)
	require.Empty(t, claim(t, store, req).Refused, "they are not due for a minute")

	cancelled, err := outboxdb.New(pool).RequestCancel(t.Context(), refused[:1], ada.Who, ada.Why)
	require.NoError(t, err)
	require.Equal(t, outflow.Cancelled, cancelled[0].State, "nobody has it")
	execute(t, pool, `UPDATE outbox.messages SET available_at = now() WHERE id = ANY ($1)`, refused)
	require.ElementsMatch(t, refused[1:], idsOf(claim(t, outboxdb.New(pool), request())))
}

// A message that waits as a row, because its destination is refused, ends when its time is
// over, and where somebody cancels it though a run of it may be open. Its producer is notified.
func TestRefusedDestinationsMessagesEnd(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	req := request()
	req.Refuse = func(string) error { return errors.New("the host is not allowed") }
	short, withdrawn := message("https://not-allowed.example.org/x"), message("https://not-allowed.example.org/y")
	short.ExpiresIn, short.Callback = time.Minute, "sqs://replies"
	ids := enqueue(t, pool, short, withdrawn, message("https://not-allowed.example.org/x"))
	require.Empty(t, claim(t, store, req).Messages)
	require.Less(t, stands(t, pool, ids[0]).LeasedFor, 60.0, "not beyond its time")

	execute(t, pool, `UPDATE outbox.messages SET expires_at = now() WHERE id = $1`, ids[0])
	execute(t, pool, `UPDATE outbox.messages SET cancel_requested = true WHERE id = $1`, ids[1])
	execute(t, pool, `UPDATE outbox.messages SET available_at = now()`)
	again := outboxdb.New(pool)
	got := claim(t, again, req)
	require.NoError(t, got.Problem)
	require.Empty(t, got.Messages)
	require.Equal(t, []string{"expired", "cancelled", "pending"},
		values[string](t, pool, `SELECT state FROM outbox.messages ORDER BY seq`))
	require.Equal(t, "the host is not allowed", *stands(t, pool, ids[0]).LastError)
	require.True(t, value[bool](t, pool, `SELECT callback_state = 'due' FROM outbox.messages WHERE id = $1`, ids[0]))
}

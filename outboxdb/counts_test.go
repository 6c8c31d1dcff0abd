package outboxdb_test

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/outboxdb"
)

func TestPending(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	counts, err := store.Pending(t.Context())
	require.NoError(t, err)
	require.Empty(t, counts)

	leased := enqueue(t, pool, messages("sqs://a", 3)...)
	req := request()
	claim(t, store, req)
	_, err = store.Renew(t.Context(), outbox.Renewal{Ref: ref(leased[0]), Lease: time.Hour, LastError: "throttled"})
	require.NoError(t, err)
	_, err = store.Finish(t.Context(), outbox.Ending{Ref: ref(leased[1]), State: outflow.Dead})
	require.NoError(t, err)
	delayed := message("sqs://b")
	delayed.DueIn = time.Hour
	enqueue(t, pool, delayed, message("sqs://b"), message("sqs://b"))
	counts, err = store.Pending(t.Context())
	require.NoError(t, err)
	require.Equal(t, []outboxdb.PendingCounts{
		{Destination: "sqs://a", Leased: 1, Retrying: 1, LastError: "throttled"},
		{Destination: "sqs://b", Due: 2, Delayed: 1},
	}, counts)
}

// Messages behind an open breaker wait, and the count says why.
func TestPendingBehindAnOpenBreaker(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	putBack := enqueue(t, pool, messages("sqs://a", 2)...)
	claim(t, store, request())
	_, err := store.PutBack(t.Context(), outbox.PutBack{Ref: ref(putBack[0]), LastError: "500"})
	require.NoError(t, err)
	enqueue(t, pool, message("https://shop.example/in"))
	refusing := request()
	refusing.Refuse = func(d string) error {
		if d != "https://shop.example/in" {
			return nil
		}
		return errors.New("the host is not allowed")
	}
	require.Empty(t, claim(t, store, refusing).Messages)
	enqueue(t, pool, message("https://down.example/a"))
	execute(t, pool, `INSERT INTO outbox.destinations (destination, failures, failing_since, openings, open_until,
	    last_error)
		VALUES ('https://down.example', 5, now(), 1, now(), 'no answer')`)
	counts, err := store.Pending(t.Context())
	require.NoError(t, err)
	require.Equal(t, []outboxdb.PendingCounts{
		{Destination: "https://down.example/a", Waiting: 1, LastError: "no answer"},
		{Destination: "https://shop.example/in", Waiting: 1, LastError: "the host is not allowed"},
		{Destination: "sqs://a", Leased: 1, Waiting: 1, LastError: "500"},
	}, counts)
}

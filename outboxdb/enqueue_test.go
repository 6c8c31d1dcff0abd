package outboxdb_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/outboxdb"
)

func TestEnqueue(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	clean := func(t *testing.T) { execute(t, pool, `TRUNCATE outbox.messages`) }

	t.Run("a hundred in one statement", func(t *testing.T) {
		defer clean(t)
		watched, statements := traced(t, pool)
		tx, err := watched.Begin(t.Context())
		require.NoError(t, err)
		statements.take()
		ids, err := outboxdb.Enqueue(t.Context(), tx, messages("sqs://orders", 100)...)
		require.NoError(t, err)
		require.Equal(t, []string{outboxdb.StatementEnqueue}, statements.take())
		require.NoError(t, tx.Commit(t.Context()))

		require.Equal(t, ids, values[uuid.UUID](t, pool, `SELECT id FROM outbox.messages ORDER BY seq`),
			"seq follows the call's order")
		require.True(t, slices.IsSortedFunc(ids, func(a, b uuid.UUID) int { return slices.Compare(a[:], b[:]) }))
		for _, id := range ids {
			require.EqualValues(t, 7, id.Version())
			require.Equal(t, uuid.RFC4122, id.Variant())
		}
	})
	t.Run("none", func(t *testing.T) {
		watched, statements := traced(t, pool)
		inTx(t, watched, func(tx pgx.Tx) {
			statements.take()
			ids, err := outboxdb.Enqueue(t.Context(), tx)
			require.NoError(t, err)
			require.Empty(t, ids)
			require.Empty(t, statements.take())
		})
	})
	t.Run("every field", func(t *testing.T) {
		defer clean(t)
		now := value[time.Time](t, pool, `SELECT now()`)
		m := outflow.Message{
			ID:          uuid.MustParse("018f3c1e-0000-7000-8000-000000000001"),
			Destination: "arn:aws:sqs:eu-west-1:123456789012:orders.fifo",
			Type:        "order/placed:v1", Payload: []byte{0, 1, 0xff}, ContentType: "application/octet-stream",
			Headers:     map[string]string{"tenant": "<a&b>", "x.y-z_1": "\u2028 \U0001F600 \\ \" \n"},
			OrderingKey: "customer#7", DueAt: now.Add(-time.Hour), ExpiresAt: now.AddDate(400, 0, 0),
		}
		require.Equal(t, []uuid.UUID{m.ID}, enqueue(t, pool, m))
		got, err := outboxdb.New(pool).Load(t.Context(), ref(m.ID))
		require.NoError(t, err)
		require.True(t, got.DueAt.Equal(m.DueAt) && got.ExpiresAt.Equal(m.ExpiresAt))
		require.False(t, got.Expired, "an expiry beyond time.Duration is not in the past")
		got.DueAt, got.ExpiresAt = m.DueAt, m.ExpiresAt
		m.Destination = "sqs://orders.fifo?account=123456789012&region=eu-west-1"
		require.Equal(t, m, got.Message)
		require.Equal(t, outflow.Pending, got.State)
		require.Equal(t, 1, got.Generation)
		require.WithinDuration(t, now, got.EnqueuedAt, time.Minute)
		require.Zero(t, got.FinishedAt)
		require.True(t, value[bool](t, pool, `SELECT available_at = enqueued_at FROM outbox.messages`),
			"a past due time makes it claimable now, no earlier")
	})
	t.Run("defaults", func(t *testing.T) {
		defer clean(t)
		id := enqueue(t, pool, message("sqs://orders"))[0]
		got, err := outboxdb.New(pool).Load(t.Context(), ref(id))
		require.NoError(t, err)
		require.Equal(t, "application/json", got.ContentType)
		require.Empty(t, got.Headers)
		require.Empty(t, got.OrderingKey)
		require.Zero(t, got.ExpiresAt)
		require.False(t, got.Expired)
		require.Equal(t, got.EnqueuedAt, got.DueAt)
	})
	t.Run("durations count from the enqueue", func(t *testing.T) {
		defer clean(t)
		m := message("sqs://orders")
		m.DueIn, m.ExpiresIn = 90*time.Minute+250*time.Microsecond, 200*365*24*time.Hour
		enqueue(t, pool, m)
		require.True(t, value[bool](t, pool,
			`SELECT due_at = enqueued_at + interval '90 minutes 250 microseconds' AND available_at = due_at
			AND expires_at = enqueued_at + interval '1752000 hours' FROM outbox.messages`))
	})
	t.Run("a rolled back transaction leaves nothing", func(t *testing.T) {
		tx, err := pool.Begin(t.Context())
		require.NoError(t, err)
		_, err = outboxdb.Enqueue(t.Context(), tx, messages("sqs://orders", 3)...)
		require.NoError(t, err)
		require.Equal(t, 3, count(t, tx))
		require.NoError(t, tx.Rollback(t.Context()))
		require.Zero(t, count(t, pool))
	})
	t.Run("an ended transaction", func(t *testing.T) {
		tx, err := pool.Begin(t.Context())
		require.NoError(t, err)
		require.NoError(t, tx.Rollback(t.Context()))
		_, err = outboxdb.Enqueue(t.Context(), tx, message("sqs://orders"))
		require.ErrorIs(t, err, pgx.ErrTxClosed)
	})
	t.Run("five thousand at once", func(t *testing.T) {
		defer clean(t)
		enqueue(t, pool, messages("sqs://orders", 5000)...)
		require.Equal(t, 5000, count(t, pool))
	})
}

// duplicates are the ways in which an ID can exist already. Each prepares the transaction. It
// returns the messages of the call and the IDs that exist.
var duplicates = []struct {
	name    string
	prepare func(t *testing.T, pool *pgxpool.Pool, tx pgx.Tx) (msgs []outflow.Message, taken []uuid.UUID)
	written int // by EnqueueIfAbsent
}{
	{"committed before", func(t *testing.T, pool *pgxpool.Pool, _ pgx.Tx) ([]outflow.Message, []uuid.UUID) {
		msgs := withIDs(3)
		enqueue(t, pool, msgs[1])
		return msgs, []uuid.UUID{msgs[1].ID}
	}, 2},
	{"in the same transaction", func(t *testing.T, _ *pgxpool.Pool, tx pgx.Tx) ([]outflow.Message, []uuid.UUID) {
		msgs := withIDs(3)
		_, err := outboxdb.Enqueue(t.Context(), tx, msgs[0])
		require.NoError(t, err)
		return msgs, []uuid.UUID{msgs[0].ID}
	}, 2},
	{"twice in a call", func(*testing.T, *pgxpool.Pool, pgx.Tx) ([]outflow.Message, []uuid.UUID) {
		msgs := withIDs(3)
		msgs[2].ID = msgs[0].ID
		return msgs, []uuid.UUID{msgs[0].ID}
	}, 2},
	{"all of them", func(t *testing.T, pool *pgxpool.Pool, _ pgx.Tx) ([]outflow.Message, []uuid.UUID) {
		msgs := withIDs(2)
		enqueue(t, pool, msgs...)
		return msgs, []uuid.UUID{msgs[0].ID, msgs[1].ID}
	}, 0},
}

func withIDs(n int) []outflow.Message {
	msgs := messages("sqs://orders", n)
	for i := range msgs {
		msgs[i].ID = uuid.Must(uuid.NewV7())
		msgs[i].Type = "type-" + string(rune('a'+i))
	}
	return msgs
}

func TestEnqueueDuplicates(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	for _, c := range duplicates {
		t.Run(c.name, func(t *testing.T) {
			inTx(t, pool, func(tx pgx.Tx) {
				msgs, taken := c.prepare(t, pool, tx)
				before := count(t, tx)
				_, err := outboxdb.Enqueue(t.Context(), tx, msgs...)
				var duplicate *outflow.DuplicateIDError
				require.ErrorAs(t, err, &duplicate)
				require.Equal(t, taken, duplicate.IDs)
				require.Equal(t, before, count(t, tx), "nothing of the call was written")
				ids, err := outboxdb.Enqueue(t.Context(), tx, message("sqs://orders"))
				require.NoError(t, err, "the transaction goes on")
				require.Len(t, ids, 1)
			})
		})
		t.Run("if absent: "+c.name, func(t *testing.T) {
			inTx(t, pool, func(tx pgx.Tx) {
				msgs, taken := c.prepare(t, pool, tx)
				before := count(t, tx)
				ids, err := outboxdb.EnqueueIfAbsent(t.Context(), tx, msgs...)
				require.NoError(t, err)
				require.Len(t, ids, c.written)
				require.Equal(t, before+c.written, count(t, tx))
				if c.name != "twice in a call" { // there the first of the two is written
					require.NotContains(t, ids, taken[0])
				} else {
					require.Equal(t, msgs[0].Type,
						value[string](t, tx, `SELECT type FROM outbox.messages WHERE id = $1`, msgs[0].ID))
				}
			})
		})
	}
	t.Run("the same ID again after a refusal", func(t *testing.T) {
		msgs := withIDs(2)
		enqueue(t, pool, msgs[1])
		inTx(t, pool, func(tx pgx.Tx) {
			_, err := outboxdb.Enqueue(t.Context(), tx, msgs...)
			require.Error(t, err)
			ids, err := outboxdb.Enqueue(t.Context(), tx, msgs[0])
			require.NoError(t, err)
			require.Equal(t, []uuid.UUID{msgs[0].ID}, ids)
		})
	})
}

// Enqueue waits for a transaction that has written the same ID and is still open.
func TestConcurrentEnqueue(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	type answer struct {
		ids []uuid.UUID
		err error
	}
	for _, c := range []struct {
		name     string
		ifAbsent bool
		commit   bool
		want     func(t *testing.T, id uuid.UUID, a answer)
	}{
		{"it commits", false, true, func(t *testing.T, id uuid.UUID, a answer) {
			var duplicate *outflow.DuplicateIDError
			require.ErrorAs(t, a.err, &duplicate)
			require.Equal(t, []uuid.UUID{id}, duplicate.IDs)
		}},
		{"it rolls back", false, false, func(t *testing.T, id uuid.UUID, a answer) {
			require.NoError(t, a.err)
			require.Equal(t, []uuid.UUID{id}, a.ids)
		}},
		{"if absent: it commits", true, true, func(t *testing.T, _ uuid.UUID, a answer) {
			require.NoError(t, a.err)
			require.Empty(t, a.ids)
		}},
		{"if absent: it rolls back", true, false, func(t *testing.T, id uuid.UUID, a answer) {
			require.NoError(t, a.err)
			require.Equal(t, []uuid.UUID{id}, a.ids)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := withIDs(1)[0]
			other, err := pool.Begin(t.Context())
			require.NoError(t, err)
			_, err = outboxdb.Enqueue(t.Context(), other, m)
			require.NoError(t, err)

			tx, err := pool.Begin(t.Context())
			require.NoError(t, err)
			answered := make(chan answer, 1)
			go func() {
				call := outboxdb.Enqueue
				if c.ifAbsent {
					call = outboxdb.EnqueueIfAbsent
				}
				ids, err := call(t.Context(), tx, m)
				answered <- answer{ids, err}
			}()
			waitFor(t, pool, waitsForLock)
			require.Empty(t, answered)
			if c.commit {
				require.NoError(t, other.Commit(t.Context()))
			} else {
				require.NoError(t, other.Rollback(t.Context()))
			}
			c.want(t, m.ID, <-answered)
			require.NoError(t, tx.Commit(t.Context()))
			require.Equal(t, 1, value[int](t, pool, `SELECT count(*) FROM outbox.messages WHERE id = $1`, m.ID))
		})
	}
}

func TestEnqueueFunction(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	payload := func(id uuid.UUID) []byte {
		return value[[]byte](t, pool, `SELECT payload FROM outbox.messages WHERE id = $1`, id)
	}
	t.Run("a literal", func(t *testing.T) {
		id := value[uuid.UUID](t, pool, `SELECT outbox.enqueue('sqs://orders', 'order-placed', '{"id": 7}')`)
		require.Equal(t, `{"id": 7}`, string(payload(id)))
		require.EqualValues(t, 7, id.Version())
		require.Equal(t, uuid.RFC4122, id.Variant())
		sec, nsec := id.Time().UnixTime()
		require.WithinDuration(t, time.Now(), time.Unix(sec, nsec), time.Minute)
	})
	t.Run("text", func(t *testing.T) {
		id := value[uuid.UUID](t, pool, `
			SELECT outbox.enqueue('sqs://orders', 'order-placed', json_build_object('name', 'Zoë')::text)`)
		require.Equal(t, `{"name" : "Zoë"}`, string(payload(id)))
	})
	t.Run("bytes", func(t *testing.T) {
		id := value[uuid.UUID](t, pool, `SELECT outbox.enqueue('sqs://orders', 'order-placed', '\x00ff'::bytea)`)
		require.Equal(t, []byte{0, 0xff}, payload(id))
	})
	t.Run("named arguments", func(t *testing.T) {
		given := uuid.Must(uuid.NewV7())
		id := value[uuid.UUID](t, pool, `SELECT outbox.enqueue(
			destination => 'https://sqs.eu-west-1.amazonaws.com/123456789012/orders',
			type => 'order-placed', payload => 'x', content_type => 'text/plain', headers => '{"tenant": "acme"}',
			ordering_key => 'k',
			id => $1, due_in => '1 hour', expires_in => '1 month')`, given)
		require.Equal(t, given, id)
		require.True(t, value[bool](t, pool,
			`SELECT destination = 'sqs://orders?account=123456789012&region=eu-west-1' AND content_type = 'text/plain'
			AND headers = '{"tenant": "acme"}' AND ordering_key = 'k' AND due_at = enqueued_at + interval '1 hour'
			AND expires_at = enqueued_at + interval '1 month' FROM outbox.messages WHERE id = $1`, id))
	})
	t.Run("an ID that exists", func(t *testing.T) {
		id := value[uuid.UUID](t, pool, `SELECT outbox.enqueue('sqs://orders', 'a', 'first')`)
		_, err := pool.Exec(t.Context(), `SELECT outbox.enqueue('sqs://orders', 'a', 'second', id => $1)`, id)
		require.ErrorContains(t, err, "id: a message with the ID "+id.String()+" was enqueued before")
		require.Equal(t, "23505", sqlState(err))
		require.Equal(t, id, value[uuid.UUID](t, pool,
			`SELECT outbox.enqueue('sqs://orders', 'a', 'second', id => $1, if_absent => true)`, id))
		require.Equal(t, "first", string(payload(id)))
	})
	t.Run("bad input", func(t *testing.T) {
		_, err := pool.Exec(t.Context(), `SELECT outbox.enqueue('sqs://orders', '', 'x')`)
		require.ErrorContains(t, err, "type: wants 1 to 200 letters")
		require.Equal(t, "22023", sqlState(err))
		_, err = pool.Exec(t.Context(), `SELECT outbox.enqueue(NULL, 'a', 'x')`)
		require.ErrorContains(t, err, "destination: wants")
		_, err = pool.Exec(t.Context(), `SELECT outbox.enqueue('sqs://q', NULL, 'x')`)
		require.ErrorContains(t, err, "type: wants")
		_, err = pool.Exec(t.Context(), `SELECT outbox.enqueue('sqs://q', 'a', NULL::text)`)
		require.ErrorContains(t, err, "payload: wants 1 to 16777216 bytes (got 0)")
		_, err = pool.Exec(t.Context(), `
			SELECT outbox.enqueue('sqs://q', 'a', 'x', id => '00000000-0000-0000-0000-000000000000')`)
		require.ErrorContains(t, err, "id: wants a UUID other than the zero one")
		for _, bad := range []string{`[]`, `"x"`, `{"a": 1}`, `{"a": null}`} {
			_, err = pool.Exec(t.Context(), `SELECT outbox.enqueue('sqs://q', 'a', 'x', headers => $1)`, bad)
			require.ErrorContains(t, err, "headers: ", bad)
		}
	})
	t.Run("a rollback", func(t *testing.T) {
		before := count(t, pool)
		tx, err := pool.Begin(t.Context())
		require.NoError(t, err)
		_, err = tx.Exec(t.Context(), `SELECT outbox.enqueue('sqs://orders', 'a', 'x')`)
		require.NoError(t, err)
		require.NoError(t, tx.Rollback(t.Context()))
		require.Equal(t, before, count(t, pool))
	})
}

func TestEnqueueBatchFunction(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	type verdict struct {
		Index     int
		MessageID *uuid.UUID
		Verdict   string
	}
	ask := func(t *testing.T, messages string) []verdict {
		rows, err := pool.Query(t.Context(), `SELECT * FROM outbox.enqueue_batch($1)`, messages)
		require.NoError(t, err)
		got, err := pgx.CollectRows(rows, pgx.RowToStructByPos[verdict])
		require.NoError(t, err)
		return got
	}
	t.Run("the forms of a payload", func(t *testing.T) {
		got := ask(t, `[{"destination": "sqs://q", "type": "a", "payload": "text"},
			{"destination": "sqs://q", "type": "a", "payload": {"b": [1]}},
			{"destination": "sqs://q", "type": "a", "payload_base64": "AP8="}]`)
		require.Len(t, got, 3)
		for i, v := range got {
			require.Equal(t, i, v.Index)
			require.Equal(t, "enqueued", v.Verdict)
		}
		require.Equal(t, [][]byte{[]byte("text"), []byte(`{"b": [1]}`), {0, 0xff}},
			values[[]byte](t, pool, `SELECT payload FROM outbox.messages ORDER BY seq`))
	})
	t.Run("nothing", func(t *testing.T) { require.Empty(t, ask(t, `[]`)) })
	t.Run("one refused, the others withdrawn", func(t *testing.T) {
		before := count(t, pool)
		got := ask(t, `[{"destination": "sqs://q", "type": "a", "payload": "x"}, 7,
			{"destination": "sqs://q", "type": "a", "payload": "x", "colour": "red"},
			{"destination": "sqs://q", "type": "a", "payload": "x", "payload_base64": "AP8="}]`)
		require.Equal(t, "withdrawn", got[0].Verdict)
		require.Equal(t, "refused: message: wants a JSON object", got[1].Verdict)
		require.Equal(t, "refused: colour: no field has this name", got[2].Verdict)
		require.Equal(t, "refused: payload: wants payload or payload_base64, not both", got[3].Verdict)
		require.Equal(t, before, count(t, pool))
	})
	t.Run("no array", func(t *testing.T) {
		for _, bad := range []string{`{}`, `null`, `"x"`} {
			_, err := pool.Exec(t.Context(), `SELECT * FROM outbox.enqueue_batch($1)`, bad)
			require.ErrorContains(t, err, "messages: wants a JSON array of objects")
		}
	})
}

func sqlState(err error) string {
	var pg *pgconn.PgError
	if errors.As(err, &pg) {
		return pg.Code
	}
	return ""
}

package outboxdb_test

import (
	"bytes"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/operator"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/outboxdb"
)

// callbackRow is a row's part that is about its callback.
type callbackRow struct {
	State    string
	Attempts int
	Error    string
	// DueIn is in whole minutes from now; 0 where the callback is not due.
	DueIn int
}

func callbackOf(t testing.TB, q queryer, id uuid.UUID) callbackRow {
	t.Helper()
	rows, err := q.Query(t.Context(), `
		SELECT coalesce(callback_state, ''), callback_attempts, coalesce(callback_error, ''),
		       coalesce(round(extract(epoch FROM callback_due_at - clock_timestamp()) / 60), 0)::int
		  FROM outbox.messages WHERE id = $1`, id)
	require.NoError(t, err)
	r, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByPos[callbackRow])
	require.NoError(t, err)
	return r
}

func withCallback(destination string) outflow.Message {
	m := message(destination)
	m.Callback = "https://shop.example/done"
	return m
}

// owing is a message with an end whose producer is still to be notified.
func owing(t *testing.T, pool *pgxpool.Pool, state outflow.State) uuid.UUID {
	t.Helper()
	id := enqueue(t, pool, withCallback("sqs://orders"))[0]
	outcome, err := outboxdb.New(pool).Finish(t.Context(),
		outbox.Ending{Ref: ref(id), State: state, BrokerMessageID: "b-1", LastError: "why", Attempts: 1})
	require.NoError(t, err)
	require.True(t, outcome.CallbackDue)
	return id
}

func TestFinishOwesACallback(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	for _, state := range []outflow.State{outflow.Delivered, outflow.Dead, outflow.Expired, outflow.Cancelled} {
		id := owing(t, pool, state)
		assert.Equal(t, callbackRow{State: "due", DueIn: 1}, callbackOf(t, pool, id), "its run has a minute")
		again, err := store.Finish(t.Context(), outbox.Ending{Ref: ref(id), State: state})
		require.NoError(t, err)
		assert.True(t, again.CallbackDue, "whoever asks once more starts it as well")
		record, err := store.Load(t.Context(), ref(id))
		require.NoError(t, err)
		assert.True(t, record.Outcome().CallbackDue)
	}
	none := enqueue(t, pool, message("sqs://orders"))[0]
	outcome, err := store.Finish(t.Context(), outbox.Ending{Ref: ref(none), State: outflow.Delivered})
	require.NoError(t, err)
	assert.False(t, outcome.CallbackDue)
	assert.Equal(t, callbackRow{}, callbackOf(t, pool, none))
}

func TestCallback(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	begin := func(r outbox.Ref) (outbox.Callback, bool) {
		c, due, err := store.BeginCallback(t.Context(), r, 5*time.Minute)
		require.NoError(t, err)
		return c, due
	}
	note := func(n outbox.CallbackNote) bool {
		noted, err := store.NoteCallback(t.Context(), n)
		require.NoError(t, err)
		return noted
	}

	t.Run("an attempt is counted, leased, and given what to send", func(t *testing.T) {
		id := owing(t, pool, outflow.Dead)
		c, due := begin(ref(id))
		require.True(t, due)
		assert.Equal(t, callbackRow{State: "due", Attempts: 1, DueIn: 5}, callbackOf(t, pool, id))
		assert.Equal(t, "https://shop.example/done", c.To)
		assert.Equal(t, id, c.ID)
		assert.Equal(t, outflow.Dead, c.State)
		assert.Equal(t, []any{1, 1, "why", "sqs://orders", "user-registered"},
			[]any{c.Generation, c.Attempts, c.LastError, c.Destination, c.Type})
		assert.WithinDuration(t, time.Now(), c.EnqueuedAt, time.Minute)
		assert.WithinDuration(t, time.Now(), c.FinishedAt, time.Minute)
		assert.Equal(t, id.String()+"_1_dead", c.CallbackID())
	})
	t.Run("the payload comes along where it was asked for, up to a size", func(t *testing.T) {
		for size, comes := range map[int]bool{1: true, outflow.MaxCallbackPayload: true,
			outflow.MaxCallbackPayload + 1: false} {
			for _, asked := range []bool{true, false} {
				m := withCallback("sqs://orders")
				m.Payload, m.ContentType, m.CallbackPayload = bytes.Repeat([]byte("x"), size), "text/plain", asked
				id := enqueue(t, pool, m)[0]
				_, err := store.Finish(t.Context(), outbox.Ending{Ref: ref(id), State: outflow.Delivered})
				require.NoError(t, err)
				c, due := begin(ref(id))
				require.True(t, due)
				assert.Equal(t, asked, c.WithPayload)
				assert.Equal(t, asked && comes, bytes.Equal(m.Payload, c.Payload), "%d bytes", size)
				assert.Equal(t, asked && comes, len(c.Payload) > 0)
				assert.Equal(t, "text/plain", c.ContentType)
			}
		}
	})
	t.Run("a failure is noted, and its lease", func(t *testing.T) {
		id := owing(t, pool, outflow.Delivered)
		begin(ref(id))
		require.True(t, note(outbox.CallbackNote{Ref: ref(id), End: outflow.Delivered, State: outbox.CallbackDue,
			LastError: "503\x00", Lease: 3 * time.Minute}))
		assert.Equal(t, callbackRow{State: "due", Attempts: 1, Error: "503\uFFFD", DueIn: 3}, callbackOf(t, pool, id))
		begin(ref(id))
		assert.Equal(t, callbackRow{State: "due", Attempts: 2, Error: "503\uFFFD", DueIn: 5}, callbackOf(t, pool, id))
		require.True(t, note(outbox.CallbackNote{Ref: ref(id), End: outflow.Delivered, State: outbox.CallbackSent}))
		assert.Equal(t, callbackRow{State: "sent", Attempts: 2}, callbackOf(t, pool, id))
	})
	t.Run("what is sent or failed takes no attempt and no note", func(t *testing.T) {
		for _, state := range []outbox.CallbackState{outbox.CallbackSent, outbox.CallbackFailed} {
			id := owing(t, pool, outflow.Delivered)
			require.True(t, note(outbox.CallbackNote{Ref: ref(id), State: state, LastError: "e"}))
			before := callbackOf(t, pool, id)
			_, due := begin(ref(id))
			assert.False(t, due)
			for _, other := range []outbox.CallbackState{outbox.CallbackDue, outbox.CallbackSent,
				outbox.CallbackFailed} {
				assert.False(t, note(outbox.CallbackNote{Ref: ref(id), End: outflow.Delivered, State: other,
					LastError: "late"}))
			}
			assert.Equal(t, before, callbackOf(t, pool, id))
		}
	})
	t.Run("another generation's answer is not taken for this one's", func(t *testing.T) {
		id := owing(t, pool, outflow.Dead)
		begin(ref(id))
		_, err := operator.New(pool, nil, "").Retry(t.Context(), []uuid.UUID{id}, ada)
		require.NoError(t, err)
		assert.Equal(t, callbackRow{}, callbackOf(t, pool, id), "pending once more: nothing to send")
		sent := outbox.CallbackNote{Ref: ref(id), End: outflow.Dead, State: outbox.CallbackSent}
		assert.False(t, note(sent))
		second := outbox.Ref{ID: id, Generation: 2}
		_, err = store.Finish(t.Context(), outbox.Ending{Ref: second, State: outflow.Dead, LastError: "again"})
		require.NoError(t, err)
		assert.False(t, note(sent))
		_, due := begin(ref(id))
		assert.False(t, due)
		c, due := begin(second)
		require.True(t, due, "the second end gives a second callback")
		assert.Equal(t, id.String()+"_2_dead", c.CallbackID())
		assert.Equal(t, 1, callbackOf(t, pool, id).Attempts, "its own")
	})
	t.Run("an end that was corrected is sent once more", func(t *testing.T) {
		id := owing(t, pool, outflow.Dead)
		begin(ref(id))
		_, err := store.Finish(t.Context(),
			outbox.Ending{Ref: ref(id), State: outflow.Delivered, BrokerMessageID: "b-2"})
		require.NoError(t, err)
		assert.False(t, note(outbox.CallbackNote{Ref: ref(id), End: outflow.Dead, State: outbox.CallbackSent}))
		c, due := begin(ref(id))
		require.True(t, due)
		assert.Equal(t, id.String()+"_1_delivered", c.CallbackID())
		require.True(t, note(outbox.CallbackNote{Ref: ref(id), End: outflow.Delivered, State: outbox.CallbackSent}))

		late := owing(t, pool, outflow.Cancelled)
		require.True(t, note(outbox.CallbackNote{Ref: ref(late), State: outbox.CallbackSent}))
		outcome, err := store.Finish(t.Context(), outbox.Ending{Ref: ref(late), State: outflow.Delivered})
		require.NoError(t, err)
		assert.True(t, outcome.CallbackDue, "even where the first was sent")
	})
	t.Run("there is no such message", func(t *testing.T) {
		_, due := begin(ref(uuid.New()))
		assert.False(t, due)
		assert.False(t, note(outbox.CallbackNote{Ref: ref(uuid.New()), State: outbox.CallbackSent}))
	})
}

func dueCallback(id uuid.UUID) outbox.DueCallback {
	return outbox.DueCallback{Ref: ref(id), Destination: "sqs://orders", Type: "user-registered"}
}

func TestTakeCallbacks(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store, other := outboxdb.New(pool), outboxdb.New(pool)
	take := func(s *outboxdb.Store, limit int) []outbox.DueCallback {
		due, err := s.TakeCallbacks(t.Context(), limit, time.Minute)
		require.NoError(t, err)
		return due
	}
	var ids []uuid.UUID
	for range 3 {
		ids = append(ids, owing(t, pool, outflow.Delivered))
	}
	sent := owing(t, pool, outflow.Delivered)
	require.Empty(t, take(store, 10), "their runs have a minute to start them")
	execute(t, pool, `UPDATE outbox.messages SET callback_due_at = now() - interval '1 s' * array_position($1, id)
	    WHERE id = ANY ($1)`, ids)
	execute(t, pool, `UPDATE outbox.messages SET callback_due_at = now(), callback_state = 'sent' WHERE id = $1`, sent)
	require.Equal(t, []outbox.DueCallback{dueCallback(ids[2])}, take(store, 1), "the one that waits longest")
	inTx(t, pool, func(tx pgx.Tx) {
		_, err := tx.Exec(t.Context(), `SELECT FROM outbox.messages WHERE id = $1 FOR UPDATE`, ids[0])
		require.NoError(t, err)
		require.Equal(t, []outbox.DueCallback{dueCallback(ids[1])}, take(other, 10),
			"nobody waits for a row that is held")
	})
	require.Equal(t, []outbox.DueCallback{dueCallback(ids[0])}, take(other, 10))
	require.Empty(t, take(store, 10), "a lease keeps another scanner from them")
	require.Equal(t, callbackRow{State: "due", DueIn: 1}, callbackOf(t, pool, ids[0]))
}

func TestRetryCallbacks(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store, o := outboxdb.New(pool), operator.New(pool, nil, "")
	failed, due := owing(t, pool, outflow.Dead), owing(t, pool, outflow.Dead)
	pending := enqueue(t, pool, withCallback("sqs://orders"))[0]
	_, err := store.NoteCallback(t.Context(),
		outbox.CallbackNote{Ref: ref(failed), State: outbox.CallbackFailed, LastError: "404"})
	require.NoError(t, err)
	answers, err := o.RetryCallbacks(t.Context(), []uuid.UUID{failed, due, pending, uuid.New()}, ada)
	require.NoError(t, err)
	var done []bool
	for _, a := range answers {
		done = append(done, a.Verdict == operator.Done)
	}
	assert.Equal(t, []bool{true, false, false, false}, done)
	assert.Equal(t, callbackRow{State: "due", Error: "404"}, callbackOf(t, pool, failed))
	again, err := store.TakeCallbacks(t.Context(), 10, time.Minute)
	require.NoError(t, err)
	assert.Equal(t, []outbox.DueCallback{dueCallback(failed)}, again, "at once")
	assert.Equal(t, []string{`retry-callback 1 ada@host: the queue is back {"error": "404"}`}, audited(t, pool, failed))

	for state, want := range map[outbox.CallbackState]int{outbox.CallbackDue: 2, outbox.CallbackFailed: 0, "": 3} {
		page, _, err := o.List(t.Context(), operator.ListFilter{Callback: state, Limit: 10})
		require.NoError(t, err)
		assert.Len(t, page, want, "%q", state)
	}
}

// The look of an idle scanner reads an index that is empty but for callbacks
// that are due; one attempt reads one row.
func TestCallbackPlans(t *testing.T) {
	t.Parallel()
	pool := another(t, teststack.New(t), utc)
	beginLoad(t, pool)
	execute(t, pool, `ANALYZE outbox.messages`) // statistics from an empty table
	// Inserted as they are: a vacuum after an update may have to leave the dead rows.
	execute(t, pool, `
		INSERT INTO outbox.messages (id, destination, type, payload, state, finished_at, callback, callback_state,
		    callback_due_at)
		SELECT lpad(to_hex(n), 32, '0')::uuid, 'sqs://delivered-' || n % 7, 'a', '{}', 'delivered', now(), 'sqs://replies',
		       CASE WHEN n % 20 = 0 THEN 'due' ELSE 'sent' END, now() + (n - 100) * interval '1 s'
		  FROM generate_series(1, 20000) AS n`)
	execute(t, pool, `VACUUM outbox.messages`)
	id := value[uuid.UUID](t, pool, `SELECT id FROM outbox.messages WHERE callback_state = 'due'
	    ORDER BY callback_due_at LIMIT 1`)
	for _, mode := range []string{"force_custom_plan", "force_generic_plan"} {
		for name, c := range map[string]struct {
			statement string
			rows      float64
			args      []any
		}{
			"take":  {outboxdb.StatementTakeCallbacks, 5, []any{100, "1 minute"}},
			"begin": {outboxdb.StatementBeginCallback, 1, []any{id, 1, "1 minute", outflow.MaxCallbackPayload}},
			"note":  {outboxdb.StatementNoteCallback, 0, []any{id, 1, "delivered", "due", "e", "1 minute"}},
		} {
			p := teststack.Explain(t, pool, mode, c.statement, c.args...)
			t.Logf("%s, %s: %d buffers", mode, name, p.Buffers())
			requireIndexed(t, p)
			require.Equal(t, c.rows, p.Rows, name)
			require.LessOrEqual(t, p.Buffers(), 150, name)
		}
	}
}

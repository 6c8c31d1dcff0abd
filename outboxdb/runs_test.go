package outboxdb_test

import (
	"fmt"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/internal/text"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/outboxdb"
)

// row makes a message that stands as set says, and returns its ID.
func row(t *testing.T, pool *pgxpool.Pool, set string) uuid.UUID {
	t.Helper()
	id := enqueue(t, pool, message("sqs://a"))[0]
	execute(t, pool, `UPDATE outbox.messages SET `+set+` WHERE id = $1`, id)
	return id
}

const (
	pendingRow = `attempts = 2, retrying = true, last_error = 'before', available_at = now() + interval '1 hour'`
	nextRow    = `generation = 2, attempts = 2, last_error = 'before', available_at = now() + interval '1 hour'`
)

func endedRow(state outflow.State, generation int) string {
	return fmt.Sprintf(`state = '%s', finished_at = now() - interval '1 minute', generation = %d, attempts = 2,
	    last_error = 'before', broker_message_id = NULL`, state, generation)
}

func TestFinish(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	ends := []outflow.State{outflow.Delivered, outflow.Dead, outflow.Expired, outflow.Cancelled}
	finish := func(t *testing.T, id uuid.UUID, generation int, state outflow.State) outflow.Outcome {
		t.Helper()
		e := outbox.Ending{Ref: outbox.Ref{ID: id, Generation: generation}, State: state, Attempts: 1}
		if state == outflow.Delivered {
			e.BrokerMessageID = "broker-1"
		} else {
			e.LastError = "the reason"
		}
		o, err := store.Finish(t.Context(), e)
		require.NoError(t, err)
		require.Equal(t, id, o.ID)
		return o
	}
	// unchanged finishes a row that must not take it.
	unchanged := func(t *testing.T, set string, generation int, state outflow.State) {
		t.Helper()
		id := row(t, pool, set)
		version := `SELECT xmin::text || ctid FROM outbox.messages WHERE id = $1`
		before, was := value[string](t, pool, version, id), stands(t, pool, id)
		o := finish(t, id, generation, state)
		require.Equal(t, before, value[string](t, pool, version, id), "the row was written")
		require.EqualValues(t, was.State, o.State)
		require.Equal(t, was.Generation, o.Generation)
		require.Equal(t, was.Attempts, o.Attempts)
		require.Equal(t, *was.LastError, o.LastError)
		require.Equal(t, was.Finished, !o.FinishedAt.IsZero())
	}

	for _, end := range ends {
		t.Run("pending to "+string(end), func(t *testing.T) {
			id := row(t, pool, pendingRow)
			o := finish(t, id, 1, end)
			s := stands(t, pool, id)
			require.EqualValues(t, end, s.State)
			require.Equal(t, end, o.State)
			require.Equal(t, 3, s.Attempts)
			require.Equal(t, 3, o.Attempts)
			require.False(t, s.Retrying)
			require.WithinDuration(t, time.Now(), o.FinishedAt, time.Minute)
			if end == outflow.Delivered {
				require.Equal(t, "broker-1", *s.BrokerMessageID)
				require.Equal(t, "broker-1", o.BrokerMessageID)
				require.Equal(t, "before", o.LastError, "the last failure is kept")
			} else {
				require.Nil(t, s.BrokerMessageID)
				require.Equal(t, "the reason", o.LastError)
			}
		})
		t.Run(string(end)+" of an older generation", func(t *testing.T) { unchanged(t, nextRow, 1, end) })
		t.Run(string(end)+" of a later generation", func(t *testing.T) { unchanged(t, pendingRow, 2, end) })
		for _, was := range ends {
			if end == outflow.Delivered && was != outflow.Delivered {
				t.Run("delivered beats "+string(was), func(t *testing.T) {
					id := row(t, pool, endedRow(was, 1))
					o := finish(t, id, 1, end)
					require.Equal(t, outflow.Delivered, o.State)
					require.Equal(t, 3, o.Attempts)
					require.WithinDuration(t, time.Now(), o.FinishedAt, 30*time.Second, "when it was acknowledged")
				})
				t.Run("delivered beats no other generation's "+string(was),
					func(t *testing.T) { unchanged(t, endedRow(was, 2), 1, end) })
				continue
			}
			t.Run(string(end)+" after "+string(was), func(t *testing.T) { unchanged(t, endedRow(was, 1), 1, end) })
		}
	}
	t.Run("delivered, sent again", func(t *testing.T) {
		id := row(t, pool, pendingRow)
		require.Equal(t, finish(t, id, 1, outflow.Delivered), finish(t, id, 1, outflow.Delivered))
		require.Equal(t, 3, stands(t, pool, id).Attempts)
	})
	t.Run("dead, sent again after a retry", func(t *testing.T) {
		id := row(t, pool, pendingRow)
		finish(t, id, 1, outflow.Dead)
		execute(t, pool, `UPDATE outbox.messages SET state = 'pending', finished_at = NULL, generation = 2,
		    available_at = now() WHERE id = $1`, id)
		o := finish(t, id, 1, outflow.Dead)
		require.Equal(t, outflow.Pending, o.State)
		require.Equal(t, 2, o.Generation)
		require.Equal(t, "pending", stands(t, pool, id).State)
	})
	t.Run("no row", func(t *testing.T) {
		_, err := store.Finish(t.Context(), outbox.Ending{Ref: ref(uuid.New()), State: outflow.Dead})
		require.ErrorIs(t, err, outflow.ErrNotFound)
	})
	t.Run("no end", func(t *testing.T) {
		for _, state := range []outflow.State{"", outflow.Pending, "done"} {
			_, err := store.Finish(t.Context(), outbox.Ending{Ref: ref(uuid.New()), State: state})
			require.ErrorContains(t, err, "is not a final state")
		}
	})
	t.Run("texts are cleaned", func(t *testing.T) {
		id := row(t, pool, pendingRow)
		o, err := store.Finish(t.Context(), outbox.Ending{Ref: ref(id), State: outflow.Delivered,
			BrokerMessageID: "a\x00b\xff", LastError: "\xff\x00" + strings.Repeat("ä", 2000)})
		require.NoError(t, err)
		require.Equal(t, "a\uFFFDb\uFFFD", o.BrokerMessageID)
		require.True(t, utf8.ValidString(o.LastError))
		require.LessOrEqual(t, len(o.LastError), text.MaxError)
		require.Greater(t, len(o.LastError), text.MaxError-4)
		require.True(t, strings.HasPrefix(o.LastError, "\uFFFD\uFFFDä"))
		require.Equal(t, o.LastError, *stands(t, pool, id).LastError)
	})
}

func TestRenew(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	renew := func(t *testing.T, id uuid.UUID, generation int, lastError string) outbox.Record {
		t.Helper()
		r, err := store.Renew(t.Context(), outbox.Renewal{Ref: outbox.Ref{ID: id, Generation: generation},
			Lease: 2 * time.Hour, LastError: lastError, Attempts: 2})
		require.NoError(t, err)
		return r
	}
	t.Run("a pending row", func(t *testing.T) {
		id := row(t, pool, `attempts = 2, last_error = 'before'`)
		r := renew(t, id, 1, "throttled")
		s := stands(t, pool, id)
		require.InDelta(t, 7200, s.LeasedFor, 60)
		require.True(t, s.Retrying)
		require.Equal(t, 5, s.Attempts)
		require.Equal(t, "throttled", *s.LastError)
		require.Zero(t, s.Claims)
		require.Equal(t, 5, r.Attempts)
		require.Equal(t, "throttled", r.LastError)
		require.Equal(t, message("").Payload, r.Payload)
		require.Equal(t, outflow.Pending, r.State)
	})
	t.Run("a wait counts no attempt of its own", func(t *testing.T) {
		id := row(t, pool, `attempts = 2`)
		r, err := store.Renew(t.Context(), outbox.Renewal{Ref: ref(id), Lease: time.Hour, LastError: "429", Attempts: 1,
			Waits: true})
		require.NoError(t, err)
		require.Equal(t, 3, r.Attempts)
		s := stands(t, pool, id)
		require.Equal(t, 3, s.Attempts)
		require.True(t, s.Retrying)
		require.InDelta(t, 3600, s.LeasedFor, 60)
		require.Equal(t, "429", *s.LastError)
	})
	t.Run("an attempt takes back one that sent nothing", func(t *testing.T) {
		id := row(t, pool, `attempts = 2`)
		r, err := store.Renew(t.Context(), outbox.Renewal{Ref: ref(id), Lease: time.Hour, Attempts: -1})
		require.NoError(t, err)
		require.Equal(t, 2, r.Attempts)
	})
	t.Run("no error leaves the noted one", func(t *testing.T) {
		id := row(t, pool, `last_error = 'before'`)
		require.Equal(t, "before", renew(t, id, 1, "").LastError)
	})
	t.Run("what an operator asked, and the expiry", func(t *testing.T) {
		id := row(t, pool, `cancel_requested = true, due_at = now() - interval '2 hours',
		    expires_at = now() - interval '1 hour'`)
		r := renew(t, id, 1, "")
		require.True(t, r.CancelRequested)
		require.True(t, r.Expired)
		require.Equal(t, 2, r.Attempts, "the earlier ones: nothing is sent")
	})
	for name, c := range map[string]struct {
		set        string
		generation int
	}{
		"an older generation": {nextRow, 1}, "a later generation": {pendingRow, 2},
		"delivered": {endedRow(outflow.Delivered, 1), 1}, "dead": {endedRow(outflow.Dead, 1), 1},
		"expired": {endedRow(outflow.Expired, 1), 1}, "cancelled": {endedRow(outflow.Cancelled, 1), 1},
	} {
		t.Run("nothing is written: "+name, func(t *testing.T) {
			id := row(t, pool, c.set)
			before := stands(t, pool, id)
			r := renew(t, id, c.generation, "throttled")
			after := stands(t, pool, id)
			before.LeasedFor, after.LeasedFor = 0, 0
			require.Equal(t, before, after)
			require.EqualValues(t, before.State, r.State)
			require.Equal(t, before.Generation, r.Generation)
			require.Equal(t, "before", r.LastError)
			require.Equal(t, message("").Payload, r.Payload)
		})
	}
	t.Run("no row", func(t *testing.T) {
		_, err := store.Renew(t.Context(), outbox.Renewal{Ref: ref(uuid.New()), Lease: time.Minute})
		require.ErrorIs(t, err, outflow.ErrNotFound)
	})
	t.Run("the error is cleaned", func(t *testing.T) {
		id := row(t, pool, `attempts = 0`)
		require.Equal(t, "\uFFFD\uFFFD", renew(t, id, 1, "\x00\xff").LastError)
	})
}

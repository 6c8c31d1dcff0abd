package outboxdb_test

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/outboxdb"
)

// What is put back waits as a row, longer each time, and its claims do not count.
func TestPutBack(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	id := enqueue(t, pool, message("sqs://down"))[0]
	for n, wait := range []float64{1, 2, 4, 8, 16, 32, 60, 60} {
		execute(t, pool, `UPDATE outbox.messages SET available_at = now()`)
		m := claim(t, store, request()).Messages
		require.Len(t, m, 1)
		o, err := store.PutBack(t.Context(), outbox.PutBack{Ref: ref(id), LastError: fmt.Sprint("503, number ", n)})
		require.NoError(t, err)
		require.Equal(t, outflow.Pending, o.State)
		<-m[0].Settled
		s := stands(t, pool, id)
		require.Zero(t, s.Claims)
		require.Equal(t, n+1, s.Attempts)
		require.InDelta(t, wait, s.LeasedFor, 1)
		require.Equal(t, fmt.Sprint("503, number ", n), *s.LastError)
	}
	for name, set := range map[string]string{"a later generation": `generation = 2`,
		"final": `state = 'dead', finished_at = now()`} {
		id := row(t, pool, set+`, claims = 3, available_at = now() + interval '1 hour'`)
		before := stands(t, pool, id)
		_, err := store.PutBack(t.Context(), outbox.PutBack{Ref: ref(id), LastError: "503"})
		require.NoError(t, err, name)
		after := stands(t, pool, id)
		before.LeasedFor, after.LeasedFor = 0, 0
		require.Equal(t, before, after, name)
	}
	live := row(t, pool, `retrying = true, available_at = now() + interval '1 hour'`)
	_, err := store.PutBack(t.Context(), outbox.PutBack{Ref: ref(live), LastError: "503"})
	require.NoError(t, err)
	require.Greater(t, stands(t, pool, live).LeasedFor, 3000.0, "off the fast path: a live run's lease")
}

// Free acts on the row that was seen, and on no later state of it.
func TestReleaseGuards(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	for name, c := range map[string]struct {
		set   string
		freed bool
	}{
		"as it was seen":     {`claims = claims`, true},
		"a later generation": {`generation = 2`, false},
		"a later lease":      {`available_at = available_at + interval '1 second'`, false},
		"ended":              {`state = 'dead', finished_at = now(), retrying = false`, false},
	} {
		t.Run(name, func(t *testing.T) {
			id := row(t, pool, `retrying = true, available_at = now() + interval '1 hour'`)
			seen := leased(t, pool, id)
			execute(t, pool, `UPDATE outbox.messages SET `+c.set+` WHERE id = $1`, id)
			before := stands(t, pool, id)
			require.NoError(t, store.Release(t.Context(), seen))
			after := stands(t, pool, id)
			require.Equal(t, c.freed, after.LeasedFor <= 0)
			require.Equal(t, c.freed, !before.AvailableAt.Equal(after.AvailableAt))
		})
	}
}

// Between a scanner's look at the runs of a destination and what it learns of one,
// another scanner may have claimed the message: that start is on its way.
func TestReleaseLeavesALaterClaim(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	id := enqueue(t, pool, message("sqs://a"))[0]
	execute(t, pool, `UPDATE outbox.messages SET retrying = true`)
	seen := retryingOf(t, pool, store, "sqs://a")
	require.Len(t, claim(t, store, request()).Messages, 1)
	require.NoError(t, store.Release(t.Context(), seen[0]))
	require.Greater(t, stands(t, pool, id).LeasedFor, 30.0)
}

func TestGiveBack(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	one := func(t *testing.T) outbox.ClaimedMessage {
		t.Helper()
		execute(t, pool, `TRUNCATE outbox.messages`)
		enqueue(t, pool, message("sqs://a"))
		return claim(t, store, request()).Messages[0]
	}
	t.Run("released: due again, not counted", func(t *testing.T) {
		m := one(t)
		require.NoError(t, store.GiveBack(t.Context(), m, outbox.NotStarted))
		s := stands(t, pool, m.ID)
		require.Zero(t, s.Claims)
		require.LessOrEqual(t, s.LeasedFor, 0.0)
		require.Equal(t, []uuid.UUID{m.ID}, idsOf(claim(t, store, request())))
	})
	t.Run("uncounted: still leased", func(t *testing.T) {
		m := one(t)
		require.NoError(t, store.GiveBack(t.Context(), m, outbox.RunOpen))
		s := stands(t, pool, m.ID)
		require.Zero(t, s.Claims)
		require.True(t, s.AvailableAt.Equal(m.LeasedUntil))
	})
	t.Run("released after its lease was moved", func(t *testing.T) {
		m := one(t)
		_, err := store.Renew(t.Context(), outbox.Renewal{Ref: m.Ref(), Lease: time.Hour})
		require.NoError(t, err)
		require.NoError(t, store.GiveBack(t.Context(), m, outbox.NotStarted))
		s := stands(t, pool, m.ID)
		require.Zero(t, s.Claims)
		require.InDelta(t, time.Hour.Seconds(), s.LeasedFor, 30)
	})
	t.Run("never below zero", func(t *testing.T) {
		m := one(t)
		require.NoError(t, store.GiveBack(t.Context(), m, outbox.RunOpen))
		require.NoError(t, store.GiveBack(t.Context(), m, outbox.RunOpen))
		require.Zero(t, stands(t, pool, m.ID).Claims)
	})
	t.Run("of another generation", func(t *testing.T) {
		m := one(t)
		execute(t, pool, `UPDATE outbox.messages SET generation = 2`)
		require.NoError(t, store.GiveBack(t.Context(), m, outbox.NotStarted))
		s := stands(t, pool, m.ID)
		require.Equal(t, 1, s.Claims)
		require.True(t, s.AvailableAt.Equal(m.LeasedUntil))
	})
	t.Run("ended meanwhile", func(t *testing.T) {
		m := one(t)
		_, err := store.Finish(t.Context(), outbox.Ending{Ref: m.Ref(), State: outflow.Delivered})
		require.NoError(t, err)
		require.NoError(t, store.GiveBack(t.Context(), m, outbox.NotStarted))
		require.Equal(t, 1, stands(t, pool, m.ID).Claims)
	})
	t.Run("gone", func(t *testing.T) {
		m := one(t)
		execute(t, pool, `DELETE FROM outbox.messages`)
		require.NoError(t, store.GiveBack(t.Context(), m, outbox.NotStarted))
	})
	t.Run("many at once, in few statements", func(t *testing.T) {
		execute(t, pool, `TRUNCATE outbox.messages`)
		ids := enqueue(t, pool, messages("sqs://a", 100)...)
		watched, statements := traced(t, pool)
		store := outboxdb.New(watched)
		claimed := claim(t, store, request())
		statements.take()
		var all sync.WaitGroup
		for _, m := range claimed.Messages {
			all.Go(func() {
				if err := store.GiveBack(t.Context(), m, outbox.NotStarted); err != nil {
					t.Error(err)
				}
			})
		}
		all.Wait()
		require.Less(t, len(statements.take()), 25)
		again := idsOf(claim(t, store, request()))
		slices.SortFunc(again, func(a, b uuid.UUID) int { return slices.Compare(a[:], b[:]) })
		require.Equal(t, ids, again)
	})
}

func TestMakeWay(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	for _, c := range []struct {
		name, set string
		yields    bool
	}{
		{"started again and leased", `generation = 2, available_at = now() + interval '1 hour'`, true},
		{"two generations on", `generation = 3, available_at = now() + interval '1 hour'`, true},
		{"due already", `generation = 2, available_at = now() - interval '1 hour'`, false},
		{"due before its old run has closed", `generation = 2, available_at = now() + interval '0.9 seconds'`, false},
		{"its own generation", `available_at = now() + interval '1 hour'`, false},
		{"in a durable attempt", `generation = 2, retrying = true, available_at = now() + interval '1 hour'`, false},
		{"ended", `generation = 2, state = 'dead', finished_at = now(), available_at = now() + interval '1 hour'`,
			false},
	} {
		t.Run(c.name, func(t *testing.T) {
			id := row(t, pool, c.set)
			before, began := stands(t, pool, id), value[time.Time](t, pool, `SELECT clock_timestamp()`)
			require.NoError(t, makeWay(t.Context(), store, ref(id)))
			after := stands(t, pool, id)
			if c.yields {
				require.False(t, after.AvailableAt.Before(began.Add(time.Second)), "its old run has a second to close")
				require.LessOrEqual(t, after.LeasedFor, 1.0)
				require.Greater(t, after.LeasedFor, -30.0)
				after.AvailableAt = before.AvailableAt
			}
			before.LeasedFor, after.LeasedFor = 0, 0
			require.Equal(t, before, after, "nothing else changes")
		})
	}
	t.Run("rescheduled meanwhile", func(t *testing.T) {
		id := row(t, pool, `generation = 2, due_at = now() + interval '1 hour',
		    available_at = now() + interval '2 hours'`)
		require.NoError(t, makeWay(t.Context(), store, ref(id)))
		require.True(t, value[bool](t, pool, `SELECT available_at = due_at FROM outbox.messages WHERE id = $1`, id))
	})
	require.NoError(t, makeWay(t.Context(), store, ref(uuid.New())), "no row")
}

// A row that ends, or begins its next generation, after a statement's snapshot and before its lock is
// left as it is.
func TestRowsThatChangeUnderAStatement(t *testing.T) {
	t.Parallel()
	for name, statement := range map[string]string{
		"put back":                   outboxdb.StatementPutBack,
		"put back, as it is missing": outboxdb.StatementPutBackMissing,
	} {
		for change, sql := range map[string]string{
			"ends":             `UPDATE outbox.messages SET state = 'delivered', finished_at = now()`,
			"is another's now": `UPDATE outbox.messages SET generation = 2`,
		} {
			t.Run(name+" "+change, func(t *testing.T) {
				t.Parallel()
				pool := teststack.New(t)
				id := enqueue(t, pool, message("sqs://missing"))[0]
				args := []any{[]uuid.UUID{id}, []int32{1}, []string{"changed"}, []int32{7}}
				if statement == outboxdb.StatementPutBackMissing {
					args = append(args, []time.Duration{time.Hour})
				}
				const locks = "FROM outbox.messages AS m\n"
				slow := strings.Replace(statement, locks, strings.TrimSpace(locks)+" CROSS JOIN (SELECT pg_sleep(3)) AS pause\n", 1)
				require.NotEqual(t, statement, slow)
				ended := make(chan error, 1)
				go func() { _, err := pool.Exec(context.WithoutCancel(t.Context()), slow, args...); ended <- err }()
				waitFor(t, pool, `SELECT EXISTS (SELECT FROM pg_stat_activity
					WHERE datname = current_database() AND wait_event = 'PgSleep')`)
				execute(t, pool, sql)
				before := stands(t, pool, id)
				require.NoError(t, <-ended)
				after := stands(t, pool, id)
				before.LeasedFor, after.LeasedFor = 0, 0 // from now
				require.Equal(t, before, after)
			})
		}
	}
}

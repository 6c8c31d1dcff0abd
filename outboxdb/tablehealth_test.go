package outboxdb_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/outboxdb"
)

func TestTableHealth(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	ended(t, pool, outflow.Delivered, "3 hours", 500)
	execute(t, pool, `DELETE FROM outbox.messages WHERE seq % 2 = 0`)
	execute(t, pool, `VACUUM ANALYZE outbox.messages`)
	health := func(heldFor time.Duration) outbox.TableHealth {
		h, err := store.TableHealth(t.Context(), heldFor)
		require.NoError(t, err)
		return h
	}
	require.Eventually(t, func() bool { h := health(hour); return !h.LastVacuum.IsZero() && h.LiveRows == 250 },
		10*time.Second, 10*time.Millisecond)
	h := health(hour)
	require.Zero(t, h.DeadRows)
	require.Positive(t, h.TableBytes)
	require.Positive(t, h.IndexBytes)
	require.Empty(t, h.Held)

	other := another(t, pool, func(c *pgxpool.Config) { c.ConnConfig.RuntimeParams["application_name"] = "month's report" })
	held := func(hold ...string) (outbox.HeldSnapshot, string) {
		conn, err := other.Acquire(t.Context())
		require.NoError(t, err)
		defer conn.Release()
		for _, statement := range hold {
			_, err = conn.Exec(t.Context(), statement)
			require.NoError(t, err)
		}
		defer func() {
			_, err := conn.Exec(t.Context(), `ROLLBACK`)
			require.NoError(t, err)
		}()
		require.Empty(t, health(hour).Held, "not so old")
		for _, h := range health(0).Held {
			if h.Name == "month's report" {
				return h, h.Advice()
			}
		}
		return outbox.HeldSnapshot{}, ""
	}
	got, advice := held(`BEGIN ISOLATION LEVEL REPEATABLE READ`, `SELECT 1`)
	require.Equal(t, "session", got.Holder)
	require.Equal(t, "idle in transaction", got.State)
	require.Positive(t, got.PID)
	require.GreaterOrEqual(t, got.Seconds, int64(0))
	require.Contains(t, advice, fmt.Sprintf("pg_terminate_backend(%d)", got.PID))
	got, _ = held(`BEGIN`, `INSERT INTO outbox.audit (act, who) VALUES ('retry', 'ada')`)
	require.Equal(t, "session", got.Holder, "what has written holds back too")
	got, _ = held(`BEGIN`, `SELECT 1`)
	require.Empty(t, got, "between two statements, READ COMMITTED holds nothing")
}

// A role that may not see other roles' sessions knows their age only from what
// they hold back; docs/retention.md names the right that it needs.
func TestTableHealthWithoutRights(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	role := newRole(t, pool)
	execute(t, pool, `GRANT USAGE ON SCHEMA outbox TO `+role)
	store := outboxdb.New(withRole(t, pool, role))
	holder, err := pool.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = holder.Rollback(t.Context()) }()
	_, err = holder.Exec(t.Context(), `INSERT INTO outbox.audit (act, who) VALUES ('retry', 'ada')`)
	require.NoError(t, err)
	h, err := store.TableHealth(t.Context(), 0)
	require.NoError(t, err)
	require.Empty(t, h.Held, "its age is unknown, and it holds back little")

	execute(t, pool, `GRANT pg_read_all_stats TO `+role)
	h, err = store.TableHealth(t.Context(), 0)
	require.NoError(t, err)
	require.Len(t, h.Held, 1)
	require.Equal(t, "idle in transaction", h.Held[0].State)
}

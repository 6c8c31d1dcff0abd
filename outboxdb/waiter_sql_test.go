package outboxdb_test

import (
	"log/slog"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/outboxdb"
)

// TestWaiterSQL waits over database/sql: by looking alone, and by listening where it
// is told on which connection.
func TestWaiterSQL(t *testing.T) {
	t.Parallel()
	for name := range teststack.OpenSQL(t, teststack.NewEmpty(t)) {
		for how, listens := range map[string]bool{"looks": false, "listens": true} {
			t.Run(name+" "+how, func(t *testing.T) {
				t.Parallel()
				pool := teststack.New(t)
				options := []outboxdb.WaiterOption{outboxdb.PollEvery(time.Hour), outboxdb.LogTo(slog.New(slog.DiscardHandler))}
				if listens {
					options = append(options, outboxdb.ListenOn(pool.Config().ConnConfig))
				}
				db := teststack.OpenSQL(t, pool)[name]
				w := outboxdb.NewWaiterSQL(db, options...)
				w.SetSettle(100 * time.Millisecond)
				t.Cleanup(w.Close)
				ids := enqueue(t, pool, messages("sqs://orders", 3)...)
				deliver(t, pool, ids[0])
				outcome := requireAnswer(t, wait(t, w, ids[0]))
				require.Equal(t, outflow.Delivered, outcome.State)
				require.WithinDuration(t, time.Now(), outcome.FinishedAt, time.Minute)
				answers := wait(t, w, ids[1])
				if listens {
					hears(t, w)
				}
				other := wait(t, w, ids[2])
				deliver(t, pool, ids[1])
				requireAnswer(t, answers)
				requireNoAnswer(t, other)
				require.Equal(t, listens, w.Hears())
				if !listens {
					require.Zero(t, listening(t, pool))
				}
				_, err := w.Wait(t.Context(), [16]byte{1})
				require.ErrorIs(t, err, outflow.ErrNotFound)
			})
		}
	}
}

// TestWaiterSQLWithoutRights ends a wait that no later look can answer, whatever the
// driver's type of errors.
func TestWaiterSQLWithoutRights(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	id := enqueue(t, pool, message("sqs://orders"))[0]
	role := newRole(t, pool)
	stranger := another(t, pool, func(c *pgxpool.Config) { c.ConnConfig.User, c.ConnConfig.Password = role, role })
	for name, db := range teststack.OpenSQL(t, stranger) {
		w := outboxdb.NewWaiterSQL(db)
		t.Cleanup(w.Close)
		_, err := w.Wait(t.Context(), id)
		require.ErrorContains(t, err, "permission denied", name)
	}
}

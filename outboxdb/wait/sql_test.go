package wait_test

import (
	"log/slog"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/outboxdb/wait"
)

// TestSQL waits over database/sql: by polling only, and by listening on the connection that
// ListenOn names.
func TestSQL(t *testing.T) {
	t.Parallel()
	for name := range teststack.OpenSQL(t, teststack.NewEmpty(t)) {
		for how, listens := range map[string]bool{"polls": false, "listens": true} {
			t.Run(name+" "+how, func(t *testing.T) {
				t.Parallel()
				pool := teststack.New(t)
				options := []wait.Option{wait.PollEvery(time.Hour), wait.LogTo(slog.New(slog.DiscardHandler))}
				if listens {
					options = append(options, wait.ListenOn(pool.Config().ConnConfig))
				}
				db := teststack.OpenSQL(t, pool)[name]
				w := wait.NewSQL(db, options...)
				w.SetSettle(100 * time.Millisecond)
				t.Cleanup(w.Close)
				ids := enqueue(t, pool, 3)
				deliver(t, pool, ids[0])
				outcome := requireAnswer(t, startWait(t, w, ids[0]))
				require.Equal(t, outflow.Delivered, outcome.State)
				require.WithinDuration(t, time.Now(), outcome.FinishedAt, time.Minute)
				answers := startWait(t, w, ids[1])
				if listens {
					requireNotified(t, w)
				}
				other := startWait(t, w, ids[2])
				deliver(t, pool, ids[1])
				requireAnswer(t, answers)
				requireNoAnswer(t, other)
				require.Equal(t, listens, w.Notified())
				if !listens {
					require.Zero(t, listening(t, pool))
				}
				_, err := w.Wait(t.Context(), [16]byte{1})
				require.ErrorIs(t, err, outflow.ErrNotFound)
			})
		}
	}
}

// TestSQLWithoutRights ends a wait that no later poll can answer, whatever the driver's type
// of errors.
func TestSQLWithoutRights(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	id := enqueue(t, pool, 1)[0]
	role := teststack.NewRole(t, pool)
	stranger := teststack.WithRole(t, pool, role)
	for name, db := range teststack.OpenSQL(t, stranger) {
		w := wait.NewSQL(db)
		t.Cleanup(w.Close)
		_, err := w.Wait(t.Context(), id)
		require.ErrorContains(t, err, "permission denied", name)
	}
}

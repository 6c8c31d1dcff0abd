package e2e

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The harness is believed only because it finds what is wrong.
func TestTallyFindsWhatIsLostAndWhatIsDouble(t *testing.T) {
	w := newWorld(t)
	load := w.StartLoad(rate, "sqs://orders")
	w.eventually(20*time.Second, "some are committed", func() bool { return load.Committed() >= 10 })
	load.Stop()
	tally, err := load.Tally(t.Context(), "orders")
	require.NoError(t, err)
	require.Equal(t, load.Committed(), tally.Lost, "nothing works on the outbox")

	w.start("outflow-starter")
	_, err = w.Drain(t.Context())
	require.NoError(t, err)
	tally, err = load.Tally(t.Context(), "orders")
	require.NoError(t, err)
	require.Equal(t, load.Committed(), tally.Delivered)
	require.Zero(t, tally.Lost)
	require.Zero(t, tally.Duplicates)

	_, err = w.pool.Exec(t.Context(), "DELETE FROM outbox.messages WHERE seq = (SELECT min(seq) FROM outbox.messages)")
	require.NoError(t, err)
	// And one that is sent once more.
	_, err = w.pool.Exec(t.Context(), `UPDATE outbox.messages SET state = 'pending', finished_at = NULL, broker_message_id = NULL, available_at = now()
		WHERE seq = (SELECT max(seq) FROM outbox.messages)`)
	require.NoError(t, err)
	_, err = w.Drain(t.Context())
	require.NoError(t, err)
	tally, err = load.Tally(t.Context(), "orders")
	require.NoError(t, err)
	require.Equal(t, 1, tally.Lost, "its row is gone: %v", tally.LostIDs)
	require.Equal(t, 1, tally.Duplicates)
}

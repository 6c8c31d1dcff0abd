package e2e

import (
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow/devstack/faults"
)

// A process dies at each point between publish, mark and callback: every producer
// is notified, and no callback makes a message go out again. "make chaos ONLY=callback"
// does it a hundred times.
func TestKilledBetweenPublishMarkAndCallback(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	a, err := faults.NewAmbush(t.Context(), shared, w.World, binaries)
	require.NoError(t, err)
	t.Cleanup(func() {
		require.NoError(t, a.Close())
		for _, agent := range a.Agents {
			if t.Failed() {
				t.Logf("%s said:\n%s", agent.ID, agent.Said())
			}
		}
	})
	load := a.StartLoad(6)
	t.Cleanup(load.Stop)
	require.NoError(t, a.Run(t.Context(), faults.Moments[:len(faults.Points)], len(faults.Points), 500*time.Millisecond,
		t.Logf))
	load.Stop()
	report, err := a.Settle(t.Context(), load)
	require.NoError(t, err)
	killed := map[string]int{}
	for _, line := range report.Lines {
		t.Log(line)
		require.NotZero(t, line.Enqueued)
		for program, n := range line.Killed {
			killed[program] += n
		}
		if line.Point != faults.NotMarked && line.Point != faults.Beside {
			require.NotZero(t, line.Struck)
		}
	}
	require.Positive(t, killed[faults.Starter], "starters killed")
	require.Positive(t, killed[faults.Worker], "workers killed")
	t.Logf("the last callback came %s after the load", report.Drain)
	require.NoError(t, report.Err())

	// The report is believed only because it finds what is wrong.
	w.sendOnceMore()
	_, err = w.pool.Exec(t.Context(), "UPDATE outbox.messages SET callback_state = 'failed' WHERE seq = (SELECT max(seq) FROM outbox.messages)")
	require.NoError(t, err)
	report, err = a.Settle(t.Context(), load)
	require.NoError(t, err)
	var lost, afterMark int
	for _, line := range report.Lines {
		lost += line.Lost
		afterMark += line.AfterMark
	}
	require.Equal(t, 1, lost)
	require.Equal(t, 1, afterMark)
	require.Error(t, report.Err())
}

// sendOnceMore has SQS take a copy of a message that has ended.
func (w *world) sendOnceMore() {
	w.t.Helper()
	var id string
	require.NoError(w.t, w.pool.QueryRow(w.t.Context(),
		"SELECT id::text FROM outbox.messages WHERE state = 'delivered' ORDER BY seq LIMIT 1").Scan(&id))
	body := `{"QueueUrl": "http://sqs/000000000000/orders", "Entries": [{"Id": "0", "MessageBody": "{}",
		"MessageAttributes": {"outflow-message-id": {"DataType": "String", "StringValue": "` + id + `"}}}]}`
	request, err := http.NewRequestWithContext(w.t.Context(), http.MethodPost, "http://"+w.SQS.Address(),
		strings.NewReader(body))
	require.NoError(w.t, err)
	request.Header.Set("X-Amz-Target", "AmazonSQS.SendMessageBatch")
	answer, err := http.DefaultClient.Do(request)
	require.NoError(w.t, err)
	require.NoError(w.t, answer.Body.Close())
	require.Equal(w.t, http.StatusOK, answer.StatusCode)
}

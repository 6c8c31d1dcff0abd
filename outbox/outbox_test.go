package outbox_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/outbox"
)

func TestOutcomeOfARecord(t *testing.T) {
	t.Parallel()
	id := uuid.New()
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	r := outbox.Record{Message: outflow.Message{ID: id, Payload: []byte("personal data")}, State: outflow.Dead,
		Generation: 3, Attempts: 4,
		BrokerMessageID: "b", LastError: "e", FinishedAt: at}
	require.Equal(t, outbox.Ref{ID: id, Generation: 3}, r.Ref())
	require.Equal(t, outflow.Outcome{ID: id, State: outflow.Dead, Generation: 3, Attempts: 4, BrokerMessageID: "b",
		LastError: "e", FinishedAt: at}, r.Outcome())

	// Outcomes are kept in workflow histories: their names are for good.
	encoded, err := json.Marshal(r.Outcome())
	require.NoError(t, err)
	require.JSONEq(t, `{"id": "`+id.String()+`", "state": "dead", "generation": 3, "attempts": 4, "brokerMessageId": "b", "lastError": "e",
		"finishedAt": "2026-01-02T03:04:05Z"}`, string(encoded))
	encoded, err = json.Marshal(outflow.Outcome{ID: id, State: outflow.Pending, Generation: 1})
	require.NoError(t, err)
	require.JSONEq(t, `{"id": "`+id.String()+`", "state": "pending", "generation": 1}`, string(encoded))
}

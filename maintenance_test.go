package outflow_test

import (
	"encoding/json"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
)

func TestKeep(t *testing.T) {
	for text, want := range map[string]time.Duration{
		"forever": 0, "1m": time.Minute, "168h": 168 * time.Hour, "30d": 720 * time.Hour, "1h30m": 90 * time.Minute, "3650d": 87600 * time.Hour,
	} {
		k, err := outflow.ParseKeep(text)
		require.NoError(t, err, text)
		assert.Equal(t, want, time.Duration(k), text)
		again, err := outflow.ParseKeep(k.String())
		require.NoError(t, err)
		assert.Equal(t, k, again, "%s survives as %s", text, k)
	}
	for _, text := range []string{"", "0", "59s", "-1h", "3651d", "0d", "-3d", "1.5d", "d", "87601h", "for ever", "99999999999999999999d", "1w"} {
		_, err := outflow.ParseKeep(text)
		require.ErrorContains(t, err, "from 1m to 3650d", text)
	}
}

func TestRetentionIsReadable(t *testing.T) {
	data, err := json.Marshal(outflow.DefaultRetention())
	require.NoError(t, err)
	assert.JSONEq(t, `{"delivered":"7d","dead":"forever","expired":"30d","cancelled":"30d","history":false}`, string(data))
	var back outflow.Retention
	require.NoError(t, json.Unmarshal(data, &back))
	assert.Equal(t, outflow.DefaultRetention(), back)
	require.ErrorContains(t, json.Unmarshal([]byte(`{"dead":"soon"}`), &back), "wants")
}

func TestAdvice(t *testing.T) {
	session := outflow.HeldSnapshot{Holder: "session", Name: "report", PID: 42, User: "ada", State: "idle in transaction", Seconds: 5400, Transactions: 7}
	assert.Equal(t, `session 42 of application "report", user "ada" (idle in transaction) has held a snapshot for 1h30m0s, 7 transactions: `+
		`vacuum can't remove rows that died since, and claims slow down; end its transaction, or SELECT pg_terminate_backend(42)`, session.Advice())
	slot := outflow.HeldSnapshot{Holder: "replication slot", Name: "standby", Seconds: -1}
	assert.Contains(t, slot.Advice(), `replication slot "standby" has held a snapshot for an unknown time`)
	assert.Contains(t, slot.Advice(), "pg_drop_replication_slot")
	assert.Contains(t, outflow.HeldSnapshot{Holder: "prepared transaction"}.Advice(), "ROLLBACK PREPARED")
}

func TestHeldFor(t *testing.T) {
	for _, c := range []struct {
		seconds, transactions int64
		old                   bool
	}{{299, 5_000_000, false}, {300, 0, true}, {-1, 999_999, false}, {-1, 1_000_000, true}} {
		assert.Equal(t, c.old, outflow.HeldSnapshot{Seconds: c.seconds, Transactions: c.transactions}.HeldFor(5*time.Minute), "%+v", c)
	}
}

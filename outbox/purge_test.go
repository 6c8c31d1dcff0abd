package outbox_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/outflowhq/outflow/outbox"
)

func TestAdvice(t *testing.T) {
	session := outbox.HeldSnapshot{Holder: "session", Name: "report", PID: 42, User: "ada",
		State: "idle in transaction", Seconds: 5400, Transactions: 7}
	assert.Equal(t, `session 42 of application "report", user "ada" (idle in transaction) has held a snapshot for 1h30m0s, 7 transactions: `+
		`vacuum can't remove rows that died since, and claims slow down; end its transaction, or SELECT pg_terminate_backend(42)`, session.Advice())
	slot := outbox.HeldSnapshot{Holder: "replication slot", Name: "standby", Seconds: -1}
	assert.Contains(t, slot.Advice(), `replication slot "standby" has held a snapshot for an unknown time`)
	assert.Contains(t, slot.Advice(), "pg_drop_replication_slot")
	assert.Contains(t, outbox.HeldSnapshot{Holder: "prepared transaction"}.Advice(), "ROLLBACK PREPARED")
}

func TestHeldFor(t *testing.T) {
	for _, c := range []struct {
		seconds, transactions int64
		old                   bool
	}{{299, 5_000_000, false}, {300, 0, true}, {-1, 999_999, false}, {-1, 1_000_000, true}} {
		assert.Equal(t, c.old, outbox.HeldSnapshot{Seconds: c.seconds,
			Transactions: c.transactions}.HeldFor(5*time.Minute), "%+v", c)
	}
}

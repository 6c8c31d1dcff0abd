package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow/internal/teststack"
)

// Dead messages are dismissed by ID and by filter, with the database only. Afterwards doctor and
// status leave them out, and nothing of them is lost.
func TestDismissOnARealTable(t *testing.T) {
	pool := teststack.New(t)
	settings := map[string]string{"DATABASE_URL": pool.Config().ConnString(), "TEMPORAL_ADDRESS": "127.0.0.1:1",
		"OUTFLOW_WHO": "ada@host"}
	outflowRun := func(line string) (string, int) {
		out, errs, err := with(t, settings, "", line)
		return out + errs, code(err)
	}
	for i := range 150 {
		_, err := pool.Exec(t.Context(), `SELECT outbox.enqueue($1, 'order-placed', '{}')`,
			fmt.Sprintf("sqs://q%d", i%2))
		require.NoError(t, err)
	}
	_, err := pool.Exec(t.Context(), `UPDATE outbox.messages SET state = 'dead', finished_at = now(), last_error = 'no such queue'`)
	require.NoError(t, err)
	out, _ := outflowRun("doctor")
	require.Contains(t, out, "sqs://q1: 75 dead")

	out, exit := outflowRun("dismiss -state dead -destination sqs://q0 -why retired -rate 2000")
	assert.Equal(t, 2, exit, "nobody to ask: %s", out)
	out, exit = outflowRun("dismiss -state dead -destination sqs://q0 -why retired -yes")
	assert.Zero(t, exit, out)
	assert.Equal(t, 75, strings.Count(out, "was dead, dismissed\n"))
	assert.Contains(t, out, "messages selected: 75\n")
	out, _ = outflowRun("doctor")
	assert.NotContains(t, out, "sqs://q0: 75 dead")
	assert.Contains(t, out, "sqs://q1: 75 dead")

	// One by ID.
	var id uuid.UUID
	require.NoError(t, pool.QueryRow(t.Context(),
		`SELECT id FROM outbox.messages WHERE destination = 'sqs://q1' LIMIT 1`).Scan(&id))
	out, exit = outflowRun("dismiss -why duplicate " + id.String())
	assert.Zero(t, exit)
	assert.Equal(t, id.String()+"  was dead, dismissed\n", out)
	out, exit = outflowRun("dismiss -why duplicate " + id.String())
	assert.Zero(t, exit)
	assert.Contains(t, out, "dismissed before, at ")
	out, exit = outflowRun("show " + id.String())
	assert.Zero(t, exit)
	assert.Regexp(t, `(?m)^state +dismissed$`, out)
	assert.Regexp(t, `(?m)^last error +no such queue$`, out)
	assert.Regexp(t, `audit +\S+ dismiss by ada@host \(login outflow\): duplicate\n`, out)

	// No filter selects dismissed messages, except -dismissed.
	out, exit = outflowRun("dismiss -state dead -why retired -yes -limit 1000")
	assert.Zero(t, exit)
	assert.Equal(t, 74, strings.Count(out, "was dead, dismissed\n"))
	out, exit = outflowRun("retry -state dead -yes")
	assert.Zero(t, exit)
	assert.Equal(t, "messages selected: 0\n", out)
	out, _ = outflowRun("list -state dead -limit 1000")
	assert.Equal(t, 150, strings.Count(out, "  dismissed  "))
	out, _ = outflowRun("doctor")
	assert.Contains(t, out, "no message is dead, but for dismissed ones")
	assert.NotContains(t, out, "warn  dead")
	out, _ = outflowRun("status")
	assert.Regexp(t, `(?m)^sqs://q1 +0 +0 +0 +0 +0 +- +0 +75 +0 +0 +0$`, out)

	out, exit = outflowRun("dismiss -undo -why mistaken " + id.String())
	assert.Zero(t, exit)
	assert.Contains(t, out, "was dismissed, dead again")
	out, _ = outflowRun("list -dismissed -limit 1000")
	assert.Equal(t, 149, strings.Count(out, "  dismissed  "))
	out, exit = outflowRun("retry -dismissed -destination sqs://q0 -yes")
	assert.Zero(t, exit)
	assert.Equal(t, 75, strings.Count(out, "was dismissed, pending again\n"))
	out, exit = outflowRun("purge -state dead -dismissed -older-than 0s -yes")
	assert.Zero(t, exit)
	assert.Equal(t, "deleted 74 messages\n", out)
	out, exit = outflowRun("dismiss -why late " + uuid.NewString())
	assert.Equal(t, 3, exit)
	assert.Contains(t, out, "not found")
}

package main

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow/internal/teststack"
)

// Bulk acts on a real table, while Temporal and the broker are away.
func TestCommandsWithOnlyTheDatabase(t *testing.T) {
	pool := teststack.New(t)
	settings := map[string]string{
		"DATABASE_URL": pool.Config().ConnString(), "TEMPORAL_ADDRESS": "127.0.0.1:1", "OUTFLOW_LEASE": "nonsense", "OUTFLOW_WHO": "ada@host",
	}
	outflowRun := func(stdin, line string) (string, string, int) {
		out, errs, err := with(t, settings, stdin, line)
		return out, errs, code(err)
	}
	for i := range 7 {
		out, errs, exit := outflowRun(fmt.Sprintf("order %d", i),
			"send -destination sqs://orders --type order-placed -header tenant=a -json")
		require.Zero(t, exit, errs)
		require.Contains(t, out, `{"id":"`)
	}
	_, err := pool.Exec(t.Context(), `UPDATE outbox.messages SET state = 'dead', finished_at = now(), last_error = 'no such queue'`)
	require.NoError(t, err)
	_, _, exit := outflowRun("", "retry -state dead -limit 5")
	assert.Equal(t, 2, exit, "nobody to ask")
	out, errs, exit := outflowRun("", "retry -state dead -destination sqs://orders -limit 5 -rate 1000 -yes -why fixed")
	assert.Zero(t, exit)
	assert.Equal(t, 5, strings.Count(out, "was dead, pending again"))
	assert.Contains(t, errs, "messages selected: 5, and there are more\n")
	var audited int
	require.NoError(t, pool.QueryRow(t.Context(),
		`SELECT count(*) FROM outbox.audit WHERE act = 'retry' AND who = 'ada@host' AND why = 'fixed' AND generation = 2`).Scan(&audited))
	assert.Equal(t, 5, audited)

	out, _, exit = outflowRun("", "redirect -state dead -to sqs://other -yes -json")
	assert.Zero(t, exit)
	assert.Equal(t, 2, strings.Count(out, `"verdict":"done"`))
	out, _, exit = outflowRun("", "status -json")
	assert.Zero(t, exit)
	assert.Contains(t, out, `"destination": "sqs://other"`)

	id, errs, exit := outflowRun("", "send -destination sqs://orders -type a -payload x -id 0198f3a2-5b1c-7000-8000-000000000001")
	require.Zero(t, exit, errs)
	_, _, exit = outflowRun("", "send -destination sqs://orders -type a -payload x -id "+strings.TrimSpace(id))
	assert.Equal(t, 3, exit, "it exists")
	_, _, exit = outflowRun("", "send -destination nonsense -type a -payload x")
	assert.Equal(t, 2, exit)
	_, _, exit = outflowRun("", "send -destination sqs://orders -type a")
	assert.Equal(t, 2, exit, "an empty payload")
	out, _, exit = outflowRun("", "show "+id+" --payload")
	assert.Zero(t, exit)
	assert.Contains(t, out, "connecting to Temporal at 127.0.0.1:1")
	assert.True(t, strings.HasSuffix(out, "\n\nx\n"))
	out, _, exit = outflowRun("", "wait "+id+" -timeout 200ms")
	assert.Equal(t, 4, exit)
	assert.Equal(t, strings.TrimSpace(id)+"  due\n", out)
	waited := make(chan int)
	go func() {
		_, _, exit := outflowRun("", "wait "+id+" -timeout 1m -json")
		waited <- exit
	}()
	require.Eventually(t, func() bool {
		var waits bool
		err := pool.QueryRow(t.Context(), `SELECT EXISTS (SELECT FROM outbox.waiters)`).Scan(&waits)
		return err == nil && waits
	}, 20*time.Second, 10*time.Millisecond)
	_, _, exit = outflowRun("", "cancel "+id)
	assert.Zero(t, exit)
	assert.Equal(t, 3, <-waited)
	out, _, exit = outflowRun("", "doctor")
	assert.Equal(t, 1, exit)
	assert.Contains(t, out, "fail  temporal")
}

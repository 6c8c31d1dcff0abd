package main

import (
	"bytes"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow/internal/teststack"
)

// A purge asks who is at a terminal, and deletes nothing before the answer.
func TestPurgeAsks(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	settings := map[string]string{"DATABASE_URL": pool.Config().ConnString(), "OUTFLOW_WHO": "ada@host"}
	for range 3 {
		_, errs, err := with(t, settings, "x", "send -destination sqs://orders -type order-placed")
		require.NoError(t, err, errs)
	}
	_, err := pool.Exec(t.Context(), `UPDATE outbox.messages SET state = 'delivered', finished_at = now() - interval '2 days'`)
	require.NoError(t, err)
	left := func() (messages, purges int) {
		require.NoError(t, pool.QueryRow(t.Context(),
			`SELECT (SELECT count(*) FROM outbox.messages), (SELECT count(*) FROM outbox.audit WHERE act = 'purge')`).Scan(&messages, &purges))
		return messages, purges
	}
	answered := func(answer string) (out, errs string, err error) {
		var stdout, stderr bytes.Buffer
		there := at(answer, &stdout, &stderr)
		there.getenv = func(name string) string { return settings[name] }
		err = there.run(t.Context(), strings.Fields("purge -state delivered -older-than 1d"))
		return stdout.String(), stderr.String(), err
	}
	const question = "delete delivered messages that ended more than 24h0m0s ago? [y/N] "
	for _, no := range []string{"n\n", "\n", "", "yes, please\n"} {
		out, errs, err := answered(no)
		assert.Equal(t, 3, code(err), "%q", no)
		assert.EqualError(t, err, "nothing was done")
		assert.Equal(t, question, errs)
		assert.Empty(t, out)
		messages, purges := left()
		assert.Equal(t, 3, messages, "%q", no)
		assert.Zero(t, purges)
	}
	out, errs, err := answered("y\n")
	require.NoError(t, err)
	assert.Equal(t, question, errs)
	assert.Equal(t, "deleted 3 messages\n", out)
	messages, purges := left()
	assert.Zero(t, messages)
	assert.Equal(t, 1, purges)
}

package operator

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// The clauses that keep a message from being sent twice or lost, and each change with its audit.
// Whoever removes a clause meets this list first, and then the test that shows why.
func TestSafetyClauses(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		statement string
		clauses   []string
	}{
		"retry": {retrySQL, []string{
			"l.state IN ('dead', 'expired', 'cancelled')", "generation = m.generation + 1", "cancel_requested = false",
		}},
		"redirect": {redirectSQL, []string{
			"l.finished_at IS NULL AND NOT l.cancel_requested AND NOT l.in_page", "generation = m.generation + 1", "retrying = false",
		}},
		"reschedule": {rescheduleSQL, []string{
			"l.finished_at IS NULL AND NOT l.cancel_requested AND NOT l.in_page", "generation = m.generation + 1",
		}},
		"release": {releaseSQL, []string{
			"l.finished_at IS NULL AND l.generation = $4::int AND l.available_at = $5::timestamptz",
		}},
		"retryCallbacks": {retryCallbacksSQL, []string{"l.callback_state = 'failed'"}},
	} {
		t.Run(name, func(t *testing.T) {
			text := strings.Join(strings.Fields(c.statement), " ")
			for _, clause := range c.clauses {
				require.Contains(t, text, clause)
			}
			require.Contains(t, c.statement, "ORDER BY m.id FOR NO KEY UPDATE", "what it decides on is what it changes")
			require.Contains(t, c.statement, "INSERT INTO outbox.audit", "no change without its audit")
		})
	}
	require.Contains(t, setRouteSQL, "< $5::bigint", "no producer's statement makes any number of copies")
	require.Contains(t, unsetRouteSQL, "$5::boolean OR (SELECT o.n FROM others AS o) > 0",
		"the last route goes by force only")
	for _, statement := range []string{
		setCallbackRuleSQL, unsetCallbackRuleSQL, setRouteSQL, unsetRouteSQL, setStreamSQL, unsetStreamSQL, noteStartSQL, noteStopSQL,
	} {
		require.Contains(t, statement, "INSERT INTO outbox.audit", "no change without its audit")
	}
}

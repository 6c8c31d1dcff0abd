package outboxdb_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow/outboxdb"
)

// The clauses that keep a row from being sent twice or lost. Whoever takes one
// away meets this list first, and then the test that shows why.
func TestSafetyClauses(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		statement string
		clauses   []string
	}{
		"claim": {outboxdb.StatementClaim, []string{
			"due AS MATERIALIZED (", "m.claims < 5", "FOR UPDATE SKIP LOCKED",
			"m.state = 'pending' AND NOT m.parked AND m.destination = d.destination",
			"m.available_at >= d.mark AND m.available_at <= now()", "ORDER BY m.available_at LIMIT d.quota",
			"WHERE m.id = ANY (ARRAY[f.id]) AND m.finished_at IS NULL", "claims = m.claims + 1",
			"available_at = now() + $8::interval, parked = true, started = true", "WHERE NOT a.open",
		}},
		"dueDestinations": {outboxdb.StatementDueDestinations, []string{
			"WHERE m.state = 'pending' AND NOT m.parked AND m.destination > w.destination",
			"coalesce(least(f.available_at, now()), now()) AS mark", "LIMIT $2",
		}},
		"unpark": {outboxdb.StatementUnpark, []string{
			"m.destination = v.destination AND m.available_at <= now()", "FOR NO KEY UPDATE SKIP LOCKED",
		}},
		"giveBack": {outboxdb.StatementGiveBack, []string{
			"m.generation = g.generation", "m.finished_at IS NULL", "m.available_at = g.leased_until",
			"greatest(m.claims - 1, 0)",
		}},
		"renew": {outboxdb.StatementRenew, []string{"m.generation = r.generation", "m.finished_at IS NULL",
			"retrying = true"}},
		"finish": {outboxdb.StatementFinish, []string{
			"m.generation = e.generation",
			"(m.finished_at IS NULL OR (e.state = 'delivered' AND m.state IN ('dead', 'expired', 'cancelled')))",
			"retrying = false",
		}},
		"putBackMissing": {outboxdb.StatementPutBackMissing, []string{
			"WHERE m.id = ANY (ARRAY[r.id]) AND NOT r.over AND m.generation = r.generation AND m.finished_at IS NULL",
		}},
		"makeWay": {outboxdb.StatementMakeWay, []string{"m.generation > $2", "m.finished_at IS NULL", "NOT m.retrying",
			"available_at = greatest(m.due_at,"}},
		"requestCancel": {outboxdb.StatementRequestCancel, []string{
			"FROM locked AS l WHERE l.untouched )",
			"m.id = ANY (ARRAY[e.id]) AND m.generation = e.generation AND (m.finished_at IS NULL OR",
			"'cancelled' AS state", "l.finished_at IS NULL AND NOT l.untouched",
		}},
		"endCancelled": {outboxdb.StatementEndCancelled, []string{
			"l.finished_at IS NULL AND l.cancel_requested AND l.available AND l.generation = $4::int",
		}},
		"beginCallback": {outboxdb.StatementBeginCallback,
			[]string{"l.generation = $2 AND l.callback_state = 'due'", "callback_due_at = now() + $3::interval"}},
		"noteCallback": {outboxdb.StatementNoteCallback, []string{
			"l.generation = $2 AND l.callback_state = 'due' AND ($3::text IS NULL OR l.state = $3::text)",
		}},
		"takeCallbacks": {outboxdb.StatementTakeCallbacks, []string{
			"m.callback_state = 'due' AND m.callback_due_at <= now()", "FOR NO KEY UPDATE SKIP LOCKED",
			"callback_due_at = now() + $2::interval",
		}},
		"takeProbes": {outboxdb.StatementTakeProbes, []string{
			"chosen AS MATERIALIZED (", "h.open_until <= now() AND (h.probe_until IS NULL OR h.probe_until <= now())",
			"FOR UPDATE OF h SKIP LOCKED", "m.available_at <= now() AND m.claims < 5",
			"probe_id = c.id, probe_until = now() + $2::interval",
		}},
		"takeRecovered": {outboxdb.StatementTakeRecovered, []string{
			"recovered AS MATERIALIZED (",
			"h.recovered_at IS NOT NULL AND (h.probe_until IS NULL OR h.probe_until <= now())",
			"FOR UPDATE SKIP LOCKED", "SET probe_until = now() + $2::interval",
		}},
		"claimPage": {outboxdb.StatementClaimPage, []string{
			"m.state = 'pending' AND NOT m.parked AND m.destination = $1",
			"m.available_at >= $2 AND m.available_at <= now()",
			"m.claims < 5 AND NOT m.retrying", "AND NOT (SELECT b.open FROM here AS b)",
			"LIMIT $3 FOR UPDATE SKIP LOCKED",
			"FROM found AS f WHERE NOT f.started",
			"a.alike AND sum(a.bytes) FILTER (WHERE a.alike) OVER placed - a.bytes < $4",
			"AND count(*) FILTER (WHERE a.alike) OVER placed <= " +
				"greatest($3::int / CASE a.claims WHEN 0 THEN 1 WHEN 1 THEN 10 WHEN 2 THEN 100 ELSE 1000 END, 1)",
			"SET retrying = true", "INSERT INTO outbox.pages",
			"parked = true, started = true, streamed = true, claims = m.claims + 1",
			"WHERE m.id = ANY (ARRAY[f.id]) AND m.finished_at IS NULL",
		}},
		"leavePage": {outboxdb.StatementLeavePage, []string{
			"started = false, streamed = false, claims = greatest(m.claims - 1, 0)", "m.generation = g.generation",
			"m.finished_at IS NULL AND m.available_at = $3",
		}},
		"handOver": {outboxdb.StatementHandOver, []string{
			"m.generation = h.generation", "m.finished_at IS NULL AND m.available_at = $3",
			"retrying = h.place <= r.rows", "AND m.attempts > 0 LIMIT $7) AS few",
		}},
		"endPage": {outboxdb.StatementEndPage, []string{
			"e.destination = $1 AND e.at = $2 AND NOT EXISTS (" +
				"SELECT FROM (SELECT $1::text AS destination, $2::timestamptz AS at) AS p, outbox.messages AS m",
			"m.available_at = p.at AND m.streamed"}},
		"freePages": {outboxdb.StatementFreePages, []string{
			"p.holder <> ALL ($2::uuid[]) AND p.claimed_at <= now() - $3::interval",
			"p.overdue_at <= now() - $4::interval",
			"CASE WHEN m.claims >= 3 THEN 5 ELSE m.claims END", "FOR NO KEY UPDATE SKIP LOCKED) AS next",
			"m.available_at = p.at AND m.streamed",
		}},
	} {
		t.Run(name, func(t *testing.T) {
			text := strings.Join(strings.Fields(c.statement), " ")
			for _, clause := range c.clauses {
				require.Contains(t, text, clause)
			}
		})
	}
	require.Contains(t, strings.Join(strings.Fields(outboxdb.StatementFinish), " "),
		"JOIN outbox.messages AS m ON m.id = ANY (ARRAY[u.id]) ORDER BY u.id FOR NO KEY UPDATE OF m SKIP LOCKED",
		"finish: rows are locked in one order, and nobody's is waited for (see TestNoDeadlock, TestLockedRow)")
	require.Contains(t, strings.Join(strings.Fields(outboxdb.StatementFinish), " "), "FROM locked AS l ), ended AS",
		"finish: only what it has locked is written")
	for name, statement := range map[string]string{"giveBack": outboxdb.StatementGiveBack,
		"renew": outboxdb.StatementRenew, "leavePage": outboxdb.StatementLeavePage,
		"handOver": outboxdb.StatementHandOver} {
		require.Contains(t, statement, "ORDER BY m.id FOR NO KEY UPDATE SKIP LOCKED",
			"%s: rows are locked in one order, and nobody's is waited for (see TestNoDeadlock, TestLockedRow)", name)
		require.Contains(t, statement, ".id = ANY (ARRAY(SELECT l.id FROM locked AS l))",
			"%s: only what it has locked is written", name)
	}
	for name, statement := range map[string]string{
		"requestCancel": outboxdb.StatementRequestCancel, "endCancelled": outboxdb.StatementEndCancelled,
	} {
		require.Contains(t, statement, "ORDER BY m.id FOR NO KEY UPDATE", "%s: what it decides on is what it changes",
			name)
		require.Contains(t, statement, "INSERT INTO outbox.audit", "%s: no change without its audit", name)
	}
	for name, statement := range map[string]string{
		"giveBack": outboxdb.StatementGiveBack, "renew": outboxdb.StatementRenew, "finish": outboxdb.StatementFinish,
		"makeWay":   outboxdb.StatementMakeWay,
		"leavePage": outboxdb.StatementLeavePage, "handOver": outboxdb.StatementHandOver,
	} {
		require.NotContains(t, statement, "m.state = 'pending'",
			"%s: this offers the planner the claim index (see TestPlans)", name)
	}
}

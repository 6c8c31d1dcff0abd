package outboxdb_test

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/outboxdb"
)

// requireIndexed fails where the table is reached by anything but an index, or
// where rows are read for nothing, or more of them sorted than the statement writes.
func requireIndexed(t *testing.T, p teststack.Plan) {
	t.Helper()
	p.Each(func(n teststack.Plan) {
		if strings.Contains(n.Node, "Sort") {
			require.LessOrEqual(t, n.Rows*n.Loops, 100.0, "it sorts more than it writes")
		}
		require.LessOrEqual(t, n.Removed*n.Loops, 50.0, "%s on %s %s reads what it does not use", n.Node, n.Table,
			n.Index)
		require.LessOrEqual(t, n.Joined*n.Loops, 50.0, "%s compares every row with every other", n.Node)
		if n.Node == "Bitmap Heap Scan" && n.Plans[0].Index == "messages_retrying" {
			return // a small index: at most some hundred rows of a destination are off the fast path
		}
		if n.Table == "messages" && n.Node != "ModifyTable" {
			require.Contains(t, []string{"Index Scan", "Index Only Scan"}, n.Node)
		}
	})
}

const (
	healthy    = 5  // destinations with a few due messages each
	keyedHeads = 20 // ordering keys, each with a follower

	// leftBehind is how many times its usual buffers a statement may touch. Statements before it were
	// rolled back, and Postgres removes their versions of the rows when it comes to it. To read all of
	// a million rows, or their index, is five thousand buffers at the least.
	leftBehind = 3
)

// TestPlans looks at what Postgres does with a million delivered messages, a million due messages of
// a paused destination and a million that wait behind one dead head, whatever it believes about them.
func TestPlans(t *testing.T) {
	pool := another(t, teststack.New(t), utc)
	beginLoad(t, pool)
	load(t, pool, 1, 100_000, "delivered")
	execute(t, pool, `ANALYZE outbox.messages`)
	began := time.Now()
	// One after the other: beside each other they would leave pages half empty, as many as the machine has
	// it, and what an update reads would depend on that.
	load(t, pool, 100_001, 1_000_000, "delivered")
	load(t, pool, 1_000_001, 2_000_000, "paused")
	load(t, pool, 2_000_001, 3_000_000, "follower")
	execute(t, pool, `UPDATE outbox.messages SET follower = false, head = true, parked = false, state = 'dead',
		finished_at = now() WHERE id = lpad(to_hex(2000001), 32, '0')::uuid`)
	require.False(t, t.Failed())
	for i := range healthy {
		enqueue(t, pool, messages(fmt.Sprintf("sqs://healthy-%d", i), 20)...)
		enqueue(t, pool, messages(fmt.Sprintf("sqs://zealous-%d", i), 20)...) // behind the paused one
	}
	for i := range keyedHeads {
		enqueue(t, pool, keyed("sqs://keyed", fmt.Sprintf("k%d", i), 2)...)
	}
	t.Logf("three million rows in %s", time.Since(began).Round(time.Millisecond))

	t.Run("empty queue", func(t *testing.T) { lookAtPlans(t, pool, "statistics from an empty queue") })
	// As if the table had never been analyzed.
	execute(t, pool, `DELETE FROM pg_statistic WHERE starelid = 'outbox.messages'::regclass`)
	execute(t, pool, `UPDATE pg_class SET reltuples = -1, relpages = 0, relallvisible = 0
		WHERE oid IN ('outbox.messages'::regclass, 'outbox.messages_claim'::regclass,
		    'outbox.messages_pkey'::regclass)`)
	t.Run("none", func(t *testing.T) { lookAtPlans(t, pool, "no statistics") })
	execute(t, pool, `ANALYZE outbox.messages`)
	require.Equal(t, 1, value[int](t, pool,
		`SELECT count(DISTINCT starelid) FROM pg_statistic WHERE starelid = 'outbox.messages'::regclass`))
	t.Run("fresh", func(t *testing.T) {
		lookAtPlans(t, pool, "fresh statistics")
		t.Run("held back", func(t *testing.T) { lookAtHeldBack(t, pool) })
		t.Run("missing", func(t *testing.T) { lookAtMissing(t, pool) })
		t.Run("a store", func(t *testing.T) { claimBesidePaused(t, pool) })
	})
}

// beginLoad makes loading quick, and nothing else: no plan depends on the log
// of writes. Autovacuum must not make the statistics any better.
func beginLoad(t *testing.T, pool *pgxpool.Pool) {
	t.Helper()
	// A table of a publication stays logged.
	execute(t, pool, `DROP PUBLICATION outflow_messages`)
	execute(t, pool, `ALTER TABLE outbox.messages SET UNLOGGED, SET (autovacuum_enabled = off)`)
}

func load(t *testing.T, pool *pgxpool.Pool, from, to int, kind string) {
	destination, state, finished := `'sqs://delivered-' || n % 7`, "delivered", "now()"
	availableAt, key, expiresAt := `now() - interval '1 day' + n * interval '1 ms'`, "NULL", "NULL::timestamptz"
	switch kind {
	case "paused":
		destination, state, finished = `'sqs://paused'`, "pending", "NULL"
	case "follower": // of a destination that is claimed from
		destination, state, finished = `'sqs://healthy-0'`, "pending", "NULL"
		availableAt, key, expiresAt = `'9999-12-31Z'::timestamptz`, "'k'", "now() - interval '1 hour'"
	}
	_, err := pool.Exec(t.Context(), fmt.Sprintf(`
		INSERT INTO outbox.messages (id, destination, type, payload, state, finished_at, due_at, available_at,
		    ordering_key, expires_at, follower, parked)
		SELECT lpad(to_hex(n), 32, '0')::uuid, %s, 'a', '{}', '%s', %s, now() - interval '1 day', %s, %s, %s, %t, %t
		  FROM generate_series(%d, %d) AS n`, destination, state, finished, availableAt, key, expiresAt,
		kind == "follower", kind == "follower", from, to))
	if err != nil {
		t.Error(err)
	}
}

// pausedID is the nth message of the paused destination.
func pausedID(n int) uuid.UUID {
	return uuid.MustParse(fmt.Sprintf("00000000-0000-0000-0000-%012x", 1_500_000+n))
}

// unknownIDs are IDs of no message and no group.
func unknownIDs(n int) (ids []string) {
	for range n {
		ids = append(ids, uuid.NewString())
	}
	return ids
}

func lookAtPlans(t *testing.T, pool *pgxpool.Pool, statistics string) {
	lookAtStreams(t, pool, statistics)
	var destinations []string
	for i := range healthy {
		destinations = append(destinations, fmt.Sprintf("sqs://healthy-%d", i), fmt.Sprintf("sqs://zealous-%d", i))
	}
	many := func(value string, n int) []string {
		return strings.Split(strings.Repeat(value+"|", n)[:n*(len(value)+1)-1], "|")
	}
	aDayAgo := make([]time.Time, len(destinations))
	for i := range aDayAgo {
		aDayAgo[i] = time.Now().Add(-24 * time.Hour)
	}
	aMonthAgo := []time.Time{time.Now().Add(-30 * 24 * time.Hour)}
	var ids []string
	for n := range 20 {
		ids = append(ids, pausedID(n).String())
	}
	heads := values[string](t, pool, `SELECT id::text FROM outbox.messages WHERE head AND destination = 'sqs://keyed'
		ORDER BY id`)
	ones, nulls := many("1", 20), many("NULL", 20)
	claimArgs := func(destinations []string, marks []time.Time, quota string, most int) []any {
		return []any{destinations, destinations, marks, many(quota, len(destinations)), many("0", len(destinations)),
			most, 1 << 24, "1 minute", 200, []string{}, many("false", len(destinations))}
	}
	for _, mode := range []string{"force_custom_plan", "force_generic_plan"} {
		for _, c := range []struct {
			name, statement string
			rows            float64
			buffers         int
			args            []any
		}{
			{"walk", outboxdb.StatementDueDestinations, 2*healthy + 2, 250,
				[]any{"", outboxdb.WalkDestinations, 32, []string{}, []string{}, []string{"sns"}}},
			{"unpark nothing", outboxdb.StatementUnpark, 1, 20, []any{"100 years", 1000, 250, 1000}},
			{"hold back 20", outboxdb.StatementHoldBack, 0, 600,
				[]any{[]string{"sqs://paused"}, []string{"no"}, "1 minute", 20}},
			// Each claimed row costs some ten buffers to write again, in three indexes, and
			// its destination is read twice.
			{"claim 20", outboxdb.StatementClaim, 20, 480, claimArgs(destinations, aDayAgo, "4", 20)},
			{"claim 20 of a million", outboxdb.StatementClaim, 20, 480,
				claimArgs([]string{"sqs://paused"}, aMonthAgo, "50", 20)},
			{"claim nothing", outboxdb.StatementClaim, 0, 60,
				claimArgs([]string{"sqs://nothing", "sqs://later"}, aDayAgo[:2], "100", 100)},
			{"give back 20", outboxdb.StatementGiveBack, 20, 500,
				[]any{ids, ones, many("2020-01-01Z", 20), many("true", 20)}},
			// A row off the fast path stands in one index more, and its destination is read.
			{"renew 20", outboxdb.StatementRenew, 20, 600,
				[]any{ids, ones, many("1 minute", 20), nulls, ones, many("false", 20), many("false", 20)}},
			{"finish 20", outboxdb.StatementFinish, 20, 500,
				[]any{ids, ones, many("delivered", 20), nulls, nulls, ones, "true", many("false", 20)}},
			// Each releases the next message of its key, which is one row more.
			{"finish 20 with followers", outboxdb.StatementFinish, keyedHeads, 1400,
				[]any{heads, ones, many("delivered", 20), nulls, nulls, ones, "true", many("false", 20)}},
			// They are found along the followers, and none of them releases another.
			{"expire 20 of a million followers", outboxdb.StatementExpireFollowers, 20, 500,
				[]any{"sqs://healthy-0", "k", 20}},
			{"unpark nothing beside followers", outboxdb.StatementUnpark, 1, 20, []any{"1 second", 1000, 250, 1000}},
			{"rest", outboxdb.StatementRest, 1, 60, []any{uuid.NewString(), 50, "1 day"}},
			{"make way", outboxdb.StatementMakeWay, 0, 30, []any{ids[0], 0}},
			{"put back 20", outboxdb.StatementPutBack, 20, 600, []any{ids, ones, nulls, ones}},
			{"put back 20 that wait", outboxdb.StatementPutBackMissing, 20, 700,
				[]any{ids, ones, nulls, ones, many("1 hour", 20)}},
			{"claim isolated", outboxdb.StatementClaimIsolated, 0, 30, []any{"1 minute"}},
			{"load again 20", outboxdb.StatementLoadAgain, 20, 500, []any{ids, ones}},
			{"load 20", outboxdb.StatementLoad, 20, 160, []any{ids}},
			{"group outcomes of none", `SELECT o.* FROM outbox.group_outcomes($1::uuid[]) AS o`, 0, 120,
				[]any{unknownIDs(20)}},
			{"outcomes 20", `SELECT o.* FROM outbox.outcomes($1::uuid[]) AS o`, 20, 120, []any{ids}},
		} {
			t.Run(mode+"/"+c.name, func(t *testing.T) {
				p := teststack.Explain(t, pool, mode, c.statement, c.args...)
				t.Logf("%s, %s, %s: %d buffers", statistics, mode, c.name, p.Buffers())
				requireIndexed(t, p)
				require.Equal(t, c.rows, p.Rows)
				require.LessOrEqual(t, p.Buffers(), leftBehind*c.buffers)
			})
		}
	}
}

// lookAtHeldBack has the breaker of the destination with a million due messages
// open: they cause no storm, and one of them is found to probe.
func lookAtHeldBack(t *testing.T, pool *pgxpool.Pool) {
	execute(t, pool, `INSERT INTO outbox.destinations (destination, failing_since, openings, open_until)
		VALUES ('sqs://paused', now(), 1, now())`)
	defer execute(t, pool, `DELETE FROM outbox.destinations`)
	aMonthAgo := []time.Time{time.Now().Add(-30 * 24 * time.Hour)}
	for _, mode := range []string{"force_custom_plan", "force_generic_plan"} {
		p := teststack.Explain(t, pool, mode, outboxdb.StatementClaim, []string{"sqs://paused"},
			[]string{"sqs://paused"},
			aMonthAgo,
			[]string{"100"}, []string{"0"}, 100, 1<<24, "1 minute", 200, []string{}, []string{"false"})
		t.Logf("%s: %d buffers to claim none of a million", mode, p.Buffers())
		require.Zero(t, p.Rows)
		require.LessOrEqual(t, p.Buffers(), 20)
		p = teststack.Explain(t, pool, mode, outboxdb.StatementTakeProbes, 50, "20 seconds", false, []string{}, []string{"sqs"})
		t.Logf("%s: %d buffers to find a probe", mode, p.Buffers())
		require.EqualValues(t, 1, p.Rows)
		// Most of these hold versions of the renewals above, which were rolled back. The index of a million
		// due rows has some five thousand.
		require.LessOrEqual(t, p.Buffers(), 1000)
	}
}

// lookAtMissing has the destination with a million due messages not exist: a look for those that
// have waited long enough reads what it ends, and next to nothing where there are none.
func lookAtMissing(t *testing.T, pool *pgxpool.Pool) {
	execute(t, pool, `INSERT INTO outbox.destinations (destination, failing_since, failed_at, openings, open_until, missing_since, missing_reason)
		VALUES ('sqs://paused', now(), now(), 1, now(), now() - interval '10 years', 'no such queue')`)
	defer execute(t, pool, `DELETE FROM outbox.destinations`)
	for _, mode := range []string{"force_custom_plan", "force_generic_plan"} {
		p := teststack.Explain(t, pool, mode, outboxdb.StatementEndMissing, "9 years", 20, "true")
		t.Logf("%s: %d buffers to end none of a million", mode, p.Buffers())
		require.Zero(t, p.Rows)
		require.LessOrEqual(t, p.Buffers(), 100)
		p = teststack.Explain(t, pool, mode, outboxdb.StatementEndMissing, "0", 20, "true")
		t.Logf("%s: %d buffers to end 20 of a million", mode, p.Buffers())
		require.EqualValues(t, 20, p.Rows)
		require.LessOrEqual(t, p.Buffers(), 900)
	}
}

// claimBesidePaused claims through a Store while the paused destination's
// allowance is used up.
func claimBesidePaused(t *testing.T, pool *pgxpool.Pool) {
	store := outboxdb.New(pool)
	req := request()
	req.Allowance, req.Open = 100, map[string]int{"sqs://paused": 100}
	buffers := `SELECT sum(shared_blks_hit + shared_blks_read)::int FROM pg_stat_statements AS s, pg_database AS d
		WHERE d.oid = s.dbid AND datname = current_database() AND query LIKE '%outbox.messages%'
    AND query NOT LIKE '%generate_series%' AND query NOT LIKE '%ANALYZE%'`
	counted := value[bool](t, pool, `SELECT current_setting('shared_preload_libraries') LIKE '%pg_stat_statements%'`)
	if counted {
		execute(t, pool, `CREATE EXTENSION IF NOT EXISTS pg_stat_statements`)
		execute(t, pool, `SELECT pg_stat_statements_reset(0, oid, 0) FROM pg_database
		    WHERE datname = current_database()`)
	}
	got := claim(t, store, req)
	require.Len(t, got.Messages, 2*healthy*20+keyedHeads)
	require.NotContains(t, byDestination(got), "sqs://paused")
	require.True(t, got.Backlog, "the paused one has more, once there is room")
	require.Empty(t, claim(t, store, req).Messages)
	if counted {
		n := value[int](t, pool, buffers)
		t.Logf("%d buffers for two walks and a claim of %d", n, len(got.Messages))
		require.Less(t, n, 20*len(got.Messages))
	}
	req.Open["sqs://paused"] = 98
	var paused []outbox.ClaimedMessage
	paused = append(paused, claim(t, store, req).Messages...)
	require.Len(t, paused, 2)
}

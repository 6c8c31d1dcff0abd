package outboxdb_test

import (
	"slices"
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

// lookAtStreams is TestPlans for the statements of streams, whose backlog are the million due messages.
func lookAtStreams(t *testing.T, pool *pgxpool.Pool, statistics string) {
	const backlog, page = "sqs://paused", 20
	store := outboxdb.New(pool)
	stamp := func(at time.Time) string { return at.Format(time.RFC3339Nano) }
	many := func(value string) []string {
		return strings.Split(strings.Repeat(value+"|", page)[:page*(len(value)+1)-1], "|")
	}
	holder := uuid.New()
	req := outbox.PageRequest{Destination: backlog, Holder: holder, MaxMessages: page, MaxBytes: 1 << 24}
	claimed, err := store.ClaimPage(t.Context(), req)
	require.NoError(t, err)
	require.Len(t, claimed.Messages, page)
	var ids []string
	for _, m := range claimed.Messages {
		ids = append(ids, m.ID.String())
	}
	execute(t, pool, `
		UPDATE outbox.pages SET claimed_at = now() - interval '1 hour', overdue_at = now() - interval '1 hour'`)
	execute(t, pool, `
		INSERT INTO outbox.streams (destination, runs_until) VALUES ($1, now() + interval '1 hour')`, backlog)
	handed := values[string](t, pool, `
		UPDATE outbox.messages SET retrying = true, started = true
		 WHERE id IN (SELECT id FROM outbox.messages WHERE destination = $1 AND state = 'pending' AND NOT parked
		               ORDER BY available_at OFFSET 1000 LIMIT $2)
		RETURNING id::text`, backlog, page)
	require.Len(t, handed, page)
	defer func() { // as it was, for what comes after
		execute(t, pool, `UPDATE outbox.messages SET retrying = false, started = false WHERE id = ANY ($1::uuid[])`, handed)
		execute(t, pool, `DELETE FROM outbox.streams`)
		leavePage(t, store, claimed, unsent(claimed.Messages))
		execute(t, pool, `
			UPDATE outbox.messages SET available_at = enqueued_at - interval '1 day' WHERE id = ANY ($1::uuid[])`, ids)
		require.NoError(t, store.EndPage(t.Context(), claimed.PageRef))
	}()
	aMonthAgo := time.Now().Add(-30 * 24 * time.Hour)
	ones, none := many("1"), "{}"
	for _, mode := range []string{"force_custom_plan", "force_generic_plan"} {
		for _, c := range []struct {
			name, statement string
			rows            float64
			buffers         int
			args            []any
		}{
			{"claim a page of 20", outboxdb.StatementClaimPage, page, 520,
				[]any{backlog, stamp(aMonthAgo), page, 1 << 24, uuid.NewString()}},
			{"claim a page of none", outboxdb.StatementClaimPage, 0, 40,
				[]any{"sqs://nothing", stamp(aMonthAgo), 2000, 1 << 24, uuid.NewString()}},
			{"a page that has not ended", outboxdb.StatementEndPage, 0, 40, []any{backlog, stamp(claimed.At)}},
			{"no such page", outboxdb.StatementEndPage, 0, 20, []any{backlog, "2020-01-01Z"}},
			{"free a page of 20", outboxdb.StatementFreePages, 1, 700, []any{backlog, none, "1 minute", "10 seconds"}},
			{"free pages of anybody", outboxdb.StatementFreePages, 1, 700, []any{nil, none, "10 minutes", "30 seconds"}},
			{"free no pages", outboxdb.StatementFreePages, 1, 20,
				[]any{backlog, "{" + holder.String() + "}", "1 minute", "10 seconds"}},
			{"give back 20 of a page", outboxdb.StatementLeavePage, 0, 500,
				[]any{ids, ones, stamp(claimed.At), many("NULL"), ones}},
			{"hand over 20", outboxdb.StatementHandOver, page, 600,
				[]any{ids, ones, stamp(claimed.At), many("NULL"), ones, backlog, 200}},
			{"is it worth a stream", outboxdb.StatementWantStreams, 0, 30, []any{"{" + backlog + "}", 100}},
			{"claim 20 that a stream has handed over", outboxdb.StatementClaim, page, 520,
				[]any{[]string{backlog}, []string{backlog}, []time.Time{aMonthAgo}, []string{"50"}, []string{"0"}, page, 1 << 24,
					"1 minute", 200, []string{}, []string{"false"}}},
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
	execute(t, pool, `UPDATE outbox.streams SET runs_until = NULL`)
	for _, mode := range []string{"force_custom_plan", "force_generic_plan"} {
		p := teststack.Explain(t, pool, mode, outboxdb.StatementWantStreams, "{"+backlog+"}", 1000)
		t.Logf("%s, %s: %d buffers to count to 1,000", statistics, mode, p.Buffers())
		require.EqualValues(t, 1, p.Rows)
		require.LessOrEqual(t, p.Buffers(), 1100, "not to a million")
	}
}

// A connection without the daemons' settings plans each statement for its arguments, by statistics that
// know of no pending row. It too finds the rows of a page by their primary key: a comparison of each row
// of the table with each of the page takes seconds.
func TestEndsOfAPageAreFoundByTheirKeys(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	for _, destination := range []string{"sqs://orders", backlogged} {
		execute(t, pool, `
			INSERT INTO outbox.messages (id, destination, type, payload, state, finished_at, claims, attempts, started)
			SELECT gen_random_uuid(), $1, 'a', '{}', 'delivered', now(), 1, 1, true FROM generate_series(1, 9000)`, destination)
	}
	execute(t, pool, `ANALYZE outbox.messages`)
	execute(t, pool, `SET plan_cache_mode = force_custom_plan`)
	ids := backlog(t, pool, 2000)
	page := claimPage(t, outboxdb.New(pool), nextPage(uuid.New()))
	require.Len(t, page.Messages, 2000)
	same := func(v any) []any { return slices.Repeat([]any{v}, len(ids)) }
	for name, plan := range map[string][]string{
		"finish": values[string](t, pool, `EXPLAIN `+outboxdb.StatementFinishPage, ids, same(1), same("delivered"), same("b"),
			same(nil), same(1), true, same(true)),
		"leave": values[string](t, pool, `EXPLAIN `+outboxdb.StatementLeavePage, ids, same(1), page.At,
			same(nil), same(1)),
	} {
		text := strings.Join(plan, "\n")
		require.NotContains(t, text, "Seq Scan on messages", "%s", name)
		require.Contains(t, text, "messages_pkey", "%s", name)
	}
}

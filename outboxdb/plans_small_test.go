package outboxdb_test

import (
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow/internal/config"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/outboxdb"
)

// A daemon keeps a plan from when the table was nearly empty, until an analyze comes. Before that, a
// million rows may have been enqueued. So no plan reads all of a table, or of an index, because it has few
// rows.
func TestPlansFromATableOfFewRows(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	own := daemonsPool(t, pool)
	conn, err := own.Acquire(t.Context())
	require.NoError(t, err)
	defer conn.Release()
	statements := slices.Concat(outboxdb.Statements, outboxdb.StreamStatements, operatorStatements(t, pool),
		[]string{outboxdb.StatementPurgeDismissed, outboxdb.StatementMoveDismissed})
	for _, few := range []struct{ name, prepare string }{
		{"never analyzed", ``},
		{"all delivered", `INSERT INTO outbox.messages (id, destination, type, payload, state, finished_at, started)
			SELECT gen_random_uuid(), 'sqs://orders', 'a', '{}', 'delivered', now(), true FROM generate_series(1, 120);
			VACUUM ANALYZE outbox.messages`},
		{"one delivered", `DELETE FROM outbox.messages WHERE id <> (SELECT id FROM outbox.messages ORDER BY id LIMIT 1);
			VACUUM ANALYZE outbox.messages`},
		{"all pending", `INSERT INTO outbox.messages (id, destination, type, payload)
			SELECT gen_random_uuid(), 'sqs://orders', 'a', '{}' FROM generate_series(1, 50);
			VACUUM ANALYZE outbox.messages`},
		{"a few destinations", `
			INSERT INTO outbox.destinations (destination) VALUES ('sqs://a'), ('sqs://b'), ('sqs://c');
			VACUUM ANALYZE outbox.destinations`},
		{"emptied", `DELETE FROM outbox.messages; VACUUM ANALYZE outbox.messages`},
	} {
		t.Run(few.name, func(t *testing.T) {
			for sql := range strings.SplitSeq(few.prepare, ";") {
				execute(t, pool, sql)
			}
			for _, s := range wholeStatements(t, conn.Conn(), statements) {
				if slices.ContainsFunc(meantToReadAll, s.has) {
					continue
				}
				for _, problem := range readsAll(genericPlan(t, conn.Conn(), s)) {
					t.Errorf("%s: %s", problem, s.SQL)
				}
			}
		})
	}
}

// meantToReadAll are parts of the statements that count or list all that waits, for an operator, a gauge or
// a purge.
var meantToReadAll = []string{
	"AS due, c.delayed, c.leased", "AS all_targets", "CASE WHEN m.phase = 'due' AND", "t.of_scheme, t.due_in_scheme",
	"WITH RECURSIVE followed AS (", "WITH parked AS MATERIALIZED (",
	"d.destination, d.covers_from, d.covers_before, d.failures",
	"FROM outbox.destinations AS d\n         " +
		"WHERE d.destination = d.covers_from AND d.destination LIKE '%//%' LIMIT $2",
}

// daemonsPool is a pool as the programs have it.
func daemonsPool(t *testing.T, pool *pgxpool.Pool) *pgxpool.Pool {
	t.Helper()
	c, err := config.Database(func(name string) string {
		return map[string]string{"DATABASE_URL": pool.Config().ConnString()}[name]
	})
	require.NoError(t, err)
	c.ConnConfig.Database = pool.Config().ConnConfig.Database
	own, err := pgxpool.NewWithConfig(t.Context(), c)
	require.NoError(t, err)
	t.Cleanup(own.Close)
	return own
}

// genericPlan is the plan that Postgres keeps for a statement, whatever its arguments.
func genericPlan(t *testing.T, conn *pgx.Conn, s described) (p teststack.Plan) {
	t.Helper()
	args := ""
	if n := len(s.ParamOIDs); n > 0 {
		args = "(NULL" + strings.Repeat(", NULL", n-1) + ")"
	}
	var out []byte
	for _, sql := range []string{
		`PREPARE explained AS ` + s.SQL, `EXPLAIN (FORMAT JSON) EXECUTE explained` + args, `DEALLOCATE explained`,
	} {
		results, err := conn.PgConn().Exec(t.Context(), sql).ReadAll()
		require.NoError(t, err, sql)
		if len(results[0].Rows) > 0 {
			out = results[0].Rows[0][0]
		}
	}
	var explained []struct{ Plan teststack.Plan }
	require.NoError(t, json.Unmarshal(out, &explained), "%s", out)
	if len(explained) > 0 {
		p = explained[0].Plan
	}
	return p
}

// large are the tables that may have many rows.
var large = []string{"messages", "destinations", "keys"}

// leading is the first column of each index that may have many rows.
var leading = map[string]string{
	"messages_pkey": "id", "messages_claim": "destination", "messages_parked": "date_bin(",
	"messages_finished": "state",
	"messages_group":    "group_id", "messages_head": "destination", "messages_followers": "destination",
	"messages_retrying": "destination", "destinations_pkey": "destination", "keys_pkey": "destination",
}

// readsAll says where a plan reads all of a large table, or all of an index in no order that a limit ends.
func readsAll(p teststack.Plan) (problems []string) {
	var visit func(n teststack.Plan, limited bool)
	visit = func(n teststack.Plan, limited bool) {
		unbounded := leading[n.Index] != "" && !limited && !strings.Contains(n.IndexCond, leading[n.Index])
		if n.Node == "Seq Scan" && slices.Contains(large, n.Table) || unbounded {
			problems = append(problems, fmt.Sprintf("%s of %s %s (%s)", n.Node, n.Table, n.Index, n.IndexCond))
		}
		for _, c := range n.Plans {
			visit(c, n.Node == "Limit" || limited && n.Node == "LockRows")
		}
	}
	visit(p, false)
	return problems
}

// An enqueue with an ordering key reads the rows of its key, when the statistics know of no key too.
func TestOrderedEnqueueReadsItsKeyAlone(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	enqueue(t, pool, messages("sqs://orders", 50)...)
	execute(t, pool, `ANALYZE outbox.messages, outbox.keys`)
	const heads = 20_000
	execute(t, pool, `
		INSERT INTO outbox.keys (destination, ordering_key)
		SELECT 'sqs://orders', 'k' || n FROM generate_series(1, $1::int) AS n`,
		heads)
	execute(t, pool, `
		INSERT INTO outbox.messages (id, destination, type, payload, ordering_key, head)
		SELECT gen_random_uuid(), 'sqs://orders', 'a', '{}', 'k' || n, true
		  FROM generate_series(1, $1::int) AS n`, heads)
	inTx(t, pool, func(tx pgx.Tx) {
		_, err := outboxdb.Enqueue(t.Context(), tx, keyed("sqs://orders", "k1", 1)...)
		require.NoError(t, err)
		var read int
		require.NoError(t, tx.QueryRow(t.Context(), `
			SELECT sum(pg_stat_get_xact_tuples_returned(i.indexrelid)) FROM pg_index AS i
			 WHERE i.indrelid IN ('outbox.messages'::regclass, 'outbox.keys'::regclass)`).Scan(&read))
		require.Less(t, read, 100, "entries of indexes")
	})
}

// With enable_seqscan off and jit on, a read of all listeners would be compiled each time: 20 ms and more.
func TestAHintMayReadAllListeners(t *testing.T) {
	t.Parallel()
	require.True(t, value[bool](t, teststack.New(t), `
		SELECT 'enable_seqscan=on' = ANY (p.proconfig) FROM pg_proc AS p WHERE p.oid = 'outbox.hint'::regproc`))
}

// Postgres makes a function in SQL part of each statement that writes to the table, and prepares it
// anew each time.
func TestChecksCallNoFunctionInSQL(t *testing.T) {
	found := values[string](t, teststack.New(t), `
SELECT p.proname || ' in ' || l.lanname
  FROM pg_constraint AS c
  JOIN pg_depend AS d ON d.classid = 'pg_constraint'::regclass AND d.objid = c.oid
		   AND d.refclassid = 'pg_proc'::regclass
  JOIN pg_proc AS p ON p.oid = d.refobjid
  JOIN pg_language AS l ON l.oid = p.prolang
 WHERE c.conrelid = 'outbox.messages'::regclass GROUP BY 1`)
	require.Equal(t, []string{"is_destination in plpgsql"}, found)
}

package outboxdb_test

import (
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow/internal/config"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/outboxdb"
)

// A daemon's first plans are made while the table is nearly empty, and are kept until it has grown by
// some thousand rows: they must not read all of it.
func TestPlansOfASmallTable(t *testing.T) {
	pool := teststack.New(t)
	var ids []string
	for _, id := range enqueue(t, pool, messages("sqs://orders", 50)...) {
		ids = append(ids, id.String())
	}
	execute(t, pool, `ANALYZE outbox.messages`)
	c, err := config.Database(func(name string) string {
		return map[string]string{"DATABASE_URL": pool.Config().ConnString()}[name]
	})
	require.NoError(t, err)
	c.ConnConfig.Database = pool.Config().ConnConfig.Database
	own, err := pgxpool.NewWithConfig(t.Context(), c)
	require.NoError(t, err)
	t.Cleanup(own.Close)

	orders, one, none := []string{"sqs://orders"}, []string{"1"}, []string{"NULL"}
	anHourAgo := []time.Time{time.Now().Add(-time.Hour)}
	for name, s := range map[string]struct {
		statement string
		args      []any
	}{
		"walk":   {outboxdb.StatementDueDestinations, []any{"", outboxdb.WalkDestinations, 32, []string{}, []string{}, []string{"sns"}}},
		"unpark": {outboxdb.StatementUnpark, []any{"100 years", 1000, 250, 1000}},
		"claim": {outboxdb.StatementClaim, []any{orders, orders, anHourAgo, []string{"20"}, []string{"0"}, 20, 1 << 24,
			"1 minute", 200, []string{uuid.NewString()}, []string{"false"}}},
		"finish":       {outboxdb.StatementFinish, []any{ids[:1], one, []string{"delivered"}, none, none, one, "true", []string{"false"}}},
		"claim a page": {outboxdb.StatementClaimPage, []any{"sqs://orders", "2020-01-01Z", 20, 1 << 24, uuid.NewString()}},
		"end a page":   {outboxdb.StatementEndPage, []any{"sqs://orders", "2020-01-01Z"}},
		"load":         {outboxdb.StatementLoad, []any{ids[:1]}},
		"give back":    {outboxdb.StatementGiveBack, []any{ids[:1], one, []string{"2020-01-01Z"}, []string{"true"}}},
		"renew": {outboxdb.StatementRenew, []any{ids[:1], one, []string{"1 minute"}, none, one, []string{"false"},
			[]string{"false"}}},
	} {
		t.Run(name, func(t *testing.T) {
			teststack.Explain(t, own, "force_generic_plan", s.statement, s.args...).Each(func(n teststack.Plan) {
				require.NotEqual(t, "Seq Scan", n.Node, "of %s", n.Table)
			})
		})
	}
}

// Postgres makes a function in SQL part of each statement that writes to the table, and prepares it
// anew each time.
func TestChecksCallNoFunctionInSQL(t *testing.T) {
	found := values[string](t, teststack.New(t), `
SELECT p.proname || ' in ' || l.lanname
  FROM pg_constraint AS c
  JOIN pg_depend AS d ON d.classid = 'pg_constraint'::regclass AND d.objid = c.oid AND d.refclassid = 'pg_proc'::regclass
  JOIN pg_proc AS p ON p.oid = d.refobjid
  JOIN pg_language AS l ON l.oid = p.prolang
 WHERE c.conrelid = 'outbox.messages'::regclass GROUP BY 1`)
	require.Equal(t, []string{"is_destination in plpgsql"}, found)
}

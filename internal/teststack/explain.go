package teststack

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
)

// Plan is what EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) says of a node.
type Plan struct {
	Node    string  `json:"Node Type"`
	Table   string  `json:"Relation Name"`
	Index   string  `json:"Index Name"`
	Rows    float64 `json:"Actual Rows"`
	Loops   float64 `json:"Actual Loops"`
	Removed float64 `json:"Rows Removed by Filter"`
	Joined  float64 `json:"Rows Removed by Join Filter"`
	Hit     int     `json:"Shared Hit Blocks"`
	Read    int     `json:"Shared Read Blocks"`
	Plans   []Plan  `json:"Plans"`

	IndexCond string `json:"Index Cond"`
}

// Buffers is how many pages the node and those below it touched.
func (p Plan) Buffers() int { return p.Hit + p.Read }

// Each visits the node and all below it.
func (p Plan) Each(visit func(Plan)) {
	visit(p)
	for _, child := range p.Plans {
		child.Each(visit)
	}
}

// Explain runs a prepared statement with the plan cache mode, and takes back what it wrote. Only
// EXPLAIN of EXECUTE honours the mode. A session reads the catalog for the functions in the
// statement once, which is done before.
func Explain(t *testing.T, pool *pgxpool.Pool, mode, statement string, args ...any) Plan {
	t.Helper()
	conn, err := pool.Acquire(t.Context())
	require.NoError(t, err)
	defer conn.Release()
	var out []byte
	values := ""
	if len(args) > 0 {
		values = " (" + literals(args) + ")"
	}
	for _, sql := range []string{
		`SELECT outbox.notify_waiters('{}'), outbox.outcomes('{}'), outbox.group_outcomes('{}')`,
		`PREPARE explained AS ` + statement, `BEGIN`, `SET LOCAL plan_cache_mode = ` + mode,
		`EXPLAIN (ANALYZE, BUFFERS, FORMAT JSON) EXECUTE explained` + values, `ROLLBACK`, `DEALLOCATE explained`,
	} {
		results, err := conn.Conn().PgConn().Exec(t.Context(), sql).ReadAll()
		require.NoError(t, err, sql)
		if len(results) > 0 && len(results[0].Rows) > 0 {
			out = results[0].Rows[0][0]
		}
	}
	var explained []struct{ Plan Plan }
	require.NoError(t, json.Unmarshal(out, &explained))
	return explained[0].Plan
}

// literals writes arguments as a statement has them: EXECUTE takes no parameters.
func literals(args []any) string {
	parts := make([]string, 0, len(args))
	for _, a := range args {
		switch a := a.(type) {
		case []string:
			parts = append(parts, "'{"+strings.Join(a, ",")+"}'")
		case []time.Time:
			times := make([]string, 0, len(a))
			for _, at := range a {
				times = append(times, `"`+at.Format(time.RFC3339Nano)+`"`)
			}
			parts = append(parts, "'{"+strings.Join(times, ",")+"}'")
		case nil:
			parts = append(parts, "NULL")
		default:
			parts = append(parts, fmt.Sprintf("'%v'", a))
		}
	}
	return strings.Join(parts, ", ")
}

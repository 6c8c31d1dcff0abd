package outboxdb_test

import (
	"encoding/json"
	"runtime"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/operator"
	"github.com/outflowhq/outflow/outboxdb"
)

// A message of a large batch costs as much as one of a small batch, whether it is
// written or withdrawn because of another. It is the server's CPU time that
// counts, which a busy machine stretches but little; a square cost more than doubles it.
func TestEnqueueBatchIsLinear(t *testing.T) {
	t.Parallel()
	if runtime.GOOS != "linux" {
		t.Skip("the CPU time of a session is read from /proc")
	}
	pool := teststack.New(t)
	setRoute(t, operator.New(pool, nil, ""), "order-placed", "sqs://a", "sqs://b")
	const small, large = 2_000, 20_000
	for name, verdicts := range map[string]func(*testing.T, pgx.Tx, []object) map[string]int{
		"written": func(t *testing.T, tx pgx.Tx,
			batch []object) map[string]int {
			return verdictsOn(t, tx, batch, false)
		},
		"withdrawn": func(t *testing.T, tx pgx.Tx, batch []object) map[string]int {
			verdictsOn(t, tx, batch[:1], false)
			return verdictsOn(t, tx, batch, false)
		},
	} {
		for _, destination := range []string{"sqs://orders", outflow.ByRoute} {
			t.Run(name+" to "+destination, func(t *testing.T) {
				one := cpuOfEach(t, pool, destination, small, verdicts)
				other := cpuOfEach(t, pool, destination, large, verdicts)
				t.Logf("%.0f µs of CPU a message in a batch of %d, %.0f µs in one of %d", one, small, other, large)
				require.Less(t, other, 2.5*one)
			})
		}
	}
}

type object struct {
	ID          uuid.UUID `json:"id"`
	Destination string    `json:"destination"`
	Type        string    `json:"type"`
	Payload     string    `json:"payload"`
}

// verdictsOn counts the verdicts on a batch.
func verdictsOn(t *testing.T, tx pgx.Tx, batch []object, ifAbsent bool) map[string]int {
	t.Helper()
	encoded, err := json.Marshal(batch)
	require.NoError(t, err)
	rows, err := tx.Query(t.Context(), outboxdb.StatementEnqueue, string(encoded), ifAbsent)
	require.NoError(t, err)
	counts := make(map[string]int)
	for rows.Next() {
		var index int
		var id uuid.UUID
		var verdict string
		require.NoError(t, rows.Scan(&index, &id, &verdict))
		require.Equal(t, batch[index].ID, id)
		counts[verdict]++
	}
	require.NoError(t, rows.Err())
	return counts
}

// cpuOfEach is the session's CPU time in µs for each of n messages.
func cpuOfEach(t *testing.T, pool *pgxpool.Pool, destination string, n int,
	verdicts func(*testing.T, pgx.Tx, []object) map[string]int) float64 {
	t.Helper()
	const cpu = `SELECT split_part(pg_read_file('/proc/self/schedstat'), ' ', 1)::float8 / 1000`
	batch := make([]object, n)
	for i := range batch {
		batch[i] = object{ID: uuid.Must(uuid.NewV7()), Destination: destination, Type: "order-placed", Payload: "{}"}
	}
	tx, err := pool.Begin(t.Context())
	require.NoError(t, err)
	defer func() { _ = tx.Rollback(t.Context()) }()
	before := value[float64](t, tx, cpu)
	counts := verdicts(t, tx, batch)
	spent := value[float64](t, tx, cpu) - before
	total := 0
	for _, of := range counts {
		total += of
	}
	require.Equal(t, n, total, "%v", counts)
	return spent / float64(n)
}

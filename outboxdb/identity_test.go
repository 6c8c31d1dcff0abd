package outboxdb_test

import (
	"sync"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/outboxdb"
	"github.com/outflowhq/outflow/outboxdb/migrate"
)

func TestEachDatabaseHasItsOwnID(t *testing.T) {
	t.Parallel()
	a, b := teststack.NewEmpty(t), teststack.NewEmpty(t)
	for _, pool := range []*pgxpool.Pool{a, b} {
		_, err := migrate.Up(t.Context(), pool)
		require.NoError(t, err)
		require.Equal(t, 1, value[int](t, pool, `SELECT count(*) FROM outbox.identity`), "the migration writes it")
	}
	ids := map[uuid.UUID]bool{}
	for range 2 { // a later process reads the same
		for _, store := range []*outboxdb.Store{outboxdb.New(a), outboxdb.New(b)} {
			id, err := store.DatabaseID(t.Context())
			require.NoError(t, err)
			ids[id] = true
		}
	}
	assert.Len(t, ids, 2)
	assert.NotContains(t, ids, uuid.Nil)
}

// A Store asks once: the fast path costs no statement more.
func TestDatabaseIDIsReadOnce(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	first, err := store.DatabaseID(t.Context())
	require.NoError(t, err)
	execute(t, pool, `DROP TABLE outbox.identity`)
	again, err := store.DatabaseID(t.Context())
	require.NoError(t, err)
	assert.Equal(t, first, again)
	_, err = outboxdb.New(pool).DatabaseID(t.Context())
	require.ErrorContains(t, err, "reading outbox.identity: ")
}

// "pg_dump --schema-only" leaves the row out: the daemons write one, together.
func TestDatabaseIDOfASchemaWithoutData(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	execute(t, pool, `DELETE FROM outbox.identity`)
	seen, err := outboxdb.FindDatabaseID(t.Context(), pool)
	require.NoError(t, err)
	require.Equal(t, uuid.Nil, seen, "an operator's look writes nothing")
	var mu sync.Mutex
	var starting sync.WaitGroup
	ids := map[uuid.UUID]bool{}
	for range 8 {
		starting.Go(func() {
			id, err := outboxdb.New(pool).DatabaseID(t.Context())
			assert.NoError(t, err)
			mu.Lock()
			defer mu.Unlock()
			ids[id] = true
		})
	}
	starting.Wait()
	require.Len(t, ids, 1)
	seen, err = outboxdb.FindDatabaseID(t.Context(), pool)
	require.NoError(t, err)
	assert.Contains(t, ids, seen)
	_, err = pool.Exec(t.Context(), `INSERT INTO outbox.identity (id) VALUES (gen_random_uuid())`)
	require.Error(t, err, "there is one")
}

package outboxdb_test

import (
	"testing"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/outboxdb"
)

func TestHears(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	heard, err := outboxdb.NewOperator(pool).Hears(t.Context())
	require.NoError(t, err)
	assert.True(t, heard)

	b, through := newBetween(t, pool)
	b.dropNotifications.Store(true)
	config := pool.Config()
	config.ConnConfig = through
	pooled, err := pgxpool.NewWithConfig(t.Context(), config)
	require.NoError(t, err)
	t.Cleanup(pooled.Close)
	heard, err = outboxdb.NewOperator(pooled).Hears(t.Context())
	require.NoError(t, err)
	assert.False(t, heard)
}

func TestDeadByDestination(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	o := outboxdb.NewOperator(pool)
	counts, err := o.Dead(t.Context())
	require.NoError(t, err)
	assert.Empty(t, counts)

	for _, destination := range []string{"sqs://orders", "sqs://orders", "sqs://letters"} {
		finished(t, pool, message(destination), outflow.Dead)
	}
	finished(t, pool, message("sqs://orders"), outflow.Delivered)
	counts, err = o.Dead(t.Context())
	require.NoError(t, err)
	of := map[string]int{}
	for _, c := range counts {
		of[c.Destination] = int(c.Messages)
		assert.Equal(t, "no such queue", c.LastError)
	}
	assert.Equal(t, map[string]int{"sqs://orders": 2, "sqs://letters": 1}, of)
}

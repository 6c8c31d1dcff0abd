package migrations_test

import (
	"testing"
	"testing/fstest"

	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow/internal/migrations"
	"github.com/outflowhq/outflow/internal/teststack"
)

// A role's or a database's timeouts are for its queries: an index of a large table takes
// longer, and the lock is held for as long as all migrations take.
func TestMigrationsHaveNoTimeouts(t *testing.T) {
	pool := teststack.NewEmpty(t)
	for _, name := range []string{"statement_timeout", "idle_in_transaction_session_timeout"} {
		_, err := pool.Exec(t.Context(), `ALTER DATABASE `+pool.Config().ConnConfig.Database+` SET `+name+` = '1h'`)
		require.NoError(t, err)
	}
	pool.Reset()
	set := migrations.Set{Schema: "sample", Lock: 7_000_001, Files: fstest.MapFS{
		"0001_sample.up.sql": {Data: []byte(`CREATE TABLE sample.timeouts AS
			SELECT name, setting FROM pg_settings
			 WHERE name IN ('statement_timeout', 'idle_in_transaction_session_timeout', 'transaction_timeout')`)},
		"0001_sample.down.sql": {Data: []byte(`DROP TABLE sample.timeouts`)},
	}}
	applied, err := set.Up(t.Context(), pool)
	require.NoError(t, err)
	require.Len(t, applied, 1)
	var kept int
	require.NoError(t, pool.QueryRow(t.Context(),
		`SELECT count(*) FROM sample.timeouts WHERE setting <> '0'`).Scan(&kept))
	require.Zero(t, kept)
}

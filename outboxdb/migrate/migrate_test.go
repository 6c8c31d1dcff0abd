package migrate_test

import (
	"context"
	"io/fs"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/outboxdb"
	"github.com/outflowhq/outflow/outboxdb/migrate"
	"github.com/outflowhq/outflow/outboxdb/migrations"
)

// definitions is everything in the schema but goose's table, as text.
const definitions = `
SELECT string_agg(what, E'\n' ORDER BY what) FROM (
    SELECT 'column ' || attname || ' ' || format_type(atttypid, atttypmod)
           || ' ' || attnotnull || ' ' || attidentity::text::text
           || ' ' || attcollation::regcollation || ' ' || coalesce(pg_get_expr(adbin, adrelid), '') AS what
      FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
     WHERE attrelid = 'outbox.messages'::regclass AND attnum > 0
    UNION ALL SELECT 'constraint ' || conname || ' ' || pg_get_constraintdef(oid)
      FROM pg_constraint WHERE conrelid = 'outbox.messages'::regclass
    UNION ALL SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = 'outbox.messages'::regclass
    UNION ALL SELECT pg_get_functiondef(oid) || coalesce(proacl::text, 'default rights')
      FROM pg_proc WHERE pronamespace = 'outbox'::regnamespace
    UNION ALL SELECT 'rights ' || coalesce(relacl::text, 'default')
      FROM pg_class WHERE oid = 'outbox.messages'::regclass
    UNION ALL SELECT 'settings ' || c.relname || ' ' || array_to_string(c.reloptions || t.reloptions, ' ')
      FROM pg_class AS c LEFT JOIN pg_class AS t ON t.oid = c.reltoastrelid
     WHERE c.relnamespace = 'outbox'::regnamespace AND (c.reloptions || t.reloptions) IS NOT NULL
    UNION ALL SELECT 'rights ' || coalesce(nspacl::text, 'default') FROM pg_namespace WHERE nspname = 'outbox') AS t`

// leftovers are the things in the schema that migrations should have taken back.
const leftovers = `
SELECT relname::text FROM pg_class WHERE relnamespace = 'outbox'::regnamespace AND relname !~ '^migrations'
UNION ALL SELECT proname::text FROM pg_proc WHERE pronamespace = 'outbox'::regnamespace
UNION ALL SELECT typname::text FROM pg_type WHERE typnamespace = 'outbox'::regnamespace AND typname !~ '^_?migrations'`

func TestMigrations(t *testing.T) {
	t.Parallel()
	ctx := t.Context()
	pool := teststack.NewEmpty(t)
	store := outboxdb.New(pool)

	status, err := migrate.Status(ctx, pool)
	require.NoError(t, err)
	require.Len(t, status, len(names))
	require.Zero(t, status[0].AppliedAt)
	require.False(t, teststack.Value[bool](t, pool, `SELECT to_regnamespace('outbox') IS NOT NULL`),
		"status wrote something")
	require.ErrorContains(t, store.Ping(ctx), `run "outflow migrate up"`)

	applied, err := migrate.Up(ctx, pool)
	require.NoError(t, err)
	require.Len(t, applied, len(names))
	require.Equal(t, "0001_destinations", applied[0].Name)
	require.EqualValues(t, 2, applied[1].Version)
	require.NoError(t, store.Ping(ctx))
	first := teststack.Value[string](t, pool, definitions)

	applied, err = migrate.Up(ctx, pool)
	require.NoError(t, err)
	require.Empty(t, applied, "the second time has nothing to do")

	// goose notes the time without its zone; a session's zone must not move it.
	distant := teststack.Another(t, pool, func(c *pgxpool.Config) {
		c.ConnConfig.RuntimeParams["timezone"] = "Asia/Tokyo"
	})
	_, err = migrate.Down(ctx, distant)
	require.NoError(t, err)
	require.ErrorContains(t, store.Ping(ctx), `run "outflow migrate up"`, "half of a schema is not enough")
	_, err = migrate.Up(ctx, distant)
	require.NoError(t, err)
	status, err = migrate.Status(ctx, distant)
	require.NoError(t, err)
	for _, s := range status { // the last one was applied in Tokyo, the others here
		require.WithinDuration(t, time.Now(), s.AppliedAt, time.Minute)
	}

	for _, want := range slices.Backward(names) {
		undone, err := migrate.Down(ctx, pool)
		require.NoError(t, err)
		require.Equal(t, want, undone.Name)
	}
	require.Empty(t, teststack.Values[string](t, pool, leftovers))
	undone, err := migrate.Down(ctx, pool)
	require.NoError(t, err)
	require.Nil(t, undone, "nothing is left to take back")

	applied, err = migrate.Up(ctx, pool)
	require.NoError(t, err)
	require.Len(t, applied, len(names))
	require.Equal(t, first, teststack.Value[string](t, pool, definitions))
}

// What keeps the tables fast is set by the migrations, not left to the server
// (docs/retention.md says what it buys).
func TestTheTablesSettings(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	const settings = `
		SELECT unnest(t.reloptions) FROM pg_class AS c
		  JOIN pg_class AS t ON t.oid = CASE WHEN $2 THEN c.reltoastrelid ELSE c.oid END
		 WHERE c.oid = $1::text::regclass ORDER BY 1`
	for _, c := range []struct {
		table string
		toast bool
		want  []string
	}{
		{"outbox.messages", false, []string{
			"autovacuum_analyze_scale_factor=0.02", "autovacuum_analyze_threshold=5000",
			"autovacuum_vacuum_cost_limit=2000",
			"autovacuum_vacuum_insert_scale_factor=0.02", "autovacuum_vacuum_insert_threshold=20000",
			"autovacuum_vacuum_scale_factor=0.01", "autovacuum_vacuum_threshold=5000",
		}},
		{"outbox.messages", true, []string{"autovacuum_vacuum_cost_limit=2000", "autovacuum_vacuum_scale_factor=0.01",
			"autovacuum_vacuum_threshold=5000"}},
		{"outbox.destinations", false, []string{"fillfactor=50"}},
		{"outbox.waiters", false, []string{"fillfactor=50"}},
		{"outbox.audit", false, []string{}},
		{"outbox.history", false, []string{}},
	} {
		require.ElementsMatch(t, c.want, teststack.Values[string](t, pool, settings, c.table, c.toast), "%s, toast: %t",
			c.table, c.toast)
	}
}

func TestUpConcurrently(t *testing.T) {
	t.Parallel()
	pool := teststack.NewEmpty(t)
	var callers sync.WaitGroup
	var mu sync.Mutex
	var applied []string
	var errs []error
	for range 4 {
		callers.Go(func() {
			got, err := migrate.Up(context.Background(), pool)
			mu.Lock()
			defer mu.Unlock()
			for _, m := range got {
				applied = append(applied, m.Name)
			}
			if err != nil {
				errs = append(errs, err)
			}
		})
	}
	callers.Wait()
	require.Empty(t, errs)
	require.Equal(t, names, applied, "each once, by one caller")
	require.NoError(t, outboxdb.New(pool).Ping(t.Context()))
}

// Any other tool can apply the files: here a plain exec of several statements.
func TestPlainFiles(t *testing.T) {
	t.Parallel()
	pool := teststack.NewEmpty(t)
	run := func(pattern string) {
		files, err := fs.Glob(migrations.Files, pattern)
		require.NoError(t, err)
		require.NotEmpty(t, files)
		conn, err := pool.Acquire(t.Context())
		require.NoError(t, err)
		defer conn.Release()
		for _, name := range files {
			statements, err := fs.ReadFile(migrations.Files, name)
			require.NoError(t, err)
			_, err = conn.Conn().PgConn().Exec(t.Context(), string(statements)).ReadAll()
			require.NoError(t, err, name)
		}
	}
	run("*.up.sql")
	store := outboxdb.New(pool)
	require.NoError(t, store.Ping(t.Context()))
	require.Equal(t, teststack.Value[string](t, teststack.New(t), definitions),
		teststack.Value[string](t, pool, definitions))
	id := enqueue(t, pool)
	claimed, err := store.Claim(t.Context(),
		outbox.ClaimRequest{Lease: time.Minute, MaxMessages: 10, MaxBytes: 1 << 20, Allowance: 10})
	require.NoError(t, err)
	require.Len(t, claimed.Messages, 1)
	require.Equal(t, id, claimed.Messages[0].ID)
	for _, name := range slices.Backward(names) {
		run(name + ".down.sql")
	}
	require.Empty(t, teststack.Values[string](t, pool, leftovers))
}

func TestMigrationsOfARole(t *testing.T) {
	t.Parallel()
	t.Run("without rights", func(t *testing.T) {
		pool := teststack.New(t)
		as := teststack.WithRole(t, pool, teststack.NewRole(t, pool))
		_, err := migrate.Status(t.Context(), as)
		require.ErrorContains(t, err, "permission denied for schema outbox")
		require.ErrorContains(t, err, "outbox.migrations")
		err = outboxdb.New(as).Ping(t.Context())
		require.ErrorContains(t, err, "permission denied for schema outbox")
		require.ErrorContains(t, err, `"outflow grants -dispatcher ROLE" prints the rights that it needs`)
		_, err = migrate.Up(t.Context(), as)
		require.ErrorContains(t, err, "permission denied")
	})
	t.Run("owner of the schema only", func(t *testing.T) {
		pool := teststack.NewEmpty(t)
		role := teststack.NewRole(t, pool)
		teststack.Execute(t, pool, `CREATE SCHEMA outbox AUTHORIZATION `+role)
		as := teststack.WithRole(t, pool, role)
		require.False(t, teststack.Value[bool](t, as, `SELECT has_database_privilege(current_database(), 'CREATE')`))
		applied, err := migrate.Up(t.Context(), as)
		require.NoError(t, err)
		require.Len(t, applied, len(names))
	})
}

// One step down takes nothing from producers, as long as their functions are there.
func TestEnqueueAfterEachStepDown(t *testing.T) {
	t.Parallel()
	ctx, pool := t.Context(), teststack.New(t)
	const enqueue = `SELECT outbox.enqueue('sqs://orders', 'order-placed', '{}', ordering_key => 'customer-42')`
	const functions = `SELECT EXISTS (SELECT FROM pg_proc AS p WHERE p.pronamespace = to_regnamespace('outbox')
		AND p.proname = 'enqueue_batch')`
	for steps := 0; ; steps++ {
		var there bool
		require.NoError(t, pool.QueryRow(ctx, functions).Scan(&there))
		if !there {
			require.Greater(t, steps, 3)
			return
		}
		_, err := pool.Exec(ctx, enqueue)
		require.NoError(t, err, "after %d steps", steps)
		_, err = migrate.Down(ctx, pool)
		require.NoError(t, err)
	}
}

// A publication that belongs to somebody else is no reason to leave a schema as it is.
func TestAnothersPublication(t *testing.T) {
	t.Parallel()
	ctx, pool := t.Context(), teststack.NewEmpty(t)
	role := "owner_" + uuid.NewString()[:8]
	database := pool.Config().ConnConfig.Database
	teststack.Execute(t, pool, "CREATE ROLE "+role+" LOGIN PASSWORD 'secret'")
	t.Cleanup(func() {
		_, err := pool.Exec(context.WithoutCancel(ctx), "DROP OWNED BY "+role+" CASCADE; DROP ROLE "+role)
		require.NoError(t, err)
	})
	teststack.Execute(t, pool, "GRANT CREATE ON DATABASE "+database+" TO "+role)
	teststack.Execute(t, pool, "CREATE PUBLICATION outflow_messages WITH (publish = 'insert')")
	as := teststack.Another(t, pool, func(c *pgxpool.Config) { c.ConnConfig.User, c.ConnConfig.Password = role, "secret" })
	_, err := migrate.Up(ctx, as)
	require.NoError(t, err)
	_, err = as.Exec(ctx, `SELECT outbox.enqueue('sqs://orders', 'order-placed', '{}')`)
	require.NoError(t, err)
	for range 7 {
		_, err = migrate.Down(ctx, as)
		require.NoError(t, err)
	}
}

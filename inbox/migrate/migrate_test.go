package migrate_test

import (
	"context"
	"database/sql"
	"os"
	"sync"
	"testing"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/outflowhq/outflow/inbox"
	"github.com/outflowhq/outflow/inbox/migrate"
	"github.com/outflowhq/outflow/internal/teststack"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestUp(t *testing.T) {
	t.Parallel()
	pool := teststack.NewEmpty(t)
	var callers sync.WaitGroup
	var mu sync.Mutex
	var applied []string
	for range 4 {
		callers.Go(func() {
			names, err := migrate.Up(context.Background(), pool)
			mu.Lock()
			defer mu.Unlock()
			applied = append(applied, names...)
			if err != nil {
				t.Error(err)
			}
		})
	}
	callers.Wait()
	require.Equal(t, []string{"0001_seen"}, applied, "each once, by one caller")
	require.False(t, teststack.Value[bool](t, pool, `SELECT to_regnamespace('outbox') IS NOT NULL`),
		"a consumer has no outbox")
}

// TestUpSQL adopts what psql has made, as Up does.
func TestUpSQL(t *testing.T) {
	t.Parallel()
	pool := teststack.NewEmpty(t)
	file, err := os.ReadFile("../migrations/0001_seen.up.sql")
	require.NoError(t, err)
	_, err = pool.Exec(t.Context(), string(file))
	require.NoError(t, err)
	db, err := sql.Open("postgres", pool.Config().ConnString())
	require.NoError(t, err)
	defer db.Close()
	for _, want := range [][]string{{"0001_seen"}, nil} {
		applied, err := migrate.UpSQL(t.Context(), db)
		require.NoError(t, err)
		require.Equal(t, want, applied)
	}
	require.Equal(t, 2, teststack.Value[int](t, pool, `SELECT count(*) FROM inbox.migrations`), "and goose's own")
}

// Inbox and outbox in one database do not touch each other.
func TestBesideTheOutbox(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	before := teststack.Value[int](t, pool, `SELECT count(*) FROM outbox.migrations`)
	applied, err := migrate.Up(t.Context(), pool)
	require.NoError(t, err)
	require.Equal(t, []string{"0001_seen"}, applied)
	require.Equal(t, before, teststack.Value[int](t, pool, `SELECT count(*) FROM outbox.migrations`))
	require.True(t, deliverOnce(t, pool))
}

// Any other tool can apply the files: here a plain exec of several statements.
func TestPlainFiles(t *testing.T) {
	t.Parallel()
	pool := teststack.NewEmpty(t)
	run := func(name string) {
		statements, err := os.ReadFile("../migrations/" + name)
		require.NoError(t, err)
		conn, err := pool.Acquire(t.Context())
		require.NoError(t, err)
		defer conn.Release()
		_, err = conn.Conn().PgConn().Exec(t.Context(), string(statements)).ReadAll()
		require.NoError(t, err, name)
	}
	run("0001_seen.up.sql")
	require.True(t, deliverOnce(t, pool))
	run("0001_seen.down.sql")
	require.Zero(t, teststack.Value[int](t, pool,
		`SELECT count(*) FROM pg_class WHERE relnamespace = 'inbox'::regnamespace`))
	run("0001_seen.up.sql")
}

// A consumer's role needs no more than to insert.
func TestRightToInsertIsEnough(t *testing.T) {
	t.Parallel()
	pool := teststack.NewEmpty(t)
	_, err := migrate.Up(t.Context(), pool)
	require.NoError(t, err)
	role := teststack.NewRole(t, pool)
	as := teststack.WithRole(t, pool, role)

	tx, err := as.Begin(t.Context())
	require.NoError(t, err)
	_, err = inbox.Once(t.Context(), tx, "mailer", uuid.New())
	require.ErrorContains(t, err, "permission denied for schema inbox")
	require.NoError(t, tx.Rollback(t.Context()))

	teststack.Execute(t, pool, `GRANT USAGE ON SCHEMA inbox TO `+role)
	teststack.Execute(t, pool, `GRANT INSERT ON inbox.seen TO `+role)
	require.True(t, deliverOnce(t, as))
}

// deliverOnce hands a new message to a consumer, twice.
func deliverOnce(t *testing.T, pool *pgxpool.Pool) bool {
	t.Helper()
	id := uuid.New()
	var answers []bool
	for range 2 {
		tx, err := pool.Begin(t.Context())
		require.NoError(t, err)
		first, err := inbox.Once(t.Context(), tx, "mailer", id)
		require.NoError(t, err)
		require.NoError(t, tx.Commit(t.Context()))
		answers = append(answers, first)
	}
	return answers[0] && !answers[1]
}

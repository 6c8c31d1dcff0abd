package teststack

import (
	"context"
	"database/sql"
	"maps"
	"net/url"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/jackc/pgx/v5/stdlib"
	"github.com/lib/pq"
	"github.com/stretchr/testify/require"
)

// Queryer is a pool, a connection or a transaction.
type Queryer interface {
	Query(ctx context.Context, sql string, args ...any) (pgx.Rows, error)
}

// Value returns the one value that a statement returns.
func Value[T any](t testing.TB, q Queryer, statement string, args ...any) T {
	t.Helper()
	rows, err := q.Query(t.Context(), statement, args...)
	require.NoError(t, err)
	v, err := pgx.CollectExactlyOneRow(rows, pgx.RowTo[T])
	require.NoError(t, err, statement)
	return v
}

// Values returns the values of the one column that a statement returns.
func Values[T any](t testing.TB, q Queryer, statement string, args ...any) []T {
	t.Helper()
	rows, err := q.Query(t.Context(), statement, args...)
	require.NoError(t, err)
	v, err := pgx.CollectRows(rows, pgx.RowTo[T])
	require.NoError(t, err, statement)
	return v
}

// Execute runs a statement.
func Execute(t testing.TB, pool *pgxpool.Pool, statement string, args ...any) {
	t.Helper()
	_, err := pool.Exec(t.Context(), statement, args...)
	require.NoError(t, err, statement)
}

// Another returns a second pool on pool's database, with its settings changed.
func Another(t testing.TB, pool *pgxpool.Pool, change func(*pgxpool.Config)) *pgxpool.Pool {
	t.Helper()
	config := pool.Config()
	change(config)
	other, err := pgxpool.NewWithConfig(t.Context(), config)
	require.NoError(t, err)
	t.Cleanup(other.Close)
	return other
}

// NewRole creates a role of the test's own, which may log in with its name as password.
// Roles belong to the whole server: it is dropped when the test ends.
func NewRole(t testing.TB, pool *pgxpool.Pool) string {
	t.Helper()
	role := strings.ReplaceAll("role_"+pool.Config().ConnConfig.Database, "-", "_")
	Execute(t, pool, `CREATE ROLE `+role+` LOGIN PASSWORD '`+role+`'`)
	t.Cleanup(func() {
		_, err := pool.Exec(context.Background(), `DROP OWNED BY `+role+` CASCADE; DROP ROLE `+role)
		require.NoError(t, err)
	})
	return role
}

// WithRole returns a pool that logs in as role: it has the role's rights, and no way back
// to another role.
func WithRole(t testing.TB, pool *pgxpool.Pool, role string) *pgxpool.Pool {
	t.Helper()
	as := Another(t, pool, func(c *pgxpool.Config) { c.ConnConfig.User, c.ConnConfig.Password = role, role })
	require.Equal(t, role, Value[string](t, as, `SELECT session_user::text`))
	return as
}

// OpenSQL opens pool's database with database/sql, once with each driver.
func OpenSQL(t testing.TB, pool *pgxpool.Pool) map[string]*sql.DB {
	t.Helper()
	viaPgx := stdlib.OpenDB(*pool.Config().ConnConfig)
	t.Cleanup(func() { require.NoError(t, viaPgx.Close()) })
	return map[string]*sql.DB{"pgx": viaPgx, "lib/pq": OpenPQ(t, pool, nil)}
}

// OpenPQ opens pool's database with lib/pq and the settings in more.
func OpenPQ(t testing.TB, pool *pgxpool.Pool, more url.Values) *sql.DB {
	t.Helper()
	u, err := url.Parse(pool.Config().ConnString())
	require.NoError(t, err)
	c := pool.Config().ConnConfig // may have another user than its text
	u.User = url.UserPassword(c.User, c.Password)
	settings := u.Query()
	maps.Copy(settings, more)
	u.RawQuery = settings.Encode()
	connector, err := pq.NewConnector(u.String())
	require.NoError(t, err)
	db := sql.OpenDB(connector)
	t.Cleanup(func() { require.NoError(t, db.Close()) })
	return db
}

package config_test

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"strconv"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow/internal/config"
	"github.com/outflowhq/outflow/internal/teststack"
)

// urlOf is the address of c's database, with the given query.
func urlOf(c *pgx.ConnConfig, query string) string {
	u := url.URL{Scheme: "postgres", User: url.UserPassword(c.User, c.Password), Host: net.JoinHostPort(c.Host, strconv.Itoa(int(c.Port))),
		Path: "/" + c.Database, RawQuery: query}
	return u.String()
}

// open connects as a program with this DATABASE_URL does.
func open(t *testing.T, databaseURL string) *pgxpool.Pool {
	t.Helper()
	c, err := config.Database(func(name string) string { return map[string]string{"DATABASE_URL": databaseURL}[name] })
	require.NoError(t, err)
	pool, err := pgxpool.NewWithConfig(t.Context(), c)
	require.NoError(t, err)
	t.Cleanup(pool.Close)
	return pool
}

func show(t *testing.T, pool *pgxpool.Pool, setting string) (value string) {
	t.Helper()
	require.NoError(t, pool.QueryRow(t.Context(), `SELECT pg_catalog.current_setting($1)`, pgx.QueryExecModeExec, setting).Scan(&value))
	return value
}

// What a role or a database sets is not what the programs' connections have.
func TestDatabaseSettings(t *testing.T) {
	pool := teststack.NewEmpty(t)
	database := pool.Config().ConnConfig.Database
	for _, setting := range []string{`client_encoding = 'LATIN1'`, `standard_conforming_strings = off`, `search_path = 'public'`,
		`default_transaction_isolation = 'serializable'`, `jit = on`} {
		_, err := pool.Exec(t.Context(), fmt.Sprintf(`ALTER DATABASE %s SET %s`, database, setting))
		require.NoError(t, err)
	}
	own := open(t, urlOf(pool.Config().ConnConfig, "search_path=public"))
	for setting, want := range map[string]string{"client_encoding": "UTF8", "standard_conforming_strings": "on", "search_path": "pg_catalog",
		"default_transaction_isolation": "read committed", "jit": "off", "application_name": "outflow"} {
		require.Equal(t, want, show(t, own, setting), setting)
	}
}

// PgBouncer refuses settings that it does not track: the programs do without those.
func TestDatabaseSettingsThroughPgBouncer(t *testing.T) {
	through := teststack.PgBouncer(t, teststack.NewEmpty(t))
	own := open(t, urlOf(through.ConnConfig, "default_query_exec_mode=exec"))
	require.Equal(t, "UTF8", show(t, own, "client_encoding"))
	require.NotEqual(t, "pg_catalog", show(t, own, "search_path"))
}

// A server that takes no writes is passed over, unless the URL asks for any.
func TestDatabaseReadOnly(t *testing.T) {
	readOnly, writable := teststack.NewEmpty(t), teststack.NewEmpty(t)
	_, err := readOnly.Exec(t.Context(), `ALTER DATABASE `+readOnly.Config().ConnConfig.Database+` SET default_transaction_read_only = on`)
	require.NoError(t, err)
	from := readOnly.Config().ConnConfig
	err = open(t, urlOf(from, "")).Ping(t.Context())
	require.ErrorContains(t, err, "the server is read-only: it is a standby")
	require.NoError(t, open(t, urlOf(from, "target_session_attrs=any")).Ping(context.Background()))
	require.NoError(t, open(t, urlOf(writable.Config().ConnConfig, "")).Ping(t.Context()))
}

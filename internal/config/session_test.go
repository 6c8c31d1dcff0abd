package config_test

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strconv"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow/internal/config"
	"github.com/outflowhq/outflow/internal/teststack"
)

// urlOf is the address of c's database, with the given query.
func urlOf(c *pgx.ConnConfig, query string) string {
	u := url.URL{Scheme: "postgres", User: url.UserPassword(c.User, c.Password),
		Host: net.JoinHostPort(c.Host, strconv.Itoa(int(c.Port))),
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
	require.NoError(t, pool.QueryRow(t.Context(), `SELECT pg_catalog.current_setting($1)`, pgx.QueryExecModeExec,
		setting).Scan(&value))
	return value
}

// Settings of a role or a database do not change those of the programs' connections.
func TestDatabaseSettings(t *testing.T) {
	pool := teststack.NewEmpty(t)
	database := pool.Config().ConnConfig.Database
	for _, setting := range []string{`client_encoding = 'LATIN1'`, `standard_conforming_strings = off`,
		`search_path = 'public'`,
		`default_transaction_isolation = 'serializable'`, `jit = on`} {
		_, err := pool.Exec(t.Context(), fmt.Sprintf(`ALTER DATABASE %s SET %s`, database, setting))
		require.NoError(t, err)
	}
	own := open(t, urlOf(pool.Config().ConnConfig, "search_path=public"))
	for setting, want := range map[string]string{"client_encoding": "UTF8", "standard_conforming_strings": "on",
		"search_path":                   "pg_catalog",
		"default_transaction_isolation": "read committed", "jit": "off", "plan_cache_mode": "force_generic_plan",
		"enable_seqscan": "off", "application_name": "outflow"} {
		require.Equal(t, want, show(t, own, setting), setting)
	}
}

// PgBouncer refuses settings that it does not track: the programs then connect without them.
func TestDatabaseSettingsThroughPgBouncer(t *testing.T) {
	through := teststack.PgBouncer(t, teststack.NewEmpty(t))
	own := open(t, urlOf(through.ConnConfig, "default_query_exec_mode=exec"))
	require.Equal(t, "UTF8", show(t, own, "client_encoding"))
	require.NotEqual(t, "pg_catalog", show(t, own, "search_path"))
}

// A server that accepts no writes is skipped, unless the URL asks for any server.
func TestDatabaseReadOnly(t *testing.T) {
	readOnly, writable := teststack.NewEmpty(t), teststack.NewEmpty(t)
	_, err := readOnly.Exec(t.Context(), `ALTER DATABASE `+readOnly.Config().ConnConfig.Database+` SET default_transaction_read_only = on`)
	require.NoError(t, err)
	from := readOnly.Config().ConnConfig
	err = open(t, urlOf(from, "")).Ping(t.Context())
	require.ErrorContains(t, err, "the server is read-only: it is a standby")
	require.NoError(t, open(t, urlOf(from, "target_session_attrs=any")).Ping(context.Background()))
	service := filepath.Join(t.TempDir(), "service.conf")
	require.NoError(t, os.WriteFile(service, []byte("[other]\n[shop]\ntarget_session_attrs=any\n"), 0o600))
	require.NoError(t, open(t, urlOf(from, "service=shop&servicefile="+url.QueryEscape(service))).Ping(t.Context()))
	require.ErrorContains(t, open(t, urlOf(from,
		"service=other&servicefile="+url.QueryEscape(service))).Ping(t.Context()), "the server is read-only")
	require.NoError(t, open(t, urlOf(writable.Config().ConnConfig, "")).Ping(t.Context()))
}

func TestDatabaseConnectTimeout(t *testing.T) {
	for query, want := range map[string]time.Duration{"": 10 * time.Second, "connect_timeout=0": 10 * time.Second,
		"connect_timeout=3": 3 * time.Second} {
		c, err := config.Database(func(string) string { return "postgres://127.0.0.1/x?" + query })
		require.NoError(t, err)
		require.Equal(t, want, c.ConnConfig.ConnectTimeout, query)
	}
	t.Setenv("PGCONNECT_TIMEOUT", "60")
	c, err := config.Database(func(string) string { return "postgres://127.0.0.1/x" })
	require.NoError(t, err)
	require.Equal(t, time.Minute, c.ConnConfig.ConnectTimeout)
}

// silentAtFirst is an address before the server of c which never answers the first n
// connections; taken counts all.
func silentAtFirst(t *testing.T, c *pgx.ConnConfig, n int64) (before *pgx.ConnConfig, taken *atomic.Int64) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	taken = new(atomic.Int64)
	go func() {
		for {
			from, err := l.Accept()
			if err != nil {
				return
			}
			t.Cleanup(func() { _ = from.Close() })
			if taken.Add(1) <= n {
				continue
			}
			to, err := net.Dial("tcp", net.JoinHostPort(c.Host, strconv.Itoa(int(c.Port))))
			if err != nil {
				_ = from.Close()
				continue
			}
			go func() { _, _ = io.Copy(to, from); _ = to.Close() }()
			go func() { _, _ = io.Copy(from, to); _ = from.Close() }()
		}
	}()
	before = c.Copy()
	before.Host, before.Port = "127.0.0.1", uint16(l.Addr().(*net.TCPAddr).Port)
	return before, taken
}

// An address that never answers costs one timeout, not one for the trial and one more.
func TestASilentAddressIsTriedOnce(t *testing.T) {
	before, taken := silentAtFirst(t, teststack.NewEmpty(t).Config().ConnConfig, 100)
	err := open(t, urlOf(before, "sslmode=disable&connect_timeout=1")).Ping(t.Context())
	require.ErrorContains(t, err, "failed to connect")
	require.EqualValues(t, 1, taken.Load())
}

// A connection that gets no answer delays no other.
func TestASilentConnectionHoldsUpNoOther(t *testing.T) {
	before, taken := silentAtFirst(t, teststack.NewEmpty(t).Config().ConnConfig, 1)
	pool := open(t, urlOf(before, "sslmode=disable&connect_timeout=600"))
	ctx, stop := context.WithCancel(t.Context())
	first := make(chan error, 1)
	go func() { first <- pool.Ping(ctx) }()
	require.Eventually(t, func() bool { return taken.Load() == 1 }, time.Minute, time.Millisecond)
	second := make(chan error, 1)
	go func() { second <- pool.Ping(t.Context()) }()
	select {
	case err := <-second:
		require.NoError(t, err)
	case <-time.After(time.Minute):
		t.Error("it waits for the first")
	}
	stop()
	require.Error(t, <-first)
}

// The trial is over before the connection begins: a role may have no more than one.
func TestARoleWithOneConnection(t *testing.T) {
	pool := teststack.NewEmpty(t)
	c := pool.Config().ConnConfig.Copy()
	c.User = "one_" + c.Database
	_, err := pool.Exec(t.Context(), `CREATE ROLE `+c.User+` LOGIN CONNECTION LIMIT 1`)
	require.NoError(t, err)
	t.Cleanup(func() { _, _ = pool.Exec(context.Background(), `DROP ROLE `+c.User) })
	for range 100 {
		one := open(t, urlOf(c, "pool_max_conns=1"))
		require.NoError(t, one.Ping(t.Context()))
		one.Close()
		require.Eventually(t, func() bool {
			var left int
			require.NoError(t, pool.QueryRow(t.Context(), `SELECT count(*) FROM pg_stat_activity WHERE usename = $1`,
				c.User).Scan(&left))
			return left == 0
		}, time.Minute, time.Millisecond)
	}
}

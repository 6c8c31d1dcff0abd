// Package teststack gives tests the real parts that devstack started. Each test has a migrated
// Postgres database, which is dropped when the test ends, and the address of Temporal.
//
// The invariant: no ambient setting can lead a test elsewhere. Without the parts a test is skipped;
// where CI is set, it fails.
package teststack

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow/outboxdb/migrate"
)

// The environment variables that "devstack run" sets.
const (
	databaseVariable = "DEVSTACK_DATABASE_URL"
	temporalVariable = "DEVSTACK_TEMPORAL_ADDRESS"
)

var (
	number   atomic.Int64
	template = sync.OnceValues(makeTemplate)
)

// New returns a pool on a fresh, migrated database.
func New(t testing.TB) *pgxpool.Pool {
	t.Helper()
	from, err := serverTemplate(t)
	require.NoError(t, err, "making the template database")
	return create(t, "TEMPLATE "+from)
}

// NewEmpty returns a pool on a fresh database without the outbox.
func NewEmpty(t testing.TB) *pgxpool.Pool {
	t.Helper()
	serverURL(t)
	return create(t, "TEMPLATE template1")
}

func serverTemplate(t testing.TB) (string, error) {
	serverURL(t)
	return template()
}

// serverURL returns the server's URL, or ends the test.
func serverURL(t testing.TB) *url.URL {
	t.Helper()
	u, err := url.Parse(setting(t, databaseVariable))
	require.NoError(t, err)
	requireLoopback(t, databaseVariable, u.Hostname())
	return u
}

// Temporal returns the address of the Temporal server, or ends the test.
func Temporal(t testing.TB) string {
	t.Helper()
	address := setting(t, temporalVariable)
	host, _, err := net.SplitHostPort(address)
	require.NoError(t, err)
	requireLoopback(t, temporalVariable, host)
	return address
}

// setting returns the value that devstack has set, or ends the test.
func setting(t testing.TB, variable string) string {
	t.Helper()
	value := os.Getenv(variable)
	if value != "" {
		return value
	}
	if os.Getenv("CI") != "" {
		t.Fatalf("%s is not set: run the tests with \"make test\"", variable)
	}
	t.Skipf("%s is not set: run the tests with \"make test\"", variable)
	return ""
}

func requireLoopback(t testing.TB, variable, host string) {
	t.Helper()
	ip := net.ParseIP(host)
	require.True(t, ip != nil && ip.IsLoopback(), "%s wants a loopback address, got %s", variable, host)
}

func create(t testing.TB, from string) *pgxpool.Pool {
	t.Helper()
	server := serverURL(t)
	ctx := context.Background()
	name := fmt.Sprintf("test_%d_%d", os.Getpid(), number.Add(1))
	require.NoError(t, execute(ctx, server, "CREATE DATABASE "+name+" "+from))

	own := *server
	own.Path = "/" + name
	config, err := pgxpool.ParseConfig(own.String())
	require.NoError(t, err)
	config.MaxConns = 12
	pool, err := pgxpool.NewWithConfig(ctx, config)
	require.NoError(t, err)
	t.Cleanup(func() {
		pool.Close()
		drop := func() error { return execute(ctx, server, "DROP DATABASE "+name+" WITH (FORCE)") }
		err := drop()
		// The server ends a temporary replication slot a moment after its connection.
		for deadline := time.Now().Add(time.Minute); err != nil && time.Now().Before(deadline); err = drop() {
			time.Sleep(100 * time.Millisecond)
		}
		if err != nil {
			t.Errorf("dropping the test's database: %v", err)
		}
	})
	return pool
}

// makeTemplate migrates one database in a process. The tests' databases are copies of it.
func makeTemplate() (string, error) {
	server, err := url.Parse(os.Getenv(databaseVariable))
	if err != nil {
		return "", err
	}
	ctx := context.Background()
	if err := sweep(ctx, server); err != nil {
		return "", err
	}
	name := fmt.Sprintf("template_%d", os.Getpid())
	if err := execute(ctx, server, "CREATE DATABASE "+name); err != nil {
		return "", err
	}
	own := *server
	own.Path = "/" + name
	pool, err := pgxpool.New(ctx, own.String())
	if err != nil {
		return "", err
	}
	defer pool.Close()
	if _, err = migrate.Up(ctx, pool); err == nil {
		// Copies of a database would else share its identity: each writes its own.
		_, err = pool.Exec(ctx, `DELETE FROM outbox.identity`)
	}
	return name, err
}

// sweep drops databases that ended processes have left: templates, and those of killed tests. The
// server and the processes run on the same machine.
func sweep(ctx context.Context, server *url.URL) error {
	conn, err := pgx.Connect(ctx, server.String())
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	rows, err := conn.Query(ctx, `
		SELECT datname::text FROM pg_database WHERE datname ~ '^(template|test)_[0-9]+(_[0-9]+)?$'`)
	if err != nil {
		return err
	}
	names, err := pgx.CollectRows(rows, pgx.RowTo[string])
	if err != nil {
		return err
	}
	for _, name := range names {
		pid, err := strconv.Atoi(strings.Split(name, "_")[1])
		if err != nil {
			continue
		}
		process, err := os.FindProcess(pid)
		if err == nil && !errors.Is(process.Signal(syscall.Signal(0)), os.ErrProcessDone) {
			continue
		}
		// Another process may sweep at the same time; the next one tries again.
		_, _ = conn.Exec(ctx, "DROP DATABASE IF EXISTS "+name)
	}
	return nil
}

func execute(ctx context.Context, server *url.URL, statement string) error {
	conn, err := pgx.Connect(ctx, server.String())
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	if _, err := conn.Exec(ctx, statement); err != nil {
		return fmt.Errorf("%s: %w", strings.Fields(statement)[0], err)
	}
	return nil
}

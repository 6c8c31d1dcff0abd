package listen_test

import (
	"context"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/outflowhq/outflow/internal/listen"
	"github.com/outflowhq/outflow/internal/teststack"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// listening is a Listener that runs, and what it reported.
type listening struct {
	ready        chan struct{}
	notified     chan string
	lost         chan error
	unregistered chan struct{}
	stop         func()
}

// run starts a Listener on a connection with the settings config.
func run(t *testing.T, pool *pgxpool.Pool, config *pgx.ConnConfig) *listening {
	t.Helper()
	r := &listening{
		ready: make(chan struct{}, 100), notified: make(chan string, 100), lost: make(chan error,
			100), unregistered: make(chan struct{}, 100),
	}
	l := listen.Listener{
		Channel:  func(uuid.UUID) string { return "a channel" },
		Config:   func(context.Context) (*pgx.ConnConfig, error) { return config, nil },
		Echo:     func(connection uuid.UUID) string { return "echo " + connection.String() },
		Interval: 100 * time.Millisecond, EchoTimeout: 300 * time.Millisecond,
		Register: func(ctx context.Context, connection uuid.UUID) error {
			_, err := pool.Exec(ctx, `SELECT pg_notify('a channel', 'echo ' || $1::text)`, connection.String())
			return err
		},
		Unregister: func(context.Context, uuid.UUID) { r.unregistered <- struct{}{} },
		Ready:      func(context.Context, uuid.UUID) error { r.ready <- struct{}{}; return nil },
		Notified:   func(payload string) { r.notified <- payload },
		Lost:       func(reason error) { r.lost <- reason },
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		l.Run(ctx)
	}()
	r.stop = func() { cancel(); <-done }
	t.Cleanup(r.stop)
	return r
}

func receive[T any](t *testing.T, from <-chan T) T {
	t.Helper()
	select {
	case v := <-from:
		return v
	case <-time.After(20 * time.Second):
		t.Fatal("nothing came")
		panic("unreachable")
	}
}

func notify(t *testing.T, pool *pgxpool.Pool, payload string) {
	t.Helper()
	teststack.Execute(t, pool, `SELECT pg_notify('a channel', $1)`, payload)
}

func TestNotificationsArrive(t *testing.T) {
	t.Parallel()
	pool := teststack.NewEmpty(t)
	r := run(t, pool, pool.Config().ConnConfig)
	receive(t, r.ready)
	notify(t, pool, "first")
	notify(t, pool, "second")
	require.Equal(t, "first", receive(t, r.notified))
	require.Equal(t, "second", receive(t, r.notified))
	r.stop()
	require.ErrorIs(t, receive(t, r.lost), context.Canceled)
	receive(t, r.unregistered)
	require.Empty(t, r.notified, "an echo is no notification")
}

func TestABrokenConnectionIsReplaced(t *testing.T) {
	t.Parallel()
	pool := teststack.NewEmpty(t)
	r := run(t, pool, pool.Config().ConnConfig)
	for range 3 {
		receive(t, r.ready)
		teststack.Execute(t, pool, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity
			WHERE datname = current_database() AND query LIKE 'LISTEN%'`)
		require.ErrorContains(t, receive(t, r.lost), "waiting for a notification")
		receive(t, r.unregistered)
	}
	receive(t, r.ready)
	notify(t, pool, "after all")
	require.Equal(t, "after all", receive(t, r.notified))
}

// A dead connection looks like one on which nothing was sent.
func TestASilentConnectionIsReplaced(t *testing.T) {
	t.Parallel()
	pool := teststack.NewEmpty(t)
	relay, config := teststack.NewRelay(t, pool)
	r := run(t, pool, config)
	receive(t, r.ready)
	relay.DropAll.Store(true)
	require.ErrorIs(t, receive(t, r.lost), listen.ErrNotArriving)
	receive(t, r.ready)
}

func TestBehindATransactionPooler(t *testing.T) {
	t.Parallel()
	pool := teststack.NewEmpty(t)
	relay, config := teststack.NewRelay(t, pool)
	relay.DropNotifications.Store(true)
	r := run(t, pool, config)
	for range 2 {
		require.ErrorIs(t, receive(t, r.lost), listen.ErrNotArriving)
	}
	require.Empty(t, r.ready)
}

func TestWithoutAServer(t *testing.T) {
	t.Parallel()
	pool := teststack.NewEmpty(t)
	config := pool.Config().ConnConfig
	config.Host, config.Port, config.Fallbacks = "127.0.0.1", 1, nil
	r := run(t, pool, config)
	for range 2 {
		require.ErrorContains(t, receive(t, r.lost), "opening the connection to listen on")
	}
	require.Empty(t, r.ready)
	require.Empty(t, r.unregistered)
}

// A role's idle_session_timeout does not end a connection on which nothing happens for longer.
func TestAnIdleConnectionStays(t *testing.T) {
	t.Parallel()
	pool := teststack.NewEmpty(t)
	config := pool.Config().ConnConfig
	config.RuntimeParams["idle_session_timeout"] = "200ms"
	r := run(t, pool, config)
	receive(t, r.ready)
	select {
	case reason := <-r.lost:
		require.NoError(t, reason)
	case <-time.After(2 * time.Second):
	}
	notify(t, pool, "still here")
	require.Equal(t, "still here", receive(t, r.notified))
}

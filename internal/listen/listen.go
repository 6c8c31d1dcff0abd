// Package listen keeps a connection on which the notifications of a Postgres channel
// arrive, and proves again and again that they do: a transaction pooler drops them, and a
// half-open connection looks like a silent one.
//
// The invariant: Ready is called for a connection only after a notification that another
// session sent has arrived on it, and a connection on which a later one does not arrive is
// replaced.
package listen

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
)

const (
	// connectTimeout bounds opening a connection, closeTimeout closing it.
	connectTimeout = 5 * time.Second
	closeTimeout   = time.Second
	// The pauses before a connection is replaced double between these.
	minPause = 100 * time.Millisecond
	maxPause = 10 * time.Second
	// poolerPause lies between connections on which nothing arrives: each leaves a LISTEN in a session of
	// a transaction pooler.
	poolerPause = time.Minute
)

// stayOpenSQL keeps a role's idle_session_timeout from ending a connection that listens. A host that is
// gone and acknowledges nothing loses its connection after 25 s: until then the server keeps all
// notifications for it.
const stayOpenSQL = `
SELECT pg_catalog.set_config(s.name, s.value, false)
  FROM (VALUES ('idle_session_timeout', '0'), ('tcp_user_timeout', '25000')) AS s (name, value)
 WHERE pg_catalog.current_setting(s.name) <> s.value`

// ErrNotArriving says that a notification which was sent did not arrive.
var ErrNotArriving = errors.New(
	"notifications do not arrive: a transaction pooler drops them, the connection leads to another database, " +
		"or it is dead")

// Listener listens on a channel. All fields are required. Its functions are called from
// several goroutines.
type Listener struct {
	// Channel is that of a connection.
	Channel func(connection uuid.UUID) string
	// Config returns the settings of the next connection.
	Config func(ctx context.Context) (*pgx.ConnConfig, error)
	// Register has another session notify the channel with Echo(connection). It is called for
	// each new connection, and again each Interval.
	Register func(ctx context.Context, connection uuid.UUID) error
	// Unregister undoes Register when the connection has ended.
	Unregister func(ctx context.Context, connection uuid.UUID)
	Echo       func(connection uuid.UUID) string
	// Interval is the time between two registrations, EchoTimeout how soon each must arrive.
	Interval, EchoTimeout time.Duration

	// Ready is called once for each connection, after the first echo. ctx ends with the
	// connection. An error ends the connection.
	Ready func(ctx context.Context, connection uuid.UUID) error
	// Notified is called with each notification but the connection's own echo.
	Notified func(payload string)
	// Lost is called with the reason when a connection has ended, or could not be opened.
	Lost func(reason error)
}

// Run listens until ctx ends. It replaces a connection that breaks.
func (l *Listener) Run(ctx context.Context) {
	pause := minPause
	for {
		echoed, err := l.listenOnce(ctx)
		l.Lost(err)
		if echoed {
			pause = minPause
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause/2 + rand.N(pause/2)):
		}
		longest := maxPause
		if errors.Is(err, ErrNotArriving) && !echoed {
			longest = poolerPause
		}
		pause = min(2*pause, longest)
	}
}

// listenOnce listens until the connection breaks. echoed says that it ever worked.
func (l *Listener) listenOnce(ctx context.Context) (echoed bool, err error) {
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	connection, echoes := uuid.New(), make(chan struct{}, 1)
	conn, err := l.connect(ctx, connection)
	if err != nil {
		return false, err
	}
	var registering sync.WaitGroup
	registering.Go(func() { end(l.keepRegistered(ctx, connection, echoes)) })
	for {
		notification, err := conn.WaitForNotification(ctx)
		if err != nil {
			end(fmt.Errorf("waiting for a notification: %w", err))
			break
		}
		if notification.Payload != l.Echo(connection) {
			l.Notified(notification.Payload)
			continue
		}
		echoed = true
		select {
		case echoes <- struct{}{}:
		default:
		}
	}
	registering.Wait()
	l.close(ctx, conn, connection)
	return echoed, context.Cause(ctx)
}

// connect opens a connection that listens.
func (l *Listener) connect(ctx context.Context, connection uuid.UUID) (*pgx.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	config, err := l.Config(ctx)
	if err != nil {
		return nil, err
	}
	conn, err := pgx.ConnectConfig(ctx, config.Copy())
	if err != nil {
		return nil, fmt.Errorf("opening the connection to listen on: %w", err)
	}
	if _, err := conn.Exec(ctx, stayOpenSQL); err != nil {
		_ = conn.Close(ctx)
		return nil, fmt.Errorf("preparing the connection to listen on: %w", err)
	}
	channel := l.Channel(connection)
	if _, err := conn.Exec(ctx, "LISTEN "+pgx.Identifier{channel}.Sanitize()); err != nil {
		_ = conn.Close(ctx)
		return nil, fmt.Errorf("listening on %s: %w", channel, err)
	}
	return conn, nil
}

// close closes the connection and unregisters it, though ctx has ended.
func (l *Listener) close(ctx context.Context, conn *pgx.Conn, connection uuid.UUID) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), closeTimeout)
	defer cancel()
	_ = conn.Close(ctx)
	l.Unregister(ctx, connection)
}

// keepRegistered registers the connection, calls Ready, and registers it again each
// Interval. It returns why the connection is to end.
func (l *Listener) keepRegistered(ctx context.Context, connection uuid.UUID, echoes <-chan struct{}) error {
	if err := l.register(ctx, connection, echoes); err != nil {
		return err
	}
	readyCtx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	defer running.Wait()
	defer cancel()
	ready := make(chan error, 1)
	running.Go(func() { ready <- l.Ready(readyCtx, connection) })
	renew := time.NewTicker(l.Interval)
	defer renew.Stop()
	for {
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case err := <-ready:
			if err != nil {
				return err
			}
		case <-renew.C:
			if err := l.register(ctx, connection, echoes); err != nil {
				return err
			}
		}
	}
}

// register registers the connection and waits for the echo.
func (l *Listener) register(ctx context.Context, connection uuid.UUID, echoes <-chan struct{}) error {
	ctx, cancel := context.WithTimeoutCause(ctx, l.EchoTimeout, ErrNotArriving)
	defer cancel()
	if err := l.Register(ctx, connection); err != nil {
		return fmt.Errorf("registering the connection: %w", err)
	}
	select {
	case <-echoes:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// PoolConfig returns what a pool opens its connections with, as Listener.Config wants it.
func PoolConfig(pool *pgxpool.Config) func(context.Context) (*pgx.ConnConfig, error) {
	return func(ctx context.Context) (*pgx.ConnConfig, error) {
		config := pool.ConnConfig.Copy()
		if pool.BeforeConnect != nil {
			if err := pool.BeforeConnect(ctx, config); err != nil {
				return nil, fmt.Errorf("preparing the connection to listen on: %w", err)
			}
		}
		return config, nil
	}
}

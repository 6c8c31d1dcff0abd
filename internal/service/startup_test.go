package service

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/sdk/client"

	"github.com/outflowhq/outflow/internal/config"
	"github.com/outflowhq/outflow/internal/testport"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/outboxdb/migrate"
	"github.com/outflowhq/outflow/publish/webhook"
	"github.com/outflowhq/outflow/scanner"
)

// late is an address at which nobody listens until the test has it lead to target.
type late struct {
	*testing.T
	testport.Port
	target string
}

func newLate(t *testing.T, target string) late {
	t.Helper()
	return late{t, testport.Reserve(t), target}
}

func (l late) comeUp() {
	l.Helper()
	listener := l.Listen(l.T)
	l.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			from, err := listener.Accept()
			if err != nil {
				return
			}
			to, err := net.Dial("tcp", l.target)
			if err != nil {
				_ = from.Close()
				continue
			}
			go func() { _, _ = io.Copy(to, from); _ = to.Close() }()
			go func() { _, _ = io.Copy(from, to); _ = from.Close() }()
		}
	}()
}

// daemonConfig is that of a daemon on the real parts.
func daemonConfig(t *testing.T, databaseURL, temporal string) config.Config {
	t.Helper()
	database, err := pgxpool.ParseConfig(databaseURL)
	require.NoError(t, err)
	name := "test-" + uuid.NewString()
	return config.Config{
		HealthAddress: "127.0.0.1:0", Database: database, Temporal: client.Options{HostPort: temporal},
		Brokers: brokersOf(aws.Config{Region: "eu-west-1"}, webhook.Options{}),
		Scanner: scanner.Options{Outbox: name, TaskQueue: name, PollInterval: 20 * time.Millisecond},
	}
}

// daemon runs a program of this package.
type daemon struct {
	*testing.T
	log   *announced
	stop  context.CancelFunc
	ended chan error
}

func startDaemon(t *testing.T, run func(context.Context, config.Config, *slog.Logger) error, c config.Config) *daemon {
	t.Helper()
	ctx, stop := context.WithCancel(t.Context())
	d := &daemon{T: t, log: &announced{}, stop: stop, ended: make(chan error, 1)}
	go func() { d.ended <- run(ctx, c, slog.New(slog.NewTextHandler(d.log, nil))) }()
	t.Cleanup(stop)
	return d
}

// until waits for an answer of /readyz.
func (d *daemon) until(status int, text string) {
	d.Helper()
	var got string
	require.Eventually(d, func() bool {
		if d.log.url() == "" {
			return false
		}
		var s int
		s, got = probe(d.T, d.log.url()+"/readyz")
		return s == status && got == text
	}, time.Minute, 10*time.Millisecond, "%s", d.log)
}

// TestPartsThatComeUpLate: nothing is there when the daemon starts. Each part that
// comes takes it further, up to the schema.
func TestPartsThatComeUpLate(t *testing.T) {
	t.Parallel()
	for name, run := range map[string]func(context.Context, config.Config, *slog.Logger) error{"starter": Starter,
		"worker": Worker} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			pool := teststack.NewEmpty(t)
			own := pool.Config().ConnConfig
			database := newLate(t, net.JoinHostPort(own.Host, fmt.Sprint(own.Port)))
			engine := newLate(t, teststack.Temporal(t))
			d := startDaemon(t, run, daemonConfig(t, fmt.Sprintf("postgres://%s@%s/%s?sslmode=disable", own.User,
				database.Address, own.Database), engine.Address))
			d.until(503, "starting: database: not ready\n")
			status, _ := probe(t, d.log.url()+"/livez")
			assert.Equal(t, 200, status)
			require.Contains(t, d.log.String(), `msg="waiting at the start" for=database error=`)
			assert.Contains(t, d.log.String(), "connection refused")

			database.comeUp()
			require.Eventually(t, func() bool { return strings.Contains(d.log.String(), `run \"outflow migrate up\"`) },
				time.Minute, 10*time.Millisecond)
			_, err := migrate.Up(t.Context(), pool)
			require.NoError(t, err)
			d.until(503, "starting: temporal: not ready\n")
			engine.comeUp()
			d.until(200, "ok\n")
			assert.Contains(t, d.log.String(), `msg="no longer waiting" for=temporal`)
			d.stop()
			require.NoError(t, <-d.ended)
		})
	}
}

// Not everything that speaks the protocol answers.
func TestAServerThatAnswersNothingIsWaitedFor(t *testing.T) {
	t.Parallel()
	d := startDaemon(t, Worker, daemonConfig(t, "postgres://app:right@"+askForPassword(t,
		func() string { return "right" })+"/x?sslmode=disable", "127.0.0.1:1"))
	require.Eventually(t, func() bool { return strings.Contains(d.log.String(), "reading the session's settings") },
		time.Minute, 10*time.Millisecond)
	d.stop()
	require.NoError(t, <-d.ended)
}

// A daemon that still waits is stopped as any other.
func TestStopWhileWaiting(t *testing.T) {
	t.Parallel()
	for _, temporal := range []bool{false, true} {
		database := "postgres://nobody@127.0.0.1:1/none"
		if temporal {
			database = teststack.New(t).Config().ConnString()
		}
		d := startDaemon(t, Worker, daemonConfig(t, database, "127.0.0.1:1"))
		require.Eventually(t, func() bool { return strings.Contains(d.log.String(), "waiting at the start") },
			time.Minute, 10*time.Millisecond)
		d.stop()
		require.NoError(t, <-d.ended)
		assert.Contains(t, d.log.String(), "msg=stopping")
	}
}

// Waiting corrects no mistake in the settings.
func TestMistakesEndTheStart(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	temporal := teststack.Temporal(t)
	own := pool.Config().ConnConfig
	at := fmt.Sprintf("%s:%d", own.Host, own.Port)
	good := fmt.Sprintf("postgres://%s@%s/%s?sslmode=disable", own.User, at, own.Database)
	for name, c := range map[string]struct {
		database string
		temporal client.Options
		says     string
	}{
		"an unknown database": {"postgres://" + own.User + "@" + at + "/nosuch?sslmode=disable", client.Options{},
			"SQLSTATE 3D000"},
		"an unknown role": {"postgres://nosuch@" + at + "/" + own.Database + "?sslmode=disable", client.Options{},
			"SQLSTATE 28000"},
		"a wrong password": {"postgres://app:wrong@" + askForPassword(t, func() string { return "right" }) +
			"/x?sslmode=disable", client.Options{}, "SQLSTATE 28P01"},
		"no TLS there": {"postgres://" + own.User + "@" + at + "/" + own.Database + "?sslmode=require",
			client.Options{}, "server refused TLS connection"},
		"an unknown parameter": {good + "&nosuch=1", client.Options{}, "SQLSTATE 42704"},
		"an unknown namespace": {good, client.Options{HostPort: temporal, Namespace: "nosuch"},
			`looking for the namespace "nosuch" (TEMPORAL_NAMESPACE): Namespace nosuch is not found`},
		"TLS with a Temporal without": {good,
			client.Options{HostPort: temporal, ConnectionOptions: client.ConnectionOptions{TLS: &tls.Config{}}},
			"first record does not look like a TLS handshake"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			config := daemonConfig(t, c.database, "127.0.0.1:1")
			if c.temporal.HostPort != "" {
				config.Temporal = c.temporal
			}
			d := startDaemon(t, Starter, config)
			require.ErrorContains(t, <-d.ended, c.says)
			assert.NotContains(t, d.log.String(), "waiting")
		})
	}
}

// A single pass is somebody's job, who wants to know.
func TestOnceDoesNotWait(t *testing.T) {
	t.Parallel()
	err := Once(t.Context(), daemonConfig(t, "postgres://nobody@127.0.0.1:1/none", "127.0.0.1:1"), time.Minute,
		io.Discard, quiet)
	require.ErrorContains(t, err, "connection refused")
}

func TestWhatTheDatabasesAnswersMean(t *testing.T) {
	coded := func(code string) error { return &pgconn.PgError{Severity: "FATAL", Code: code} }
	for err, ends := range map[error]bool{
		coded("28P01"): true, coded("28000"): true, coded("3D000"): true, coded("42704"): true,
		coded("57P03"): false, coded("57P01"): false, coded("53300"): false, coded("08P01"): false, coded("42501"): false, coded("25006"): false,
		&net.DNSError{Err: "no such host", IsNotFound: true}:                 false,
		context.DeadlineExceeded:                                             false,
		&tls.CertificateVerificationError{Err: x509.UnknownAuthorityError{}}: true,
		tls.RecordHeaderError{Msg: "first record does not look like"}:        true,
		&net.OpError{Op: "remote error", Err: tls.AlertError(116)}:           true,  // certificate required
		&net.OpError{Op: "remote error", Err: tls.AlertError(80)}:            false, // internal error
		// Each server's answer counts, and that of the server's own field for programs.
		errors.Join(coded("28P01"), coded("57P03")):                                      false,
		errors.Join(coded("28P01"), fmt.Errorf("again: %w", coded("28000"))):             true,
		&pgconn.PgError{Severity: "ВАЖНО", SeverityUnlocalized: "FATAL", Code: "42704"}:  true,
		&pgconn.PgError{Severity: "ОШИБКА", SeverityUnlocalized: "ERROR", Code: "42704"}: false,
	} {
		assert.Equal(t, ends, databaseRefuses(fmt.Errorf("connecting: %w", err)), "%v", err)
	}
}

// backend is a server of Postgres's protocol that has serve answer each connection.
func backend(t *testing.T, serve func(conn net.Conn, b *pgproto3.Backend)) (address string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = l.Close() })
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				serve(conn, pgproto3.NewBackend(conn, conn))
			}()
		}
	}()
	return l.Addr().String()
}

// answering is a server that answers a client which asks for TLS with a byte, and any other client
// with an error of this code. Then it ends the connection. It ends it at once where code is empty.
func answering(t *testing.T, toTLS byte, code string) (address string) {
	t.Helper()
	return backend(t, func(conn net.Conn, b *pgproto3.Backend) {
		first, err := b.ReceiveStartupMessage()
		if _, asks := first.(*pgproto3.SSLRequest); err == nil && asks {
			_, _ = conn.Write([]byte{toTLS})
		} else if err == nil && code != "" {
			b.Send(&pgproto3.ErrorResponse{Severity: "FATAL", Code: code, Message: "no"})
			_ = b.Flush()
		}
	})
}

// With sslmode=prefer, the default, each server is tried with TLS and without.
func TestEveryWayToTheDatabaseIsJudged(t *testing.T) {
	away := newLate(t, "").Address
	for name, c := range map[string]struct {
		servers []string
		query   string
		ends    bool
	}{
		"a wrong password, no TLS":               {[]string{answering(t, 'N', "28P01")}, "", true},
		"an unknown role, no TLS":                {[]string{answering(t, 'N', "28000")}, "", true},
		"no TLS, and it is required":             {[]string{answering(t, 'N', "")}, "sslmode=require", true},
		"no TLS, and the server ends":            {[]string{answering(t, 'N', "")}, "", false},
		"no TLS, and the server starts":          {[]string{answering(t, 'N', "57P03")}, "", false},
		"TLS ends, and is wanted":                {[]string{answering(t, 'S', "28000")}, "", false},
		"one without the required TLS, one away": {[]string{answering(t, 'N', ""), away}, "sslmode=require", false},
		"one that starts, one with an unknown role": {[]string{answering(t, 'N', "57P03"), answering(t, 'N', "28000")},
			"", false},
		"two with an unknown role": {[]string{answering(t, 'N', "28000"), answering(t, 'N', "28000")},
			"", true},
		"a parameter that it does not take": {[]string{answering(t, 'N', "42704")}, "sslmode=disable", true},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := pgconn.Connect(t.Context(), "postgres://app:secret@"+strings.Join(c.servers, ",")+"/x?"+c.query)
			require.Error(t, err)
			assert.Equal(t, c.ends, databaseRefuses(fmt.Errorf("looking for the schema: %w", err)), "%v", err)
		})
	}
}

// A standby without TLS, and a URL that does not say so: it may be promoted.
func TestAStandbyIsWaitedFor(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	own := pool.Config().ConnConfig
	_, err := pool.Exec(t.Context(), `ALTER DATABASE `+own.Database+` SET default_transaction_read_only = on`)
	require.NoError(t, err)
	c := daemonConfig(t, "postgres://127.0.0.1/x", "127.0.0.1:1")
	url := fmt.Sprintf("postgres://%s:%s@%s:%d/%s", own.User, own.Password, own.Host, own.Port, own.Database)
	c.Database, err = config.Database(func(name string) string { return map[string]string{"DATABASE_URL": url}[name] })
	require.NoError(t, err)
	d := startDaemon(t, Worker, c)
	require.Eventually(t, func() bool {
		return strings.Contains(d.log.String(), "waiting at the start") || len(d.ended) > 0
	}, time.Minute, 10*time.Millisecond)
	assert.Contains(t, d.log.String(), "the server is read-only")
	d.stop()
	require.NoError(t, <-d.ended)
}

func TestWhatTemporalsAnswersMean(t *testing.T) {
	for err, ends := range map[error]bool{
		serviceerror.NewPermissionDenied("no right", ""): true,
		serviceerror.NewUnavailable("shard"):             false,
		serviceerror.NewDeadlineExceeded("slow"):         false,
		serviceerror.NewNotFound("else"):                 false,
		serviceerror.NewUnavailable(`connection error: desc = "transport: authentication handshake failed: tls: failed to verify certificate: x509: certificate has expired"`): true,
		serviceerror.NewUnavailable(`connection error: desc = "transport: Error while dialing: connection refused"`):                                                           false,
		serviceerror.NewUnavailable("remote error: tls: certificate required"):                                                                                                 true,
		serviceerror.NewUnavailable("remote error: tls: internal error"):                                                                                                       false,
	} {
		assert.Equal(t, ends, temporalRefuses(fmt.Errorf("connecting: %w", err)), "%v", err)
	}
}

// Installers register the namespace seconds after the server answers.
func TestANamespaceMayComeLaterThanItsServer(t *testing.T) {
	missing := error(serviceerror.NewNamespaceNotFound("default"))
	assert.True(t, new(namespaceWait).isOver(missing), "the server was there first")
	synctest.Test(t, func(t *testing.T) {
		late := new(namespaceWait)
		assert.False(t, late.isOver(serviceerror.NewUnavailable("starting")))
		assert.False(t, late.isOver(missing))
		time.Sleep(namespaceGrace)
		assert.False(t, late.isOver(missing))
		time.Sleep(time.Nanosecond)
		assert.True(t, late.isOver(missing), "it does not come")
	})
}

// The log has a line every few seconds, not one for each try.
func TestWaitingIsSaidNowAndThen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &announced{}
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
		defer cancel()
		tries := 0
		err := startup{log: slog.New(slog.NewTextHandler(log, nil))}.until(ctx, "database",
			func(context.Context) error {
				tries++
				return errors.New("away")
			}, func(error) bool { return false })
		require.ErrorIs(t, err, context.DeadlineExceeded)
		assert.InDelta(t, int(10*time.Minute/waitLogInterval), strings.Count(log.String(), "waiting at the start"), 1)
		assert.GreaterOrEqual(t, tries, int(10*time.Minute/tryPause))
	})
}

// askForPassword is a server that accepts one password, which may change, and answers every
// statement with nothing.
func askForPassword(t *testing.T, right func() string) (address string) {
	t.Helper()
	return backend(t, func(_ net.Conn, b *pgproto3.Backend) { serveWithPassword(b, right) })
}

func serveWithPassword(b *pgproto3.Backend, right func() string) {
	if _, err := b.ReceiveStartupMessage(); err != nil {
		return
	}
	b.Send(&pgproto3.AuthenticationCleartextPassword{})
	if b.Flush() != nil || b.SetAuthType(pgproto3.AuthTypeCleartextPassword) != nil {
		return
	}
	answer, err := b.Receive()
	if err != nil {
		return
	}
	if p, ok := answer.(*pgproto3.PasswordMessage); !ok || p.Password != right() {
		b.Send(&pgproto3.ErrorResponse{Severity: "FATAL", Code: "28P01", Message: "password authentication failed"})
		_ = b.Flush()
		return
	}
	b.Send(&pgproto3.AuthenticationOk{})
	for {
		b.Send(&pgproto3.ReadyForQuery{TxStatus: 'I'})
		if b.Flush() != nil {
			return
		}
		if _, err := b.Receive(); err != nil {
			return
		}
		b.Send(&pgproto3.EmptyQueryResponse{})
	}
}

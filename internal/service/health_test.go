package service

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/client"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/config"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/outboxdb"
	"github.com/outflowhq/outflow/publish/publishtest/fakesqs"
	"github.com/outflowhq/outflow/publish/webhook"
	"github.com/outflowhq/outflow/scanner"
)

var quiet = slog.New(slog.DiscardHandler)

// probe asks once and returns the status and the text.
func probe(t *testing.T, url string) (int, string) {
	t.Helper()
	resp, err := http.Get(url)
	require.NoError(t, err)
	defer resp.Body.Close()
	body, err := io.ReadAll(resp.Body)
	require.NoError(t, err)
	return resp.StatusCode, string(body)
}

// local is a health that runs on a free port of this host.
func local(t *testing.T) (h *health, url string) {
	t.Helper()
	h, err := newHealth(t.Context(), "127.0.0.1:0", nil, quiet)
	require.NoError(t, err)
	t.Cleanup(h.close)
	return h, "http://" + h.listener.Addr().String()
}

func TestReadyOnlyBetweenStartAndStop(t *testing.T) {
	h, url := local(t)
	requireProbe := func(path string, status int, text string) {
		t.Helper()
		gotStatus, gotText := probe(t, url+path)
		require.Equal(t, status, gotStatus)
		require.Equal(t, text, gotText)
	}
	requireProbe("/livez", 200, "ok\n")
	requireProbe("/readyz", 503, "starting\n")
	h.started(check{"database", func(context.Context) error { return nil }})
	requireProbe("/readyz", 200, "ok\n")
	h.stopping()
	requireProbe("/readyz", 503, "stopping\n")
	requireProbe("/livez", 200, "ok\n")
	h.close()
	_, err := net.Dial("tcp", h.listener.Addr().String())
	require.Error(t, err, "the port is free again")
}

func TestReadyNamesWhatFails(t *testing.T) {
	var down, late, checks atomic.Int32
	log := &announced{}
	h := &health{log: slog.New(slog.NewTextHandler(log, nil))}
	h.started(
		check{"database", func(context.Context) error {
			checks.Add(1)
			if down.Load() > 0 {
				return errors.New("user=shop database=orders at 10.0.0.7: connection refused")
			}
			return nil
		}},
		check{"temporal", func(ctx context.Context) error {
			if late.Load() > 0 {
				<-ctx.Done()
				return ctx.Err()
			}
			return nil
		}},
	)
	server := httptest.NewServer(h.handler(nil))
	defer server.Close()
	again := func() (int, string) { // as if a second were over
		h.mu.Lock()
		h.checkedAt = time.Time{}
		h.mu.Unlock()
		return probe(t, server.URL+"/readyz")
	}

	status, text := again()
	require.Equal(t, 200, status, text)
	down.Store(1)
	status, text = again()
	assert.Equal(t, 503, status)
	assert.Equal(t, "database: not ready\n", text)
	late.Store(1)
	began := time.Now()
	status, text = again()
	assert.Equal(t, 503, status)
	assert.Equal(t, "database: not ready\ntemporal: not ready\n", text)
	assert.InDelta(t, checkTimeout.Seconds(), time.Since(began).Seconds(), 1)

	down.Store(0)
	late.Store(0)
	before := checks.Load()
	status, _ = again()
	require.Equal(t, 200, status)
	for range 5 {
		status, _ = probe(t, server.URL+"/readyz")
		require.Equal(t, 200, status)
	}
	assert.Less(t, checks.Load()-before, int32(5), "an answer serves all probes for a second")
	assert.Equal(t, 1, strings.Count(log.String(),
		`msg="not ready" part=database error="user=shop database=orders at 10.0.0.7: connection refused"`), "%s", log)
	assert.Equal(t, 1, strings.Count(log.String(), `msg="not ready" part=temporal error="context deadline exceeded"`),
		"%s", log)
	assert.Equal(t, 2, strings.Count(log.String(), `msg="ready again"`), "%s", log)
}

// What stays the same is said once a minute.
func TestWhyItIsNotReadyIsSaidNowAndThen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := &announced{}
		h := &health{log: slog.New(slog.NewTextHandler(log, nil))}
		for range 600 {
			h.logReasons([]failure{{"database", errors.New("away")}})
			time.Sleep(time.Second)
		}
		assert.Equal(t, 10, strings.Count(log.String(), "away"))
	})
}

// Connections that ask nothing take no descriptors from deliveries, and keep no probe
// from its answer.
func TestIdleCallers(t *testing.T) {
	h, url := local(t)
	h.started()
	var closed atomic.Int32
	const idle = 1000
	conns := make([]net.Conn, idle)
	for i := range conns {
		conn, err := net.Dial("tcp", h.listener.Addr().String())
		require.NoError(t, err)
		defer conn.Close()
		conns[i] = conn
		text := [...]string{"", "GET /livez HTTP/1.1\r\n", "GET /livez HTTP/1.1\r\nHost: a\r\n\r\n"}[i%3]
		_, _ = io.WriteString(conn, text) // it may be closed already
		go func() {
			_, _ = io.Copy(io.Discard, conn)
			closed.Add(1)
		}()
		if i%100 == 99 {
			status, text := probe(t, url+"/readyz")
			require.Equal(t, "200 ok\n", fmt.Sprintf("%d %s", status, text))
		}
	}
	require.Eventually(t, func() bool { return closed.Load() >= idle-maxCallers }, time.Minute, 10*time.Millisecond,
		"closed at once, beyond the bound")
	require.Eventually(t, func() bool { return closed.Load() == idle }, time.Minute, 10*time.Millisecond,
		"and the others soon")
}

// Connections that have sent a request are closed last.
func TestWhichConnectionIsClosed(t *testing.T) {
	c := &callers{}
	var conns [maxCallers + 2]net.Conn
	gone := func(i int) bool {
		return errors.Is(conns[i].SetDeadline(time.Time{}), io.ErrClosedPipe)
	}
	for i := range conns {
		conns[i], _ = net.Pipe()
		c.changed(conns[i], http.StateNew)
		if i < 3 {
			c.changed(conns[i], http.StateActive)
		}
	}
	for i := range conns {
		assert.Equal(t, i == 3 || i == 4, gone(i), "%d", i)
	}
	c.changed(conns[3], http.StateActive) // too late
	c.changed(conns[3], http.StateClosed)
	assert.Len(t, c.open, maxCallers)
	c.changed(conns[0], http.StateClosed)
	assert.Len(t, c.open, maxCallers-1)
}

func TestProbesAreReadOnly(t *testing.T) {
	_, url := local(t)
	resp, err := http.Post(url+"/readyz", "text/plain", nil)
	require.NoError(t, err)
	require.NoError(t, resp.Body.Close())
	assert.Equal(t, http.StatusMethodNotAllowed, resp.StatusCode)
	status, _ := probe(t, url+"/")
	assert.Equal(t, http.StatusNotFound, status)
}

// The first thing that a program does is listen: a mistake shows before
// anything is connected.
func TestHealthPortInUse(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer taken.Close()
	c := config.Config{HealthAddress: taken.Addr().String()}
	for name, run := range map[string]func(context.Context, config.Config, *slog.Logger) error{"worker": Worker,
		"starter": Starter} {
		err := run(t.Context(), c, quiet)
		assert.ErrorContains(t, err, "OUTFLOW_HEALTH_ADDRESS: wants an address that is free", name)
		assert.ErrorContains(t, err, taken.Addr().String(), name)
		assert.ErrorContains(t, err, "address already in use", name)
	}
}

func TestNoHealthIsAskedFor(t *testing.T) {
	h, err := newHealth(t.Context(), "", nil, quiet)
	require.NoError(t, err)
	require.Nil(t, h)
	h.started()
	h.stopping()
	h.close()
}

// announced is a log that says where the probes are answered.
type announced struct{ notes }

func (a *announced) url() string {
	_, after, _ := strings.Cut(a.String(), `msg="answering probes" address=`)
	address, _, whole := strings.Cut(after, "\n")
	if !whole {
		return ""
	}
	return "http://" + address
}

// TestStarterIsNotReadyWhileItDrains follows the programs' own probes from the
// start to the end, on the real parts.
func TestStarterIsNotReadyWhileItDrains(t *testing.T) {
	t.Parallel()
	address := teststack.Temporal(t)
	pool := teststack.New(t)
	broker := &fakesqs.Server{AutoCreate: true}
	sending, release := make(chan struct{}, 10), make(chan struct{})
	queue := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.Header.Get("X-Amz-Target"), ".SendMessageBatch") {
			sending <- struct{}{}
			<-release
		}
		broker.ServeHTTP(w, r)
	}))
	defer queue.Close()

	database, err := pgxpool.ParseConfig(pool.Config().ConnString())
	require.NoError(t, err)
	name := "test-" + uuid.NewString()
	c := config.Config{
		HealthAddress: "127.0.0.1:0",
		Database:      database,
		Temporal:      client.Options{HostPort: address},
		Brokers: brokersOf(aws.Config{Region: "eu-west-1", BaseEndpoint: aws.String(queue.URL),
			Credentials: credentials.NewStaticCredentialsProvider("AKIAFAKE", "fake", "")}, webhook.Options{}),
		Scanner: scanner.Options{Outbox: name, TaskQueue: name, PollInterval: 20 * time.Millisecond},
	}
	log := &announced{}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	ended := make(chan error, 1)
	go func() { ended <- Starter(ctx, c, slog.New(slog.NewTextHandler(log, nil))) }()
	var status int
	var text string
	until := func(want int) {
		t.Helper()
		require.Eventually(t, func() bool {
			if log.url() == "" {
				return false
			}
			status, text = probe(t, log.url()+"/readyz")
			return status == want
		}, 20*time.Second, 10*time.Millisecond)
	}
	until(200)

	require.NoError(t, pgx.BeginFunc(t.Context(), pool, func(tx pgx.Tx) error {
		_, err := outboxdb.Enqueue(t.Context(), tx,
			outflow.Message{Destination: "sqs://orders", Type: "a", Payload: []byte("{}")})
		return err
	}))
	<-sending
	stop()
	until(503)
	assert.Equal(t, "stopping\n", text)
	select {
	case err := <-ended:
		t.Fatalf("it ended while a message was being sent: %v", err)
	default:
	}
	close(release)
	require.NoError(t, <-ended)
	var state string
	require.NoError(t, pool.QueryRow(t.Context(), `SELECT state FROM outbox.messages`).Scan(&state))
	assert.Equal(t, "delivered", state)
	_, err = http.Get(log.url() + "/livez")
	require.Error(t, err, "the end of the process is near")
}

// TestReadyLooksAtTheRealParts breaks them one by one.
func TestReadyLooksAtTheRealParts(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	p := &parts{pool: w.pool, client: w.client, store: w.store}
	require.Empty(t, runChecks(t.Context(), p.checks()))

	p.store = outboxdb.New(teststack.NewEmpty(t))
	failed := runChecks(t.Context(), p.checks())
	require.Len(t, failed, 1)
	require.EqualError(t, failed[0].err, `checking the outbox schema: it is missing or older than this build: run "outflow migrate up"`)
	require.EqualError(t, notReady(failed), "database: not ready")

	gone, err := client.NewLazyClient(client.Options{HostPort: "127.0.0.1:1", Logger: quiet})
	require.NoError(t, err)
	defer gone.Close()
	p.store, p.client = w.store, gone
	failed = runChecks(t.Context(), p.checks())
	require.Len(t, failed, 1)
	require.ErrorContains(t, failed[0].err, "127.0.0.1:1", "for the log")
	require.EqualError(t, notReady(failed), "temporal: not ready")
}

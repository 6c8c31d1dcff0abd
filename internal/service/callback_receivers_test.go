package service

import (
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/google/uuid"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/client"
	sdklog "go.temporal.io/sdk/log"
	"go.temporal.io/sdk/worker"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/activities"
	"github.com/outflowhq/outflow/internal/brokers"
	"github.com/outflowhq/outflow/internal/callbacks"
	"github.com/outflowhq/outflow/internal/config"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/publish/webhook"
	"github.com/outflowhq/outflow/workflows"
)

// notes are what logs say, for a test to look through.
type notes struct {
	mu   sync.Mutex
	text strings.Builder
}

func (n *notes) Write(p []byte) (int, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.text.Write(p)
}

func (n *notes) String() string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.text.String()
}

// workWithWebhooks is work with callbacks that are really posted, to the hosts that
// o allows.
func (w *world) workWithWebhooks(o webhook.Options) {
	w.Helper()
	run := worker.New(w.client, w.opts.TaskQueue, workerOptions(config.Config{}, make(chan error, 1)))
	workflows.Register(run, activities.New(w.store, w.broker,
		activities.WithCallbacks(callbacks.New(brokers.Publishers(brokersOf(aws.Config{}, o)), w.broker))))
	require.NoError(w, run.Start())
	w.Cleanup(run.Stop)
}

// TestHostileCallbackReceivers: whatever a receiver does, the row says it in words,
// nothing secret gets out, the message was sent once, and other messages go on.
func TestHostileCallbackReceivers(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var logged notes
	w.opts.Logger = slog.New(slog.NewTextHandler(&logged, &slog.HandlerOptions{Level: slog.LevelDebug}))
	var err error
	w.client, err = client.Dial(client.Options{HostPort: teststack.Temporal(t),
		Logger: sdklog.NewStructuredLogger(w.opts.Logger)})
	require.NoError(t, err)
	t.Cleanup(w.client.Close)
	var signatures sync.Map
	over := make(chan struct{})
	answered := make(map[string]*atomic.Int64)
	receivers := map[string]http.HandlerFunc{
		"hangs": func(_ http.ResponseWriter, req *http.Request) {
			select {
			case <-req.Context().Done():
				panic(http.ErrAbortHandler)
			case <-over:
			}
		},
		"resets": func(rw http.ResponseWriter, _ *http.Request) {
			conn, _, err := rw.(http.Hijacker).Hijack()
			if assert.NoError(t, err) {
				if inner, ok := conn.(interface{ NetConn() net.Conn }); ok {
					_ = inner.NetConn().(*net.TCPConn).SetLinger(0)
				}
				_ = conn.Close()
			}
		},
		"gigabyte": func(rw http.ResponseWriter, _ *http.Request) {
			rw.WriteHeader(http.StatusInternalServerError)
			block := make([]byte, 64<<10)
			for range 1 << 30 / len(block) {
				if _, err := rw.Write(block); err != nil {
					return
				}
			}
		},
		"redirects": func(rw http.ResponseWriter, _ *http.Request) {
			rw.Header().Set("Location", "http://169.254.169.254/latest/meta-data/")
			rw.WriteHeader(http.StatusFound)
		},
		"gone": func(rw http.ResponseWriter, _ *http.Request) { rw.WriteHeader(http.StatusGone) },
		"asks": func(rw http.ResponseWriter, _ *http.Request) {
			if answered["asks"].Load() == 1 {
				rw.Header().Set("Retry-After", "4")
				rw.WriteHeader(http.StatusTooManyRequests)
			}
		},
	}
	for what := range receivers {
		answered[what] = new(atomic.Int64)
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
		_, _ = io.Copy(io.Discard, req.Body) // else a handler does not see the client leave
		signatures.Store(req.Header.Get("webhook-signature"), true)
		what := strings.TrimPrefix(req.URL.Path, "/")
		answered[what].Add(1)
		receivers[what](rw, req)
	}))
	server.Config.ErrorLog = slog.NewLogLogger(slog.DiscardHandler, slog.LevelError)
	server.StartTLS()
	t.Cleanup(server.Close)
	o := webhookOptions(t, server)
	o.Hosts, err = webhook.ParseHosts("127.0.0.1, 10.11.12.13, 169.254.169.254")
	require.NoError(t, err)
	w.workWithWebhooks(o)
	w.scan()
	t.Cleanup(func() { close(over) })

	ids := map[string]uuid.UUID{}
	for what := range receivers {
		ids[what] = w.enqueueCallback(server.URL + "/" + what + "?token=hunter2")
	}
	ids["is private"] = w.enqueueCallback("https://10.11.12.13/done?token=hunter2")
	ids["is metadata"] = w.enqueueCallback("https://169.254.169.254/latest/meta-data/?token=hunter2")
	ids["is not allowed"] = w.enqueueCallback("https://evil.example/done?token=hunter2")
	for range 40 { // many at once, for as long as an attempt may take
		w.enqueueCallback(server.URL + "/hangs?token=hunter2")
	}

	var slowest time.Duration
	others := 0
	for began := time.Now(); time.Since(began) < 10*time.Second; {
		start := time.Now()
		w.until(w.enqueue("{}"), func(r row) bool { return r.State == outflow.Delivered })
		slowest = max(slowest, time.Since(start))
		others++
	}
	t.Logf("%d other messages, one after the other, the slowest in %s", others, slowest)
	assert.Greater(t, others, 1, "none waits for an attempt at a receiver that hangs")

	for what, says := range map[string]string{
		"hangs": "posting to " + server.URL +
			"/hangs: no answer in time (it may have been received, and is sent again with the same webhook-id)",
		"resets":     "it may have been received",
		"gigabyte":   "/gigabyte: HTTP status 500 Internal Server Error (",
		"redirects":  "/redirects: HTTP status 302 Found (redirects are never followed",
		"is private": "posting to https://10.11.12.13/done: its address 10.11.12.13 is ",
		"is metadata": "posting to https://169.254.169.254/latest/meta-data/: its address 169.254.169.254 is" +
			" link-local",
		"is not allowed": "posting to https://evil.example/done: the host is not allowed (add it to" +
			" OUTFLOW_WEBHOOK_HOSTS, and a secret for it to OUTFLOW_WEBHOOK_SECRETS_FILE)",
	} {
		got := w.untilCallback(ids[what], func(c callback) bool { return c.Error != "" })
		assert.Equal(t, "due", got.State, "%s: tried again for a day", what)
		assert.Contains(t, got.Error, says, what)
	}

	got := w.untilCallback(ids["gone"], func(c callback) bool { return c.State == "failed" })
	assert.Equal(t, 1, got.Attempts, "410 ends it for good")
	assert.Contains(t, got.Error, "HTTP status 410 Gone (")
	assert.EqualValues(t, 1, answered["gone"].Load())
	assert.Equal(t, callback{State: "sent", Attempts: 2}, w.untilTold(ids["asks"]))
	var waited float64
	require.NoError(t, w.pool.QueryRow(t.Context(),
		`SELECT extract(epoch FROM clock_timestamp() - finished_at) FROM outbox.messages WHERE id = $1`, ids["asks"]).Scan(&waited))
	assert.Greater(t, waited, 4.0, "as the receiver asked for, not the backoff's second")

	var hidden []string
	signatures.Range(func(s, _ any) bool { hidden = append(hidden, s.(string)); return true })
	require.Greater(t, len(hidden), 5)
	hidden = append(hidden, webhookSecret, strings.TrimPrefix(webhookSecret, "whsec_"), "0123456789abcdef", "hunter2")
	var seen strings.Builder
	seen.WriteString(logged.String())
	for what, id := range ids {
		row := w.row(id)
		assert.Equal(t, outflow.Delivered, row.State, what)
		assert.Equal(t, 1, row.Attempts, "%s: sent once", what)
		fmt.Fprintln(&seen, w.callback(id).Error, w.historyOf(w.workflowID(id), "", "-"+what),
			w.historyOf(w.callbackID(id, 1), "", "-callback-"+what))
	}
	for _, secret := range hidden {
		assert.NotContains(t, seen.String(), secret, "in a log, a history or an error")
	}
}

// A developer's own receiver takes callbacks in plain http, signed as any: where the
// switch allows it, and is said to be missing where it does not.
func TestCallbackToThisMachine(t *testing.T) {
	t.Parallel()
	verifier, err := standardwebhooks.NewWebhook(webhookSecret)
	require.NoError(t, err)
	requests := make(chan string, 10)
	server := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		body, err := io.ReadAll(req.Body)
		assert.NoError(t, err)
		assert.NoError(t, verifier.Verify(body, req.Header))
		requests <- req.Header.Get("webhook-id")
	}))
	t.Cleanup(server.Close)
	off := webhookOptions(t, nil)
	off.InsecureLoopback = false
	for what, c := range map[string]struct {
		options webhook.Options
		says    string
	}{
		"on":       {webhookOptions(t, nil), ""},
		"off":      {off, "OUTFLOW_WEBHOOK_INSECURE_LOOPBACK=on"},
		"no hosts": {webhook.Options{}, "OUTFLOW_WEBHOOK_INSECURE_LOOPBACK=on"},
	} {
		t.Run(what, func(t *testing.T) {
			w := newWorld(t)
			w.workWithWebhooks(c.options)
			w.scan()
			id := w.enqueueCallback(server.URL + "/done")
			if c.says == "" {
				assert.Equal(t, callback{State: "sent", Attempts: 1}, w.untilTold(id))
				assert.Equal(t, id.String()+"_1_delivered", <-requests)
				return
			}
			failed := w.untilCallback(id, func(c callback) bool { return c.State == "failed" })
			assert.Contains(t, failed.Error, c.says)
			assert.Equal(t, 1, failed.Attempts)
			assert.Equal(t, outflow.Delivered, w.row(id).State)
			assert.Empty(t, requests)
		})
	}
}

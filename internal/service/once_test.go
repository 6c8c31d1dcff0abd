package service

import (
	"bytes"
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/client"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/config"
	"github.com/outflowhq/outflow/workflows"
)

// posts is a receiver that counts what comes, and answers as a test says.
type posts struct {
	mu     sync.Mutex
	status int
	bodies int
}

func (p *posts) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	_, _ = io.Copy(io.Discard, r.Body)
	p.mu.Lock()
	defer p.mu.Unlock()
	p.bodies++
	w.WriteHeader(p.status)
}

// cancelled is a message that ended without a run, and whose callback is due.
func (w *world) cancelled(callback string, attempts int, dueIn time.Duration) uuid.UUID {
	w.Helper()
	id := w.enqueueMessage(outflow.Message{Destination: "sqs://orders", Type: "order-placed", Payload: []byte("{}"),
		Callback: callback})
	_, err := w.pool.Exec(w.Context(), `
		UPDATE outbox.messages SET state = 'cancelled', finished_at = now(), callback_state = 'due', callback_due_at = now() + $2::interval,
		       callback_attempts = $3::int, callback_error = CASE WHEN $3::int > 0 THEN '503' END WHERE id = $1`, id, dueIn, attempts)
	require.NoError(w, err)
	return id
}

// once runs a single pass of a starter with webhooks to the server.
func (w *world) once(server *httptest.Server, limit time.Duration) (string, error) {
	w.Helper()
	c := configOf(w)
	c.Brokers = brokersOf(aws.Config{Region: "eu-west-1"}, webhookOptions(w.T, server))
	var out bytes.Buffer
	err := Once(w.Context(), c, limit, &out, w.log)
	return out.String(), err
}

// A pass sends the callbacks that are due, though no message is pending: of
// those never tried, and of those whose run was lost. One in backoff waits.
func TestOnceTellsDueCallbacks(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	receiver := &posts{status: http.StatusOK}
	server := httptest.NewTLSServer(receiver)
	t.Cleanup(server.Close)
	never, lost := w.cancelled(server.URL+"/a", 0, 0), w.cancelled(server.URL+"/b", 3, -time.Minute)
	waits := w.cancelled(server.URL+"/c", 2, time.Hour)
	out, err := w.once(server, time.Minute)
	require.NoError(t, err)
	assert.Equal(t, "sent", w.callback(never).State)
	assert.Equal(t, "sent", w.callback(lost).State)
	assert.Equal(t, "due", w.callback(waits).State)
	assert.Equal(t, 2, receiver.bodies)
	assert.Equal(t, "once: left 0 in backoff, 0 delayed, 0 not started\nonce: left 1 callbacks in backoff, 0 not"+
		" tried\n  last error of a callback: 503\n", out)
}

// One attempt is made at each; what it met is printed.
func TestOnceLeavesCallbacksInBackoff(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	receiver := &posts{status: http.StatusInternalServerError}
	server := httptest.NewTLSServer(receiver)
	t.Cleanup(server.Close)
	id := w.cancelled(server.URL, 0, 0)
	out, err := w.once(server, time.Minute)
	require.NoError(t, err)
	assert.Contains(t, out, "once: left 1 callbacks in backoff, 0 not tried\n  last error of a callback: ")
	assert.Contains(t, out, "500")
	assert.Equal(t, "due", w.callback(id).State)
	assert.Positive(t, w.callback(id).Attempts)
}

// A message that these settings keep from being sent is in nobody's way, and the report
// says why.
func TestOnceLeavesWhatItMayNotSend(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.enqueueMessage(outflow.Message{Destination: "https://shop.example/in", Type: "order-placed",
		Payload: []byte("{}")})
	type result struct {
		out string
		err error
	}
	ended := make(chan result, 1)
	go func() {
		out, err := w.once(nil, time.Hour)
		ended <- result{out, err}
	}()
	var got result
	require.Eventually(t, func() bool {
		select {
		case got = <-ended:
			return true
		default:
			return false
		}
	}, time.Minute, 10*time.Millisecond, "the pass waits for it")
	require.NoError(t, got.err)
	assert.Contains(t, got.out, "once: left 1 in backoff, 0 delayed, 0 not started\n  https://shop.example/in: 1"+
		" in backoff; last error: ")
	assert.Contains(t, got.out, "the host is not allowed")
	assert.Equal(t, outflow.Pending, w.row(id).State)
}

// Of messages to a receiver that is down, some wait as runs and the others as rows. None
// is an error, and a pass that is stopped says so as well.
func TestOnceLeavesWhatWaitsBehindABreaker(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	server := httptest.NewTLSServer(&posts{status: http.StatusInternalServerError})
	t.Cleanup(server.Close)
	const n = 50
	for range n {
		w.enqueueMessage(outflow.Message{Destination: server.URL + "/in", Type: "order-placed", Payload: []byte("{}")})
	}
	c := configOf(w)
	c.Brokers = brokersOf(aws.Config{Region: "eu-west-1"}, webhookOptions(t, server))
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var out bytes.Buffer
	ended := make(chan error, 1)
	go func() { ended <- Once(ctx, c, time.Hour, &out, w.log) }()
	w.eventually(func() bool {
		counts, err := w.store.Pending(t.Context())
		require.NoError(t, err)
		c := total(counts)
		return c.Waiting > 0 && c.Retrying > 0 && c.Waiting+c.Retrying == n
	}, func() string { return "no breaker opens" })
	stop()
	require.EqualError(t, <-ended, "50 messages are in backoff and were not delivered before the pass was stopped")
	assert.Contains(t, out.String(), "once: left 50 in backoff, 0 delayed, 0 not started\n  "+server.URL+"/in: 50 in backoff; last error: ")
	assert.Contains(t, out.String(), "500")
}

// A pass writes the schedule where there is none, and leaves one that is there.
func TestOnceLeavesTheScheduleInPlace(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	handle := w.client.ScheduleClient().GetHandle(t.Context(), workflows.MaintainID(w.opts.Outbox))
	t.Cleanup(func() { _ = handle.Delete(context.Background()) })
	_, err := w.once(nil, time.Minute)
	require.NoError(t, err)
	_, err = handle.Describe(t.Context())
	require.NoError(t, err, "what is final is purged, where cron runs all there is")

	p := &parts{client: w.client, store: w.store, log: w.log}
	another := config.Config{Scanner: w.opts, Retention: outflow.Retention{Delivered: outflow.Keep(time.Hour)}}
	require.True(t, p.schedule(another).Write(t.Context()))
	require.NoError(t, handle.Pause(t.Context(), client.SchedulePauseOptions{Note: "maintenance"}))
	before, err := handle.Describe(t.Context())
	require.NoError(t, err)
	_, err = w.once(nil, time.Minute)
	require.NoError(t, err)
	after, err := handle.Describe(t.Context())
	require.NoError(t, err)
	assert.Equal(t, before.Info.LastUpdateAt, after.Info.LastUpdateAt)
	assert.True(t, after.Schedule.State.Paused)
}

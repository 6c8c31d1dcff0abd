package service

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/sdk/worker"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/activities"
	"github.com/outflowhq/outflow/internal/config"
	"github.com/outflowhq/outflow/outboxdb"
	"github.com/outflowhq/outflow/publish"
	"github.com/outflowhq/outflow/publish/publishtest/fakesqs"
	"github.com/outflowhq/outflow/publish/webhook"
	"github.com/outflowhq/outflow/workflows"
)

// publishing starts a worker with the publishers that the settings ask for, and a
// scanner.
func (w *world) publishing(c config.Config) {
	w.Helper()
	run := worker.New(w.client, w.opts.TaskQueue, workerOptions(c, make(chan error, 1)))
	workflows.Register(run, activities.New(w.store, publish.NewRouter(publishers(c)...)))
	require.NoError(w, run.Start())
	w.Cleanup(run.Stop)
	w.scan()
}

// enqueueTo commits messages to a destination.
func (w *world) enqueueTo(destination string, payload []byte, n int) []uuid.UUID {
	w.Helper()
	var messages []outflow.Message
	for range n {
		messages = append(messages, outflow.Message{Destination: destination, Type: "order-placed", Payload: payload,
			ContentType: "text/plain"})
	}
	tx, err := w.pool.Begin(w.Context())
	require.NoError(w, err)
	ids, err := outboxdb.Enqueue(w.Context(), tx, messages...)
	require.NoError(w, err)
	require.NoError(w, tx.Commit(w.Context()))
	return ids
}

// slowLink is a listener whose connections bring so many bytes a second.
type slowLink struct {
	net.Listener
	bytesPerSecond int
}

func (l slowLink) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	// Little of what was sent waits outside of the reader's pace.
	err = conn.(*net.TCPConn).SetReadBuffer(32 << 10)
	return slowly{conn, l.bytesPerSecond}, err
}

type slowly struct {
	net.Conn
	bytesPerSecond int
}

func (c slowly) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b[:min(len(b), 16<<10)])
	time.Sleep(time.Duration(n) * time.Second / time.Duration(c.bytesPerSecond))
	return n, err
}

// A broker that takes longer than the fast path has is sent one copy there and one by a
// durable attempt: whether its answer is slow, or the way to it.
func TestASlowBrokerIsSentFewCopies(t *testing.T) {
	const answersAfter = 3 * time.Second
	megabyte := bytes.Repeat([]byte("x"), 1_000_000)
	for name, c := range map[string]struct {
		payload        []byte
		after          time.Duration
		bytesPerSecond int
	}{
		"slow answer": {[]byte("x"), answersAfter, 1 << 30},
		"slow link":   {megabyte, 0, 300_000},
	} {
		t.Run("webhook, "+name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			var copies atomic.Int32
			server := httptest.NewUnstartedServer(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
				copies.Add(1)
				if _, err := io.Copy(io.Discard, req.Body); err != nil {
					return
				}
				time.Sleep(c.after)
			}))
			server.Listener = slowLink{server.Listener, c.bytesPerSecond}
			server.StartTLS()
			t.Cleanup(server.Close)
			w.publishing(webhookConfig(t, server))
			id := w.enqueueTo(server.URL+"/orders", c.payload, 1)[0]
			r := w.until(id, func(r row) bool { return r.State == outflow.Delivered })
			assert.Equal(t, 2, r.Attempts)
			assert.LessOrEqual(t, copies.Load(), int32(2))
		})
		t.Run("SQS, "+name, func(t *testing.T) {
			t.Parallel()
			w := newWorld(t)
			broker := &fakesqs.Server{}
			broker.CreateQueue("", "orders", nil)
			broker.Inject(fakesqs.Fault{Action: "SendMessageBatch", Delay: c.after})
			server := httptest.NewUnstartedServer(broker)
			server.Listener = slowLink{server.Listener, c.bytesPerSecond}
			server.Start()
			t.Cleanup(server.Close)
			w.publishing(config.Config{Brokers: brokersOf(aws.Config{
				Region: "eu-west-1", BaseEndpoint: &server.URL,
				Credentials: credentials.NewStaticCredentialsProvider("AKIAFAKE", "fake", ""),
			}, webhook.Options{})})
			id := w.enqueueTo("sqs://orders", c.payload, 1)[0]
			r := w.until(id, func(r row) bool { return r.State == outflow.Delivered })
			assert.Equal(t, 2, r.Attempts)
			assert.LessOrEqual(t, len(broker.Requests("SendMessageBatch")), 2)
		})
	}
}

// A receiver that answers after three seconds is slow, and does not fail. The first messages
// are cut off on the fast path and sent once more; all others are received once, many at the
// same time. No breaker counts anything.
func TestASlowReceiverIsNoFailingOne(t *testing.T) {
	t.Parallel()
	const first, others = 20, 300 // the first ones are as many as a process begins with
	w := newWorld(t)
	var mu sync.Mutex
	var copies, now, most int
	copiesOf := map[string]int{}
	server := httptest.NewTLSServer(http.HandlerFunc(func(_ http.ResponseWriter, req *http.Request) {
		mu.Lock()
		copies++
		copiesOf[req.Header.Get("webhook-id")]++
		now++
		most = max(most, now)
		mu.Unlock()
		time.Sleep(3 * time.Second)
		mu.Lock()
		now--
		mu.Unlock()
	}))
	t.Cleanup(server.Close)
	w.publishing(webhookConfig(t, server))
	delivered := func(ids []uuid.UUID) {
		t.Helper()
		for _, id := range ids {
			w.until(id, func(r row) bool { return r.State == outflow.Delivered })
		}
	}
	cut := w.enqueueTo(server.URL+"/orders", []byte("{}"), first)
	w.eventually(func() bool {
		var slow bool
		err := w.pool.QueryRow(t.Context(),
			`SELECT EXISTS (SELECT FROM outbox.destinations WHERE destination = $1 AND slow_until > now())`, server.URL).Scan(&slow)
		return err == nil && slow
	}, func() string { return "it is not slow" })
	began := time.Now()
	ids := w.enqueueTo(server.URL+"/orders", []byte("{}"), others/2)
	ids = append(ids, w.enqueueTo(server.URL+"/refunds", []byte("{}"), others/2)...)
	delivered(ids)
	t.Logf("%d messages in %s, %d at once at most", others, time.Since(began).Round(time.Millisecond), most)
	delivered(cut)

	mu.Lock()
	defer mu.Unlock()
	for _, id := range ids {
		assert.Equal(t, 1, copiesOf[id.String()])
		r := w.row(id)
		assert.Equal(t, 1, r.Attempts)
	}
	for _, id := range cut {
		assert.LessOrEqual(t, copiesOf[id.String()], 2)
	}
	assert.LessOrEqual(t, copies, others+2*first)
	assert.Greater(t, most, first, "more at once than a failing one has")
	var counted bool
	require.NoError(t, w.pool.QueryRow(t.Context(), `
		SELECT EXISTS (SELECT FROM outbox.destinations WHERE failures > 0 OR failing_since IS NOT NULL OR openings > 0 OR recovered_at IS NOT NULL)`).Scan(&counted))
	assert.False(t, counted, "no breaker counts a failure")
}

// waiting returns a message's durable activity once it waits for its second attempt.
func (w *world) waiting(id uuid.UUID) (pending *workflowpb.PendingActivityInfo) {
	w.Helper()
	w.eventually(func() bool {
		described, err := w.client.DescribeWorkflowExecution(w.Context(), w.workflowID(id), "")
		all := described.GetPendingActivities()
		if err != nil || len(all) != 1 || all[0].GetAttempt() != 2 {
			return false // it may not have begun
		}
		pending = all[0]
		return true
	}, func() string { return "it makes no second attempt" })
	return pending
}

// Fifty messages for a receiver that asks for a pause of ten minutes: a few
// requests show that, and then nobody asks before the time, neither the runs that were
// refused nor what waits behind them.
func TestAWaitThatIsAskedForIsKept(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	var mu sync.Mutex
	byMessage := map[string]int{}
	server := httptest.NewTLSServer(http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		byMessage[req.Header.Get("webhook-id")]++
		rw.Header().Set("Retry-After", "600")
		rw.WriteHeader(http.StatusTooManyRequests)
	}))
	t.Cleanup(server.Close)
	requests := func() (all, most int) {
		mu.Lock()
		defer mu.Unlock()
		for _, n := range byMessage {
			all, most = all+n, max(most, n)
		}
		return all, most
	}
	w.publishing(webhookConfig(t, server))
	ids := w.enqueueTo(server.URL+"/orders", []byte("{}"), 50)

	// Whoever was refused waits as a run, leased past its wait, or as a row.
	count := func(condition string) (n int) {
		require.NoError(t, w.pool.QueryRow(t.Context(),
			`SELECT count(*) FROM outbox.messages WHERE `+condition).Scan(&n))
		return n
	}
	w.eventually(func() bool {
		all, _ := requests()
		return all > 0 && count(`attempts > 0`) == all &&
			count(`retrying AND available_at > now() + interval '9 minutes'`) == count(`retrying`) &&
			count(`retrying`) > 0
	}, func() string { return "nobody waits" })
	var openFor float64
	w.eventually(func() bool {
		err := w.pool.QueryRow(t.Context(),
			`SELECT extract(epoch FROM max(open_until) - now()) FROM outbox.destinations WHERE open_until > now()`).Scan(&openFor)
		return err == nil && openFor > 0
	}, func() string { return "the breaker is closed" })
	assert.InDelta(t, 600, openFor, 60)
	for _, id := range ids {
		if !w.row(id).Retrying {
			continue // it waits as a row
		}
		pending := w.waiting(id)
		assert.Greater(t, time.Until(pending.GetScheduledTime().AsTime()), 9*time.Minute)
		assert.Contains(t, pending.GetLastFailure().GetMessage(), "HTTP status 429")
		assert.Contains(t, pending.GetLastFailure().GetMessage(), "nothing is sent for 1")
	}
	all, most := requests()
	assert.LessOrEqual(t, all, 20, "those that were under way together")
	assert.Equal(t, 1, most, "nobody is sent twice")
}

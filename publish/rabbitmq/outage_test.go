package rabbitmq_test

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/publish/rabbitmq"
)

// load publishes messages, each once, until it is stopped, and remembers what became of them.
type load struct {
	stop    context.CancelFunc
	running sync.WaitGroup

	mu        sync.Mutex
	delivered map[string]bool
	failed    map[string]error
}

// startLoad publishes to a destination, so many messages at a time.
func startLoad(t *testing.T, p *rabbitmq.Publisher, atOnce int, destination string) *load {
	ctx, stop := context.WithCancel(context.Background())
	l := &load{stop: stop, delivered: map[string]bool{}, failed: map[string]error{}}
	for range atOnce {
		l.running.Go(func() {
			for ctx.Err() == nil {
				m := message(destination)
				_, err := p.Publish(context.Background(), m)
				l.mu.Lock()
				if err == nil {
					l.delivered[m.ID.String()] = true
				} else {
					l.failed[m.ID.String()] = err
				}
				l.mu.Unlock()
			}
		})
	}
	t.Cleanup(l.end)
	return l
}

func (l *load) end() {
	l.stop()
	l.running.Wait()
}

// counts are how many messages were delivered so far, and how many failed.
func (l *load) counts() (delivered, failed int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return len(l.delivered), len(l.failed)
}

// flows waits until so many more messages are delivered.
func (l *load) flows(t *testing.T, more int) {
	t.Helper()
	before, _ := l.counts()
	eventually(t, func() bool { now, _ := l.counts(); return now >= before+more }, "messages are delivered")
}

// fails waits until so many messages have failed.
func (l *load) fails(t *testing.T, n int) {
	t.Helper()
	eventually(t, func() bool { _, failed := l.counts(); return failed >= n }, "messages fail")
}

// judge ends the load and compares the results of its publishes with what is there: what was
// reported as delivered is there, once, and no failure is permanent.
func (l *load) judge(t *testing.T, w *world, queue string) {
	t.Helper()
	l.end()
	found := w.counts(queue)
	for id := range l.delivered {
		require.Equal(t, 1, found[id], "message %s was reported as delivered", id)
	}
	stored := 0
	for id, err := range l.failed {
		is(t, outflow.ClassUnavailable, err)
		if found[id] > 0 {
			stored++
			require.Equal(t, 1, found[id])
			require.ErrorContains(t, err, "no answer", "what is stored was not reported as unsent")
		}
	}
	t.Logf("%d delivered, %d failed, of which %d are stored", len(l.delivered), len(l.failed), stored)
	require.NotEmpty(t, l.delivered)
}

// TestBrokerIsStoppedAndStartedUnderLoad: RabbitMQ closes all connections and refuses new ones, and
// then has its durable queues again.
func TestBrokerIsStoppedAndStartedUnderLoad(t *testing.T) {
	w := aloneWorld(t)
	x, p := w.exchange("topic"), w.publisher()
	q := w.queue(x, "key")
	l := startLoad(t, p, 100, to(x, "key"))
	l.flows(t, 1_000)
	w.Control("stop_app")
	started := sync.OnceFunc(func() { w.Control("start_app") })
	defer started()
	l.fails(t, 200)
	started()
	l.flows(t, 1_000)
	l.judge(t, w, q)
}

// TestConnectionsAreCutUnderLoad, with confirms out, again and again.
func TestConnectionsAreCutUnderLoad(t *testing.T) {
	w := newWorld(t)
	x, p := w.exchange("topic"), w.publisher()
	q := w.queue(x, "key")
	l := startLoad(t, p, 300, to(x, "key"))
	for range 10 {
		l.flows(t, 500)
		eventually(t, func() bool { return w.relay.Unanswered() > 100 }, "confirms are out")
		w.relay.Cut()
	}
	l.flows(t, 500)
	l.judge(t, w, q)
}

// TestOperatorClosesTheConnection: the reason is in the text.
func TestOperatorClosesTheConnection(t *testing.T) {
	w := aloneWorld(t)
	x, p := w.exchange("topic"), w.publisher()
	q := w.queue(x, "key")
	l := startLoad(t, p, 50, to(x, "key"))
	l.flows(t, 200)
	eventually(t, func() bool { // a close may come when no confirm is out
		w.Control("eval", `[rabbit_networking:close_connection(Pid, "maintenance tonight") ||
			Pid <- rabbit_networking:connections()].`)
		_, failed := l.counts()
		return failed > 0
	}, "messages fail")
	l.flows(t, 200)
	l.end()
	said := false
	for _, err := range l.failed {
		said = said || assert.ErrorContains(t, err, "320 CONNECTION_FORCED - maintenance tonight")
	}
	require.True(t, said)
	l.judge(t, w, q)
}

// TestMemoryAlarm: RabbitMQ stops reading from connections that publish. Each message fails with
// the reason, and when the alarm is over the same connection goes on.
func TestMemoryAlarm(t *testing.T) {
	w := aloneWorld(t)
	x, p := w.exchange("topic"), w.publisher(rabbitmq.WithTimeout(3*time.Second))
	q := w.queue(x, "key")
	noErrors(t, publishAll(t, p, 10, messages(50, to(x, "key"))))
	w.Control("set_vm_memory_high_watermark", "0.00001")
	over := sync.OnceFunc(func() { w.Control("set_vm_memory_high_watermark", "0.4") })
	defer over()

	l := startLoad(t, p, 20, to(x, "key"))
	eventually(t, func() bool {
		_, err := p.Publish(t.Context(), message(to(x, "key")))
		return err != nil && assert.ErrorContains(t, err, "RabbitMQ takes no messages: low on memory")
	}, "the alarm is noticed")
	for range 20 {
		_, err := p.Publish(t.Context(), message(to(x, "key")))
		is(t, outflow.ClassUnavailable, err, to(x, "key"), "low on memory", "nothing was sent")
		require.ErrorContains(t, p.Check(t.Context(), to(x, "key")), "low on memory")
	}
	// A process that comes up now finds out by its first message.
	second := w.publisher(rabbitmq.WithTimeout(time.Second))
	eventually(t, func() bool {
		_, err := second.Publish(t.Context(), message(to(x, "key")))
		return err != nil && assert.ErrorContains(t, err, "low on memory")
	}, "a new connection notices it, too")
	ended := make(chan struct{})
	go func() { second.Close(); close(ended) }()
	select {
	case <-ended:
	case <-time.After(30 * time.Second):
		t.Fatal("Close does not end while the broker reads nothing")
	}

	over()
	l.flows(t, 200)
	l.end()
	// The messages of eventually are in the queue, too, and no part of the load.
	found := w.counts(q)
	for id := range l.delivered {
		require.Equal(t, 1, found[id])
	}
	for id, err := range l.failed {
		is(t, outflow.ClassUnavailable, err)
		require.LessOrEqual(t, found[id], 1)
	}
}

// TestUnansweredCalls: on the fast path they say that they were cut short.
func TestUnansweredCalls(t *testing.T) {
	w := newWorld(t)
	x := w.exchange("topic")
	w.queue(x, "key")
	p, quick := w.publisher(), w.publisher(rabbitmq.WithTimeout(time.Second))
	for _, each := range []*rabbitmq.Publisher{p, quick} {
		eventually(t, func() bool {
			_, err := each.Publish(t.Context(), message(to(x, "key")))
			return err == nil
		}, "there is a connection with a channel")
	}
	w.relay.Delay(x, 10*time.Minute)
	for name, c := range map[string]struct {
		p        *rabbitmq.Publisher
		deadline time.Duration
		says     string
		cutShort bool
	}{
		"a fast path":       {p, 10 * time.Second, "no answer within 2.5s", true},
		"its whole timeout": {quick, time.Hour, "no answer within 1s", false},
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), c.deadline)
			defer cancel()
			_, err := c.p.Publish(ctx, message(to(x, "key")))
			is(t, outflow.ClassUnavailable, err, c.says, "RabbitMQ may have accepted it")
			var f *outflow.Failure
			require.ErrorAs(t, err, &f)
			require.Equal(t, c.cutShort, f.CutShort)
		})
	}
	w.relay.Cut() // for nobody waits for what is delayed
}

// TestCallerLeaves: the answer to what was sent is waited for all the same.
func TestCallerLeaves(t *testing.T) {
	w := newWorld(t)
	x, p := w.exchange("topic"), w.publisher(rabbitmq.WithTimeout(30*time.Second))
	w.queue(x, "key")
	w.relay.Delay(x, 3*time.Second)
	ctx, leave := context.WithCancel(t.Context())
	defer leave()
	answered := make(chan error)
	go func() {
		_, err := p.Publish(ctx, message(to(x, "key")))
		answered <- err
	}()
	eventually(t, func() bool { return w.relay.Unanswered() == 1 }, "it is sent")
	leave()
	require.NoError(t, <-answered)
}

// TestTwoMessagesOfOneID: the second waits for the answer to the first, and each gets its own.
func TestTwoMessagesOfOneID(t *testing.T) {
	w := newWorld(t)
	x, p := w.exchange("topic"), w.publisher()
	q := w.queue(x, "good")
	for range 100 {
		m := message(to(x, "good"))
		bad := m
		bad.Destination = to(x, "bad")
		var wg sync.WaitGroup
		var good, missing atomic.Int64
		for i := range 6 {
			wg.Go(func() {
				if i%2 == 0 {
					if _, err := p.Publish(t.Context(), m); assert.NoError(t, err) {
						good.Add(1)
					}
				} else if _, err := p.Publish(t.Context(), bad); assert.ErrorIs(t, err, outflow.ErrNoDestination) {
					missing.Add(1)
				}
			})
		}
		wg.Wait()
		require.Equal(t, [2]int64{3, 3}, [2]int64{good.Load(), missing.Load()})
		require.Equal(t, map[string]int{m.ID.String(): 3}, w.counts(q))
	}
}

// TestRate prints how many confirms a second there are with 500 messages outstanding.
func TestRate(t *testing.T) {
	w := newWorld(t)
	x := w.exchange("topic")
	q := w.queue(x, "key")
	address, err := rabbitmq.ParseAddress(w.URL) // beside the relay
	require.NoError(t, err)
	p := rabbitmq.New(address)
	defer p.Close()
	const n = 10_000
	for name, publish := range map[string]func([]outflow.Message) []error{
		"side by side": func(all []outflow.Message) []error { return publishAll(t, p, 500, all) },
		"as a batch": func(all []outflow.Message) (errs []error) {
			for _, r := range p.PublishBatch(t.Context(), to(x, "key"), all) {
				errs = append(errs, r.Err)
			}
			return errs
		},
	} {
		all := messages(n, to(x, "key"))
		began := time.Now()
		errs := publish(all)
		took := time.Since(began)
		noErrors(t, errs)
		t.Logf("%s: %.0f confirms/s", name, n/took.Seconds())
		require.Len(t, w.counts(q), n)
	}
}

package rabbitmq_test

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/publish/rabbitmq"
)

const password = "hunter2"

// user makes a user, which is deleted after the test. Its name has letters and digits alone.
func (w *world) user(write string) string {
	w.t.Helper()
	u := "u" + strings.ReplaceAll(name(""), "-", "")
	w.Control("add_user", u, password)
	w.t.Cleanup(func() { w.Control("delete_user", u) })
	w.Control("set_permissions", u, "^$", write, "^$")
	return u
}

// TestTooLargeForThisBroker: a limit below the usual one shows at the first message that exceeds
// it, and no other message is hurt.
func TestTooLargeForThisBroker(t *testing.T) {
	w := aloneWorld(t)
	limit := func(bytes int) {
		w.Control("eval", fmt.Sprintf("application:set_env(rabbit, max_message_size, %d).", bytes))
	}
	limit(1_000_000)
	defer limit(134_217_728)
	x, p := w.exchange("topic"), w.publisher()
	q := w.queue(x, "key")
	var all []outflow.Message
	for i := range 600 {
		m := message(to(x, "key"))
		if i%100 == 50 {
			m.Payload = make([]byte, 1_000_001+i)
		}
		all = append(all, m)
	}
	large := 0
	for i, err := range publishAll(t, p, 200, all) {
		if i%100 == 50 {
			large++
			is(t, outflow.ClassPermanent, err, "raise max_message_size",
				fmt.Sprintf("the payload has %d bytes, and RabbitMQ takes 1000000", 1_000_001+i))
			continue
		}
		require.NoError(t, err)
	}
	assert.Equal(t, 6, large)
	assert.Len(t, w.counts(q), 594)
	all[0].Payload = make([]byte, 1_000_000)
	for i, r := range p.PublishBatch(t.Context(), to(x, "key"), all[:100]) {
		require.Equal(t, i == 50, r.Err != nil, "%v", r.Err)
	}
	assert.Len(t, w.counts(q), 99)
}

// TestNoPermission: the messages wait for somebody to grant it.
func TestNoPermission(t *testing.T) {
	w := newWorld(t)
	x := w.exchange("topic")
	q := w.queue(x, "key")
	u := w.user("^$")
	p := rabbitmq.New(w.address(u, password))
	defer p.Close()
	_, err := p.Publish(t.Context(), message(to(x, "key")))
	is(t, outflow.ClassUnavailable, err, "403 ACCESS_REFUSED", "rabbitmqctl set_permissions")
	require.NotErrorIs(t, err, outflow.ErrNoDestination)
	require.NotContains(t, err.Error(), password)
	w.Control("set_permissions", u, "^$", ".*", "^$")
	w.relay.Cut() // RabbitMQ remembers permissions for a connection
	_, err = p.Publish(t.Context(), message(to(x, "key")))
	require.NoError(t, err)
	assert.Len(t, w.deliveries(q), 1)
}

// TestOneKeyIsForbidden on an exchange whose other keys are not: each refusal closes the channel.
// The first ones take answers with them; then messages go one at a time, and only the forbidden
// fail.
func TestOneKeyIsForbidden(t *testing.T) {
	w := newWorld(t)
	x := w.exchange("topic")
	q := w.queue(x, "#")
	u := w.user(".*")
	w.Control("set_topic_permissions", u, x, "^good$", ".*")
	p := rabbitmq.New(w.address(u, password))
	defer p.Close()
	l := startLoad(t, p, 50, to(x, "good"))
	l.flows(t, 200)
	forbidden := func() {
		_, err := p.Publish(t.Context(), message(to(x, "bad")))
		is(t, outflow.ClassUnavailable, err, "403 ACCESS_REFUSED", "rabbitmqctl set_permissions")
	}
	forbidden()
	l.flows(t, 200)
	_, before := l.counts()
	for range 10 {
		forbidden()
		l.flows(t, 20)
	}
	_, after := l.counts()
	t.Logf("%d answers were lost with the first refusal", before)
	require.Equal(t, before, after, "with later ones none")
	l.judge(t, w, q)
}

// TestConnectingFails: what was wrong, and never a password.
func TestConnectingFails(t *testing.T) {
	w := newWorld(t)
	closed, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	nobody := closed.Addr().String()
	require.NoError(t, closed.Close())
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = silent.Close() }) // after the subtests
	const inTwoSeconds = "?connection_timeout=2000"
	late := []string{"no answer within 2s", "check AMQP_URL and the network"}
	who := []string{"check user name and password in AMQP_URL"}
	for name, c := range map[string]struct {
		url  string
		says []string
	}{
		"wrong password": {"amqp://guest:" + password + "@" + w.Address, who},
		"unknown user":   {"amqp://nobody:" + password + "@" + w.Address, who},
		"no such virtual host": {"amqp://guest:guest@" + w.Address + "/missing",
			[]string{"530 NOT_ALLOWED", "missing", "check the virtual host of AMQP_URL"}},
		"nobody listens": {"amqp://guest:" + password + "@" + nobody,
			[]string{"connection refused", "check AMQP_URL"}},
		"no answer":        {"amqp://guest:" + password + "@" + silent.Addr().String() + inTwoSeconds, late},
		"no answer to TLS": {"amqps://guest:" + password + "@" + silent.Addr().String() + inTwoSeconds, late},
		"no answer to the password": {"amqp://guest:" + password + "@" + stopsAfterStart(t, w.Address) +
			inTwoSeconds, late},
		"no TLS there": {"amqps://guest:" + password + "@" + w.Address, []string{"check the certificates"}},
		"no mechanism": {"amqp://guest:" + password + "@" + w.Address + "?auth_mechanism=external", who},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, err := rabbitmq.ParseAddress(c.url)
			require.NoError(t, err)
			p := rabbitmq.New(a, rabbitmq.WithTimeout(30*time.Second))
			defer p.Close()
			for _, err := range []error{
				func() error { _, err := p.Publish(t.Context(), message(to("orders", "paid"))); return err }(),
				p.Check(t.Context(), to("orders", "paid")),
			} {
				require.Equal(t, outflow.ClassUnavailable, outflow.ClassOf(err), "%v", err)
				require.NotContains(t, err.Error(), password)
				require.NotContains(t, err.Error(), marker)
				require.ErrorContains(t, err, to("orders", "paid"))
				require.ErrorContains(t, err, "nothing was sent")
				for _, words := range c.says {
					require.ErrorContains(t, err, words)
				}
			}
		})
	}
}

// stopsAfterStart passes on how a broker begins a connection, and nothing after that.
func stopsAfterStart(t *testing.T, broker string) (address string) {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	var work sync.WaitGroup
	work.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			work.Go(func() {
				defer client.Close()
				server, err := net.Dial("tcp", broker)
				if err != nil {
					return
				}
				defer server.Close()
				_, _ = io.CopyN(server, client, int64(len("AMQP0091")))
				head := make([]byte, 7) // kind, channel, size
				if _, err := io.ReadFull(server, head); err != nil {
					return
				}
				_, _ = client.Write(head)
				_, _ = io.CopyN(client, server, int64(binary.BigEndian.Uint32(head[3:]))+1)
				_, _ = io.Copy(io.Discard, client)
			})
		}
	})
	t.Cleanup(func() { _ = listener.Close(); work.Wait() })
	return listener.Addr().String()
}

// TestOutageIsNotHammered: however many callers there are, they share the tries to connect.
func TestOutageIsNotHammered(t *testing.T) {
	var connections atomic.Int64
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	accepted := make(chan struct{})
	go func() {
		defer close(accepted)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			connections.Add(1)
			_ = conn.Close()
		}
	}()
	a, err := rabbitmq.ParseAddress("amqp://" + listener.Addr().String())
	require.NoError(t, err)
	p := rabbitmq.New(a)
	began := time.Now()
	for _, err := range publishAll(t, p, 100, messages(1_000, to("orders", "paid"))) {
		require.Equal(t, outflow.ClassUnavailable, outflow.ClassOf(err), "%v", err)
	}
	took := time.Since(began)
	p.Close()
	require.NoError(t, listener.Close())
	<-accepted
	t.Logf("%d connections for 1000 messages in %s", connections.Load(), took)
	require.Less(t, connections.Load(), int64(100), "callers share each")
}

// TestSlowConnectionIsMadeBesideTheCall: a fast path does not wait for it, and says that nothing
// was sent.
func TestSlowConnectionIsMadeBesideTheCall(t *testing.T) {
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer silent.Close()
	a, err := rabbitmq.ParseAddress("amqp://" + silent.Addr().String())
	require.NoError(t, err)
	p := rabbitmq.New(a, rabbitmq.WithTimeout(4*time.Second))
	defer p.Close()
	fast := func() error {
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		_, err := p.Publish(ctx, message(to("orders", "paid")))
		return err
	}
	require.ErrorIs(t, fast(), outflow.ErrNotAttempted, "it is not known to fail")
	eventually(t, func() bool {
		err := fast()
		return outflow.ClassOf(err) == outflow.ClassUnavailable && assert.ErrorContains(t, err, "no answer within 4s")
	}, "it is known to fail")
}

// TestCheck looks up without sending.
func TestCheck(t *testing.T) {
	w := newWorld(t)
	x, p := w.exchange("topic"), w.publisher()
	q := w.queue(x, "key")
	require.NoError(t, p.Check(t.Context(), to(x, "key")))
	require.NoError(t, p.Check(t.Context(), to("", q)))
	require.NoError(t, p.Check(t.Context(), to("amq.topic", "key")))
	for destination, says := range map[string]string{
		to("gone", "key"): "rabbitmqadmin declare exchange name=gone",
		to("", "gone"):    "rabbitmqadmin declare queue name=gone",
	} {
		err := p.Check(t.Context(), destination)
		is(t, outflow.ClassPermanent, err, destination, says)
		require.ErrorIs(t, err, outflow.ErrNoDestination)
	}
	is(t, outflow.ClassPermanent, p.Check(t.Context(), "sqs://orders"))
	is(t, outflow.ClassPermanent, p.Check(t.Context(), "rabbitmq://orders"))
	done, cancel := context.WithCancel(t.Context())
	cancel()
	require.Error(t, p.Check(done, to(x, "key")))
	assert.Empty(t, w.deliveries(q))
}

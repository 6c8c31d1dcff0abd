package rabbitmq_test

import (
	"context"
	"fmt"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/publish/rabbitmq"
)

// TestOnTheWire: what a consumer in any language sees.
func TestOnTheWire(t *testing.T) {
	w := newWorld(t)
	x := w.exchange("topic")
	q := w.queue(x, "order.#")
	m := message(to(x, "order.placed/ä b"))
	m.OrderingKey = "customer-7"
	m.Headers = map[string]string{"tenant": "acme", "CC": "other", "BCC": "",
		"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"}
	id, err := w.publisher().Publish(t.Context(), m)
	require.NoError(t, err)
	assert.Empty(t, id, "RabbitMQ has none")

	all := w.deliveries(q)
	require.Len(t, all, 1)
	d := all[0]
	assert.Equal(t, m.ID.String(), d.MessageId)
	assert.Equal(t, "user-registered", d.Type)
	assert.Equal(t, "application/json", d.ContentType)
	assert.Empty(t, d.ContentEncoding)
	assert.Equal(t, amqp.Persistent, d.DeliveryMode)
	assert.Equal(t, "order.placed/ä b", d.RoutingKey)
	assert.Equal(t, m.Payload, d.Body)
	assert.WithinDuration(t, time.Now(), d.Timestamp, time.Minute, "the time of the UUIDv7")
	assert.Equal(t, amqp.Table{"tenant": "acme", "traceparent": m.Headers["traceparent"],
		"outflow-ordering-key": "customer-7", "outflow-headers": `{"BCC":"","CC":"other"}`}, d.Headers)

	decoded, err := rabbitmq.Decode(d)
	require.NoError(t, err)
	m.Destination = ""
	assert.Equal(t, m, decoded)

	m = message(to(x, "order.placed"))
	m.ID = uuid.New() // of version 4
	_, err = w.publisher().Publish(t.Context(), m)
	require.NoError(t, err)
	all = w.deliveries(q)
	require.Len(t, all, 1)
	assert.True(t, all[0].Timestamp.IsZero())
}

// TestDefaultExchange routes by the name of a queue.
func TestDefaultExchange(t *testing.T) {
	w := newWorld(t)
	q := name("queue")
	p := w.publisher()
	_, err := p.Publish(t.Context(), message(to("", q)))
	is(t, outflow.ClassPermanent, err, "rabbitmq:///"+q, "rabbitmqadmin declare queue name="+q)
	require.ErrorIs(t, err, outflow.ErrNoDestination)
	w.declare(q)
	_, err = p.Publish(t.Context(), message(to("", q)))
	require.NoError(t, err)
	assert.Len(t, w.deliveries(q), 1)
}

// TestAlternateExchange: routed there alone counts as delivered.
func TestAlternateExchange(t *testing.T) {
	w := newWorld(t)
	unrouted := w.exchange("fanout")
	q := w.queue(unrouted, "")
	x := name("exchange")
	require.NoError(t, w.channel().ExchangeDeclare(x, "topic", true, false, false, false,
		amqp.Table{"alternate-exchange": unrouted}))
	t.Cleanup(func() { _ = w.channel().ExchangeDelete(x, false, false) })
	_, err := w.publisher().Publish(t.Context(), message(to(x, "key")))
	require.NoError(t, err)
	assert.Len(t, w.deliveries(q), 1)
}

// TestTwentyThousandUnroutable: RabbitMQ confirms each after it has returned it.
func TestTwentyThousandUnroutable(t *testing.T) {
	w := newWorld(t)
	x := w.exchange("topic")
	p := w.publisher()
	const n = 20_000
	missing := 0
	for i, err := range publishAll(t, p, 600, messages(n/2, to(x, "nobody"))) {
		require.ErrorIs(t, err, outflow.ErrNoDestination, "message %d", i)
		missing++
	}
	for i, r := range p.PublishBatch(t.Context(), to(x, "nobody"), messages(n/2, "")) {
		require.ErrorIs(t, r.Err, outflow.ErrNoDestination, "message %d", i)
		missing++
	}
	require.Equal(t, n, missing)
	_, err := p.Publish(t.Context(), message(to(x, "nobody")))
	is(t, outflow.ClassPermanent, err, to(x, "nobody"), fmt.Sprintf("exchange %q", x), `routing key "nobody"`,
		"rabbitmqadmin declare binding source="+x+" destination=QUEUE routing_key=nobody")
	var f *outflow.Failure
	require.ErrorAs(t, err, &f)
	require.True(t, f.Answered)
}

// TestSomeUnroutableAmongOthers: each message gets its own verdict.
func TestSomeUnroutableAmongOthers(t *testing.T) {
	w := newWorld(t)
	x := w.exchange("topic")
	q := w.queue(x, "good")
	var all []outflow.Message
	for i := range 5_000 {
		all = append(all, message(to(x, []string{"good", "bad"}[i%2])))
	}
	errs := publishAll(t, w.publisher(), 600, all)
	found := w.counts(q)
	for i, err := range errs {
		if i%2 == 0 {
			require.NoError(t, err)
			require.Equal(t, 1, found[all[i].ID.String()])
		} else {
			require.ErrorIs(t, err, outflow.ErrNoDestination)
			require.Zero(t, found[all[i].ID.String()])
		}
	}
}

// TestMissingExchangeBesideAHealthyOne: an exchange that is not there closes no channel but its
// own.
func TestMissingExchangeBesideAHealthyOne(t *testing.T) {
	w := newWorld(t)
	x := w.exchange("topic")
	q := w.queue(x, "key")
	p := w.publisher()
	gone := to(name("gone"), "key")
	healthy := messages(4_000, to(x, "key"))
	done := make(chan []error)
	go func() { done <- publishAll(t, p, 300, healthy) }()
	for {
		select {
		case errs := <-done:
			noErrors(t, errs)
			found := w.counts(q)
			assert.Len(t, found, len(healthy))
			for id, n := range found {
				assert.Equal(t, 1, n, id)
			}
			return
		default:
		}
		_, err := p.Publish(t.Context(), message(gone))
		is(t, outflow.ClassPermanent, err, gone, "rabbitmqadmin declare exchange name=")
		require.ErrorIs(t, err, outflow.ErrNoDestination)
	}
}

// TestExchangeIsDeletedAndMadeAgain under load. What was under way is a lost answer at worst, and
// never missing where it may be stored.
func TestExchangeIsDeletedAndMadeAgain(t *testing.T) {
	w := newWorld(t)
	x, p := w.exchange("topic"), w.publisher()
	q := w.queue(x, "key")
	all := messages(6_000, to(x, "key"))
	done := make(chan []error)
	go func() { done <- publishAll(t, p, 300, all) }()
	eventually(t, func() bool { return len(w.relay.Copies()) > 500 }, "the load is on")
	require.NoError(t, w.channel().ExchangeDelete(x, false, false))
	errs := <-done
	found := w.counts(q)
	var delivered, lost, missing int
	for i, err := range errs {
		switch {
		case err == nil:
			delivered++
			require.Equal(t, 1, found[all[i].ID.String()])
		case outflow.IsPermanent(err):
			missing++
			require.ErrorIs(t, err, outflow.ErrNoDestination)
			require.Zero(t, found[all[i].ID.String()], "%v", err)
		default:
			lost++
			is(t, outflow.ClassUnavailable, err, "404 NOT_FOUND", "RabbitMQ may have accepted it")
		}
	}
	t.Logf("%d delivered, %d answers lost, %d missing", delivered, lost, missing)
	require.Positive(t, delivered)
	require.Positive(t, missing)
	require.NoError(t, w.channel().ExchangeDeclare(x, "topic", true, false, false, false, nil))
	require.NoError(t, w.channel().QueueBind(q, "key", x, false, nil))
	_, err := p.Publish(t.Context(), message(to(x, "key")))
	require.NoError(t, err)
}

// TestQueueIsDeletedAndMadeAgain: its messages are missing meanwhile, and no channel closes.
func TestQueueIsDeletedAndMadeAgain(t *testing.T) {
	w := newWorld(t)
	x, p := w.exchange("topic"), w.publisher()
	q := w.queue(x, "key")
	publish := func() error {
		_, err := p.Publish(t.Context(), message(to(x, "key")))
		return err
	}
	require.NoError(t, publish())
	_, err := w.channel().QueueDelete(q, false, false, false)
	require.NoError(t, err)
	require.ErrorIs(t, publish(), outflow.ErrNoDestination)
	w.declare(q)
	require.NoError(t, w.channel().QueueBind(q, "key", x, false, nil))
	require.NoError(t, publish())
	assert.Len(t, w.deliveries(q), 1)
}

// TestBatch: in the order of the messages, each with its own result, more than are outstanding at
// once.
func TestBatch(t *testing.T) {
	w := newWorld(t)
	x, p := w.exchange("topic"), w.publisher()
	q := w.queue(x, "key")
	all := messages(1_300, "")
	all[7].ID = uuid.Nil
	all[8].Payload = make([]byte, 17<<20)
	all[9].ID = all[10].ID // the same message twice: the second waits for the first
	results := p.PublishBatch(t.Context(), to(x, "key"), all)
	require.Len(t, results, len(all))
	var want []string
	for i, r := range results {
		if i == 7 || i == 8 {
			is(t, outflow.ClassPermanent, r.Err)
			continue
		}
		require.NoError(t, r.Err)
		want = append(want, all[i].ID.String())
	}
	var got []string
	for _, d := range w.deliveries(q) {
		got = append(got, d.MessageId)
	}
	require.Equal(t, want, got)

	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, r := range p.PublishBatch(ctx, to(x, "key"), messages(3, "")) {
		require.ErrorIs(t, r.Err, outflow.ErrNotAttempted)
	}
	for _, r := range p.PublishBatch(t.Context(), "sqs://orders", messages(3, "")) {
		is(t, outflow.ClassPermanent, r.Err, "sqs://orders")
	}
	require.Empty(t, p.PublishBatch(t.Context(), to(x, "key"), nil))
	require.Empty(t, w.deliveries(q))
}

// TestBatchHoldsBackAKey of which a message failed: no later message of the key overtakes it.
func TestBatchHoldsBackAKey(t *testing.T) {
	w := aloneWorld(t)
	w.Control("eval", "application:set_env(rabbit, max_message_size, 1000000).")
	defer w.Control("eval", "application:set_env(rabbit, max_message_size, 134217728).")
	x, p := w.exchange("topic"), w.publisher()
	q := w.queue(x, "key")
	batch := messages(8, "")
	for i, key := range []string{"a", "b", "a", "b", "a", "b", "", "c"} {
		batch[i].OrderingKey = key
	}
	batch[0].Payload = make([]byte, 1_000_001) // RabbitMQ refuses it
	batch[3].Payload = make([]byte, 17<<20)    // and this one is not sent
	var want []string
	for i, r := range p.PublishBatch(t.Context(), to(x, "key"), batch) {
		switch i {
		case 0, 3:
			is(t, outflow.ClassPermanent, r.Err)
		case 2, 4, 5:
			is(t, outflow.ClassRetryable, r.Err, to(x, "key"), "an earlier message of its ordering key failed")
			require.ErrorIs(t, r.Err, outflow.ErrNotAttempted)
		default:
			require.NoError(t, r.Err)
			want = append(want, batch[i].ID.String())
		}
	}
	var got []string
	for _, d := range w.deliveries(q) {
		got = append(got, d.MessageId)
	}
	require.Equal(t, want, got)
}

// TestBatchThatTakesLong: an answer that came in time counts, however long the rest takes to be
// sent.
func TestBatchThatTakesLong(t *testing.T) {
	w := newWorld(t)
	x, p := w.exchange("topic"), w.publisher(rabbitmq.WithTimeout(3*time.Second))
	q := w.queue(x, "key")
	w.relay.Delay(x, 300*time.Millisecond)
	all := messages(6_000, "") // twelve windows, of 300 ms each
	began := time.Now()
	for i, r := range p.PublishBatch(t.Context(), to(x, "key"), all) {
		require.NoError(t, r.Err, "message %d", i)
	}
	require.Greater(t, time.Since(began), 3*time.Second)
	require.Len(t, w.counts(q), len(all))
}

// TestHeadersBeyondAFrame: AMQP can't split them, and RabbitMQ would close the connection.
func TestHeadersBeyondAFrame(t *testing.T) {
	w := newWorld(t)
	x, p := w.exchange("topic"), w.publisher()
	q := w.queue(x, "key")
	with := func(n, size int) error {
		m := message(to(x, "key"))
		m.Headers = map[string]string{}
		for i := range n {
			m.Headers[fmt.Sprintf("h%02d", i)] = strings.Repeat("v", size)
		}
		_, err := p.Publish(t.Context(), m)
		return err
	}
	is(t, outflow.ClassPermanent, with(64, 8<<10), "frame of this broker 131072", "raise frame_max")
	// The largest that fits, to the byte.
	fits := 0
	for size := 131_072 - 100; with(1, size) != nil; size-- {
		fits = size - 1
	}
	t.Logf("a header of %d bytes fits", fits)
	require.Greater(t, fits, 130_000)
	all := w.deliveries(q)
	require.Len(t, all, 1)
	require.Len(t, all[0].Headers["h00"], fits)
}

// TestCloseEndsEverything, also where nothing was ever sent.
func TestCloseEndsEverything(t *testing.T) {
	w := newWorld(t)
	x, p := w.exchange("topic"), w.publisher()
	w.queue(x, "key")
	noErrors(t, publishAll(t, p, 10, messages(100, to(x, "key"))))
	p.Close()
	p.Close()
	_, err := p.Publish(t.Context(), message(to(x, "key")))
	is(t, outflow.ClassRetryable, err, to(x, "key"), "the publisher is closed")
	require.ErrorIs(t, err, outflow.ErrNotAttempted)
	require.ErrorIs(t, p.Check(t.Context(), to(x, "key")), outflow.ErrNotAttempted)
	w.publisher().Close()
}

// TestCloseEndsAConnectionThatIsBeingMade, however long that may take.
func TestCloseEndsAConnectionThatIsBeingMade(t *testing.T) {
	for _, scheme := range []string{"amqp", "amqps"} {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		defer listener.Close()
		a, err := rabbitmq.ParseAddress(scheme + "://" + listener.Addr().String() + "?connection_timeout=600000")
		require.NoError(t, err)
		p := rabbitmq.New(a, rabbitmq.WithTimeout(30*time.Second))
		failed := make(chan error, 1)
		go func() {
			_, err := p.Publish(t.Context(), message(to("orders", "paid")))
			failed <- err
		}()
		silent, err := listener.Accept()
		require.NoError(t, err)
		defer silent.Close()
		began := time.Now()
		p.Close()
		require.Less(t, time.Since(began), 20*time.Second)
		is(t, outflow.ClassRetryable, <-failed, to("orders", "paid"), "the publisher is closed")
	}
}

// TestBrokerAllowsFewChannels: where more exchanges are used, the least recently used channel
// closes. Where all are in use, the error says so.
func TestBrokerAllowsFewChannels(t *testing.T) {
	w := newWorld(t)
	a, err := rabbitmq.ParseAddress("amqp://guest:guest@" + w.relay.Address() + "?channel_max=3")
	require.NoError(t, err)
	p := rabbitmq.New(a, rabbitmq.WithTimeout(20*time.Second))
	defer p.Close()
	var exchanges, destinations []string
	for range 5 {
		x := w.exchange("topic")
		w.queue(x, "key")
		exchanges, destinations = append(exchanges, x), append(destinations, to(x, "key"))
	}
	for range 3 {
		for _, d := range destinations {
			noErrors(t, publishAll(t, p, 5, messages(20, d)))
			require.LessOrEqual(t, rabbitmq.Channels(p), 3)
		}
	}
	require.NoError(t, p.Check(t.Context(), destinations[0]), "it closes one, too")
	for _, d := range destinations[:3] {
		noErrors(t, publishAll(t, p, 1, messages(1, d)))
	}
	before := len(w.relay.Copies())
	for _, x := range exchanges[:3] {
		w.relay.Delay(x, 10*time.Minute)
	}
	var work sync.WaitGroup
	for _, d := range destinations[:3] {
		work.Go(func() { _, _ = p.Publish(t.Context(), message(d)) }) // cut off below
	}
	eventually(t, func() bool { return len(w.relay.Copies()) == before+3 }, "all channels are in use")
	_, err = p.Publish(t.Context(), message(destinations[3]))
	is(t, outflow.ClassUnavailable, err, destinations[3],
		"all 3 channels that a connection may have are in use: raise channel_max", "nothing was sent")
	w.relay.Cut()
	work.Wait()
	noErrors(t, publishAll(t, p, 1, messages(1, destinations[4])))
}

// TestChannelsAreBounded: the least recently used one closes, and is opened again.
func TestChannelsAreBounded(t *testing.T) {
	w := newWorld(t)
	p := w.publisher(rabbitmq.WithMaxChannels(3))
	var destinations []string
	for range 5 {
		x := w.exchange("topic")
		w.queue(x, "key")
		destinations = append(destinations, to(x, "key"))
	}
	for range 3 {
		for _, d := range destinations {
			noErrors(t, publishAll(t, p, 5, messages(20, d)))
			require.LessOrEqual(t, rabbitmq.Channels(p), 3)
		}
	}
	var all []outflow.Message
	for i := range 2_000 {
		all = append(all, message(destinations[i%5]))
	}
	noErrors(t, publishAll(t, p, 50, all))
}

// TestIdleChannelsClose when another exchange is used.
func TestIdleChannelsClose(t *testing.T) {
	w := newWorld(t)
	p := w.publisher(rabbitmq.WithIdle(50 * time.Millisecond))
	x, other := w.exchange("topic"), w.exchange("topic")
	w.queue(x, "key")
	w.queue(other, "key")
	noErrors(t, publishAll(t, p, 1, messages(1, to(x, "key"))))
	eventually(t, func() bool {
		noErrors(t, publishAll(t, p, 1, messages(1, to(other, "key"))))
		return rabbitmq.Channels(p) == 1
	}, "the idle channel closes")
	noErrors(t, publishAll(t, p, 1, messages(1, to(x, "key"))))
}

package rabbitmq

import (
	"context"
	"testing"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
)

// standing is a channel of a connection that writes nothing until somebody takes from its queue.
func standing() (*session, *channel) {
	s := &session{settings: settings{timeout: time.Hour, maxChannels: 100, idle: time.Hour},
		queue: make(chan *sending), gone: make(chan struct{}), exchanges: map[string]*exchange{}}
	s.closing, s.stopSending = context.WithCancel(context.Background())
	s.proven.Store(provenFromTheStart)
	return s, newChannel(s, &exchange{session: s, name: "orders"}, &amqp.Channel{})
}

func messageOf(id string) *sending {
	return &sending{publishing: amqp.Publishing{MessageId: id}, settled: make(chan struct{})}
}

// within is a call with so much time to hand its message over.
func within(t *testing.T, d time.Duration) preparing {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	t.Cleanup(cancel)
	return preparing{doing: "sending to rabbitmq://orders/paid", until: ctx, caller: t.Context(), whole: true}
}

const short, long = 50 * time.Millisecond, time.Minute

// TestWhatAMessageWaitedFor is in its failure.
func TestWhatAMessageWaitedFor(t *testing.T) {
	s, c := standing()
	fails := func(m *sending, why string) {
		t.Helper()
		err := c.hand(m, within(t, short))
		require.ErrorContains(t, err, "sending to rabbitmq://orders/paid: no answer in time: "+why+" (nothing was sent")
		require.Equal(t, outflow.ClassUnavailable, outflow.ClassOf(err))
	}
	fails(messageOf("a"), "RabbitMQ has not taken the message before it")
	sent := messageOf("a")
	go func() { <-s.queue }()
	require.NoError(t, c.hand(sent, within(t, long)))
	fails(messageOf("a"), "a message of the same ID waits for RabbitMQ's confirm")
	alone := messageOf("b")
	alone.publishing.Body = make([]byte, provenFromTheStart+1)
	fails(alone, "the messages before it wait for RabbitMQ's confirm")
	c.drop(sent, nil)
	fails(alone, "RabbitMQ has not taken the message before it")
	over, cancel := context.WithCancel(t.Context())
	cancel()
	require.ErrorIs(t, c.hand(sent, preparing{until: over, caller: over}), outflow.ErrNotAttempted)
}

// TestUnsentMessageLetsItsCopyGo: nobody settles what was not sent.
func TestUnsentMessageLetsItsCopyGo(t *testing.T) {
	s, c := standing()
	original := make(chan error)
	go func() { original <- c.hand(messageOf("a"), within(t, time.Second)) }()
	require.Eventually(t, func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return c.outstanding["a"] != nil
	}, long, time.Millisecond)
	handed := make(chan error)
	second := messageOf("a")
	go func() { handed <- c.hand(second, within(t, long)) }()
	require.Error(t, <-original)
	select {
	case m := <-s.queue:
		require.Same(t, second, m)
		require.NoError(t, <-handed)
	case err := <-handed:
		require.NoError(t, err)
	}
}

// TestClosingConnectionTakesNoMessages: whoever waits for it finds another.
func TestClosingConnectionTakesNoMessages(t *testing.T) {
	s, c := standing()
	waiting := make(chan error)
	hand := func(m *sending) { go func() { waiting <- c.hand(m, within(t, long)) }() }
	go func() { <-s.queue }()
	sent := messageOf("a")
	require.NoError(t, c.hand(sent, within(t, long)))
	hand(messageOf("a")) // for the one before
	hand(messageOf("b")) // for whoever writes
	require.Eventually(t, func() bool {
		c.mu.Lock()
		defer c.mu.Unlock()
		return sent.left != nil && c.outstanding["b"] != nil
	}, long, time.Millisecond)
	alone := messageOf("c")
	alone.publishing.Body = make([]byte, provenFromTheStart+1)
	hand(alone) // for the window
	s.stopSending()
	began := time.Now()
	for range 3 {
		require.ErrorIs(t, <-waiting, errUnsent)
	}
	require.Less(t, time.Since(began), long/2, "nobody waits until the time is over")
	require.ErrorIs(t, c.hand(messageOf("d"), within(t, long)), errUnsent)
	_, err := (&exchange{session: s}).open(within(t, long))
	require.ErrorIs(t, err, errUnsent)
	drained := make(chan struct{})
	go func() { c.drainOutstanding(t.Context()); close(drained) }()
	c.drop(sent, nil)
	<-drained
}

// TestSweepLeavesAChannelThatIsBeingOpened: nobody would close it.
func TestSweepLeavesAChannelThatIsBeingOpened(t *testing.T) {
	s, _ := standing()
	x := &exchange{session: s, name: "orders", opening: &opening{done: make(chan struct{})}}
	s.exchanges["orders"] = x
	later := time.Now().Add(2 * time.Hour)
	s.sweep(later)
	require.Contains(t, s.exchanges, "orders")
	x.opening = nil
	s.sweep(later)
	require.Empty(t, s.exchanges)
}

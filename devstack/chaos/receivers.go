package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/outflowhq/outflow/devstack/faults"
)

const (
	// toReceivers is how many messages a second have callbacks: one to each receiver.
	toReceivers = 4
	// callbacksAfter bounds the wait for callbacks whose receivers are good again.
	callbacksAfter = 45 * time.Second
)

// badReceivers are ways in which a receiver of callbacks is bad.
var badReceivers = []struct {
	path   string
	answer http.HandlerFunc
}{
	{"/hangs", func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done(); panic(http.ErrAbortHandler) }},
	{"/resets", resetConnection},
	{"/streams", streamWithoutEnd},
	{"/fails", func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) }},
}

func resetConnection(w http.ResponseWriter, _ *http.Request) {
	conn, _, err := http.NewResponseController(w).Hijack()
	if err != nil {
		panic(http.ErrAbortHandler)
	}
	defer conn.Close()
	if secured, ok := conn.(interface{ NetConn() net.Conn }); ok {
		if tcp, ok := secured.NetConn().(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
			_ = tcp.Close() // without TLS's own goodbye
		}
	}
}

func streamWithoutEnd(w http.ResponseWriter, _ *http.Request) {
	page := make([]byte, 32<<10)
	for {
		if _, err := w.Write(page); err != nil {
			return
		}
	}
}

// receivers measures the healthy queues beside messages with callbacks, whose
// receivers are good in one round and bad in the next.
func receivers(ctx context.Context, c *chaos) error {
	r, err := faults.NewReceiver()
	if err != nil {
		return err
	}
	defer r.Close()
	f, err := c.deploy(ctx, "receivers", r.Env()...)
	if err != nil {
		return err
	}
	f.AnswersIn(answers)
	return errors.Join(c.receiverRounds(ctx, f, r), f.close(c.stack.Logs()))
}

func (c *chaos) receiverRounds(ctx context.Context, f *fleet, r *faults.Receiver) error {
	if _, err := c.measureRound(ctx, f); err != nil { // warm up
		return err
	}
	found, err := c.compare("receivers",
		func(int) (measure, error) { return c.besideReceivers(ctx, f, r, false) },
		func(int) (measure, error) { return c.besideReceivers(ctx, f, r, true) })
	if err != nil {
		return err
	}
	// Callbacks that fail are tried again, and take that much of the machine: the
	// throughput is shown, and not held.
	c.holdP99("receivers", found)
	return nil
}

// besideReceivers measures a round beside a steady load of messages whose
// callbacks go to each receiver in turn.
func (c *chaos) besideReceivers(ctx context.Context, f *fleet, r *faults.Receiver, bad bool) (measure, error) {
	var addresses []string
	for _, b := range badReceivers {
		addresses = append(addresses, r.URL(b.path))
		if bad {
			r.Behave(b.path, b.answer)
		}
	}
	load := f.StartCallbackLoad(toReceivers, "sqs://with-callback", addresses...)
	pause(ctx, onset)
	m, err := c.measureRound(ctx, f)
	load.Stop()
	for _, b := range badReceivers {
		r.Behave(b.path, nil)
	}
	if err != nil {
		return m, err
	}
	return m, c.settleCallbacks(ctx, f, bad)
}

const callbackCounts = `
SELECT count(*) FILTER (WHERE callback_state = 'due'), coalesce(sum(callback_attempts), 0) FROM outbox.messages
 WHERE destination = 'sqs://with-callback'`

// settleCallbacks waits until the receivers, good again, have every callback.
// What is in a long backoff would disturb the next round, and is withdrawn.
func (c *chaos) settleCallbacks(ctx context.Context, f *fleet, bad bool) error {
	var due, attempts int
	if err := f.Pool.QueryRow(ctx, callbackCounts).Scan(&due, &attempts); err != nil {
		return fmt.Errorf("counting callbacks: %w", err)
	}
	if bad {
		c.say("receivers: %d callbacks due at the end of a bad round, %d attempts so far", due, attempts)
	}
	settling, cancel := context.WithTimeout(ctx, callbacksAfter)
	defer cancel()
	if f.awaitNone(settling, "callback_state = 'due'") == nil {
		return nil
	}
	c.say("receivers: not every callback arrived within %s of recovery; the rest is withdrawn", callbacksAfter)
	_, err := f.Pool.Exec(ctx, "UPDATE outbox.messages SET callback_state = 'failed', callback_due_at = NULL WHERE callback_state = 'due'")
	return err
}

package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"sync/atomic"
	"time"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/devstack/faults"
)

const (
	// toHost is how many messages go to a bad host, each to a path of its own.
	toHost = 1500
	// hostsRecovery bounds the time in which a host that is good again has all of them.
	hostsRecovery = 2 * time.Minute

	refusedHosts = 10_000
	delayedHosts = 100_000
)

// manyHosts are ways in which many destinations could hurt the healthy ones.
var manyHosts = []struct {
	name  string
	onset time.Duration
	begin func(ctx context.Context, f *fleet, r *faults.Receiver) error
	end   func(ctx context.Context, c *chaos, f *fleet, r *faults.Receiver) error
}{
	{"slow-host", slowOnset, slowHost.begin, slowHost.end},
	{"failing-host", onset, failingHost.begin, failingHost.end},
	{"refused-hosts", onset, manyDestinations("https://host-%d.example.org/hooks/%d", refusedHosts, 0), withdrawn},
	{"delayed", 0, manyDestinations("https://host-%d.example.org/hooks/%d", delayedHosts, time.Hour), withdrawn},
}

var (
	// A host that is slow and answers is sent few copies.
	slowHost = &badHost{most: toHost + toHost/10, answer: func(w http.ResponseWriter, r *http.Request) {
		select {
		case <-time.After(2 * time.Second):
			w.WriteHeader(http.StatusNoContent)
		case <-r.Context().Done():
			panic(http.ErrAbortHandler)
		}
	}}
	failingHost = &badHost{most: toHost / 2,
		answer: func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusInternalServerError) }}
)

func hostNames() (names []string) {
	for _, m := range manyHosts {
		names = append(names, m.name)
	}
	return names
}

// badHost is a host that answers badly.
type badHost struct {
	answer http.HandlerFunc
	most   int64 // requests of a round, while it is bad; 0 is any number
	asked  atomic.Int64
}

// begin enqueues messages for the host whose paths are all different.
func (b *badHost) begin(ctx context.Context, f *fleet, r *faults.Receiver) error {
	b.asked.Store(0)
	r.Behave("/hooks/", func(w http.ResponseWriter, req *http.Request) { b.asked.Add(1); b.answer(w, req) })
	round := time.Now().UnixNano()
	return f.enqueue(ctx, toHost, func(i int) outflow.Message {
		return outflow.Message{Destination: r.URL(fmt.Sprintf("/hooks/%d/%d", round, i)), Type: "bad",
			Payload: []byte(`{"bad":true}`)}
	})
}

// end has it answer well, waits until it has everything, and counts what it was asked.
func (b *badHost) end(ctx context.Context, c *chaos, f *fleet, r *faults.Receiver) error {
	r.Behave("/hooks/", nil)
	asked := b.asked.Load()
	var runs int
	if err := f.Pool.QueryRow(ctx, `SELECT count(*) FROM outbox.messages WHERE destination LIKE 'https:%' AND started AND state = 'pending'`).Scan(&runs); err != nil {
		return fmt.Errorf("counting runs: %w", err)
	}
	c.say("the bad host had %d requests for %d messages; %d runs are open", asked, toHost, runs)
	if b.most > 0 && asked > b.most {
		return fmt.Errorf("the bad host had %d requests for %d messages (at most %d)", asked, toHost, b.most)
	}
	settling, cancel := context.WithTimeout(ctx, hostsRecovery)
	defer cancel()
	return f.awaitNone(settling, "destination LIKE 'https:%' AND state = 'pending'")
}

// manyDestinations enqueues one message for each of n destinations, delayed or due now.
func manyDestinations(format string, n int, delay time.Duration) func(context.Context, *fleet, *faults.Receiver) error {
	return func(ctx context.Context, f *fleet, _ *faults.Receiver) error {
		_, err := f.Pool.Exec(ctx, `
			INSERT INTO outbox.messages (id, destination, type, payload, due_at, available_at, parked)
			SELECT gen_random_uuid(), format($1::text, n, n), 'bad', '{"bad":true}', now() + $3::interval, now() + $3::interval, $3::interval > interval '0'
			  FROM generate_series(1, $2::int) AS n`, formatOf(format), n, delay)
		if err != nil {
			return fmt.Errorf("enqueuing %d messages: %w", n, err)
		}
		return nil
	}
}

// formatOf is a format of Go's in Postgres's spelling.
func formatOf(format string) string {
	out := []byte(format)
	for i, b := range out {
		if b == 'd' && i > 0 && out[i-1] == '%' {
			out[i] = 's'
		}
	}
	return string(out)
}

// withdrawn takes messages away that never had a run.
func withdrawn(ctx context.Context, _ *chaos, f *fleet, _ *faults.Receiver) error {
	var runs int
	if err := f.Pool.QueryRow(ctx, `SELECT count(*) FROM outbox.messages WHERE destination LIKE 'https:%' AND started AND state = 'pending'`).Scan(&runs); err != nil {
		return fmt.Errorf("counting runs: %w", err)
	}
	if _, err := f.Pool.Exec(ctx, `DELETE FROM outbox.messages WHERE destination LIKE 'https:%' AND state = 'pending'`); err != nil {
		return fmt.Errorf("withdrawing messages: %w", err)
	}
	if runs > 0 {
		return fmt.Errorf("%d messages had a run started that could not be delivered from here", runs)
	}
	return nil
}

// hosts measures the healthy queues beside many destinations: of one bad host, of hosts
// that are not allowed, and of messages that are not due.
func hosts(ctx context.Context, c *chaos) error {
	r, err := faults.NewReceiver()
	if err != nil {
		return err
	}
	defer r.Close()
	f, err := c.deploy(ctx, "hosts", r.Env()...)
	if err != nil {
		return err
	}
	f.AnswersIn(answers)
	_, err = c.measureRound(ctx, f) // warm up
	for _, m := range manyHosts {
		if err != nil || c.only != m.name && slices.Contains(hostNames(), c.only) {
			continue
		}
		var found ratios
		found, err = c.compare(m.name,
			func(int) (measure, error) {
				pause(ctx, m.onset)
				return c.measureRound(ctx, f)
			},
			func(int) (measure, error) {
				if err := m.begin(ctx, f, r); err != nil {
					return measure{}, err
				}
				pause(ctx, m.onset)
				seen, err := c.measureRound(ctx, f)
				if err == nil {
					began := time.Now()
					err = m.end(ctx, c, f, r)
					c.say("%s: settled after %.1f s", m.name, time.Since(began).Seconds())
				}
				return seen, err
			})
		switch {
		case err != nil:
		case m.name == "slow-host":
			c.holdBesideSlow(m.name, found)
		default:
			c.hold(m.name, found)
		}
	}
	return errors.Join(err, f.close(c.stack.Logs()))
}

package main

import (
	"context"
	"fmt"
	"math"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/outboxdb"
)

const (
	// burst is a round's backlog, over the healthy queues: some ten seconds, in which
	// a hiccup of the machine is a small part.
	burst = 2000
	// The engine goes on working off a backlog's runs when their messages are marked:
	// what comes in that time is late because of the backlog.
	settleFor    = 3 * time.Second
	steadyFor    = 10 * time.Second
	roundTimeout = 3 * time.Minute
)

// healthy are the queues that nothing is wrong with.
var healthy = []string{"orders", "letters", "invoices", "events"}

// measure is what a round found of the healthy queues.
type measure struct {
	throughput float64         // messages a second, out of a backlog
	beside     float64         // those that other destinations took in the same time
	took       []time.Duration // from enqueue to mark, at a steady rate, sorted
}

// all is what all destinations took in a second.
func (m measure) all() float64 { return m.throughput + m.beside }

func (m measure) String() string {
	return fmt.Sprintf("%.0f/s, others %.0f/s, p50 %s, p99 %s", m.throughput, m.beside,
		quantile(m.took, 0.5).Round(time.Millisecond), quantile(m.took, 0.99).Round(time.Millisecond))
}

// series is rounds in turn: without trouble, with it, without, and so on; the last
// is without.
type series struct{ without, with []measure }

// ratios are with over without, of all rounds together: a round's throughput differs by a fifth from
// the next one's, and the p99 of its 200 messages is that of two of them. The throughput is that of
// all destinations: what a slow one takes is its share of two cores that are saturated.
type ratios struct{ throughput, p50, p99 float64 }

func (s series) ratios() ratios {
	with, without := tookIn(s.with), tookIn(s.without)
	of := func(q float64) float64 { return float64(quantile(with, q)) / float64(quantile(without, q)) }
	return ratios{secondsEach(s.without) / secondsEach(s.with), of(0.5), of(0.99)}
}

// secondsEach is the mean time for a message out of a backlog.
func secondsEach(rounds []measure) (seconds float64) {
	for _, m := range rounds {
		seconds += 1 / m.all() / float64(len(rounds))
	}
	return seconds
}

func tookIn(rounds []measure) (all []time.Duration) {
	for _, m := range rounds {
		all = append(all, m.took...)
	}
	slices.Sort(all)
	return all
}

// quantile is the smallest of the sorted values that q of them do not exceed.
func quantile(sorted []time.Duration, q float64) time.Duration {
	if len(sorted) == 0 {
		return 0
	}
	return sorted[max(int(math.Ceil(q*float64(len(sorted))))-1, 0)]
}

// compare measures rounds without and with a trouble in turn, and prints their
// ratios.
func (c *chaos) compare(name string, without, with func(round int) (measure, error)) (ratios, error) {
	return c.compareIn(c.rounds, name, without, with)
}

// compareIn is compare with so many rounds.
func (c *chaos) compareIn(
	rounds int, name string, without, with func(round int) (measure, error),
) (r ratios, err error) {
	before, err := without(0)
	if err != nil {
		return r, err
	}
	s := series{without: []measure{before}}
	for round := range rounds {
		beside, err := with(round)
		if err != nil {
			return r, err
		}
		after, err := without(round + 1)
		if err != nil {
			return r, err
		}
		s.with, s.without = append(s.with, beside), append(s.without, after)
		c.say("%s: without %s; with %s; without %s", name, before, beside, after)
		before = after
	}
	r = s.ratios()
	c.result("ratio throughput/%s %.2f", name, r.throughput)
	c.result("ratio healthy-p50/%s %.2f", name, r.p50)
	c.result("ratio healthy-p99/%s %.2f", name, r.p99)
	return r, nil
}

// measureRound drains a backlog of the healthy queues, then keeps a steady load
// on them.
func (c *chaos) measureRound(ctx context.Context, f *fleet) (measure, error) {
	ctx, cancel := context.WithTimeout(ctx, roundTimeout)
	defer cancel()
	from, err := f.moment(ctx)
	if err != nil {
		return measure{}, err
	}
	err = f.enqueue(ctx, burst, func(i int) outflow.Message {
		return outflow.Message{Destination: "sqs://" + healthy[i%len(healthy)], Type: "burst",
			Payload: []byte(`{"burst":true}`)}
	})
	if err != nil {
		return measure{}, err
	}
	if err := f.awaitHealthy(ctx); err != nil {
		return measure{}, err
	}
	var m measure
	var took time.Duration
	var others int
	if err := f.Pool.QueryRow(ctx, burstTook, from, healthyDestinations()).Scan(&took, &others); err != nil {
		return m, fmt.Errorf("reading the throughput: %w", err)
	}
	m.throughput, m.beside = burst/took.Seconds(), float64(others)/took.Seconds()

	pause(ctx, settleFor)
	if from, err = f.moment(ctx); err != nil {
		return m, err
	}
	load := f.StartLoad(c.rate, healthyDestinations()...)
	pause(ctx, steadyFor)
	load.Stop()
	if err := f.awaitHealthy(ctx); err != nil {
		return m, err
	}
	rows, err := f.Pool.Query(ctx, steadyTook, from, healthyDestinations())
	if err == nil {
		m.took, err = pgx.CollectRows(rows, pgx.RowTo[time.Duration])
	}
	if err != nil {
		return m, fmt.Errorf("reading the latencies: %w", err)
	}
	return m, nil
}

const burstTook = `
WITH burst AS (
SELECT min(enqueued_at) AS began, max(finished_at) AS ended FROM outbox.messages
 WHERE enqueued_at >= $1 AND destination = ANY ($2) AND type = 'burst'
)
SELECT ended - began, (SELECT count(*) FROM outbox.messages
                        WHERE state = 'delivered' AND finished_at BETWEEN began AND ended AND destination <> ALL ($2))
  FROM burst`

const steadyTook = `
SELECT finished_at - enqueued_at AS took FROM outbox.messages
 WHERE enqueued_at >= $1 AND destination = ANY ($2) AND type = 'numbered' AND state = 'delivered'
 ORDER BY took`

func healthyDestinations() []string { return toQueues(healthy...) }

func toQueues(queues ...string) (all []string) {
	for _, q := range queues {
		all = append(all, "sqs://"+q)
	}
	return all
}

// moment is the database's clock.
func (f *fleet) moment(ctx context.Context) (t time.Time, err error) {
	if err := f.Pool.QueryRow(ctx, "SELECT clock_timestamp()").Scan(&t); err != nil {
		return t, fmt.Errorf("reading the database's clock: %w", err)
	}
	return t, nil
}

// awaitHealthy waits until the healthy queues have everything.
func (f *fleet) awaitHealthy(ctx context.Context) error {
	return f.awaitNone(ctx, "destination = ANY ($1) AND type <> 'poison' AND state = 'pending'", healthyDestinations())
}

// awaitNone waits until no row fulfils the condition.
func (f *fleet) awaitNone(ctx context.Context, condition string, args ...any) error {
	for {
		var n int
		if err := f.Pool.QueryRow(ctx, "SELECT count(*) FROM outbox.messages WHERE "+condition,
			args...).Scan(&n); err != nil {
			return fmt.Errorf("waiting until there is no row with %s: %d are left: %w", condition, n, err)
		}
		if n == 0 {
			return nil
		}
		if !pause(ctx, 20*time.Millisecond) {
			return fmt.Errorf("waiting until there is no row with %s: %d are left: %w", condition, n, ctx.Err())
		}
	}
}

// enqueue commits n messages in transactions of fifty.
func (f *fleet) enqueue(ctx context.Context, n int, message func(i int) outflow.Message) error {
	const atOnce = 50
	for i := 0; i < n; i += atOnce {
		var messages []outflow.Message
		for j := i; j < min(i+atOnce, n); j++ {
			messages = append(messages, message(j))
		}
		err := pgx.BeginFunc(ctx, f.Pool, func(tx pgx.Tx) error {
			_, err := outboxdb.Enqueue(ctx, tx, messages...)
			return err
		})
		if err != nil {
			return fmt.Errorf("enqueuing %d messages: %w", len(messages), err)
		}
	}
	return nil
}

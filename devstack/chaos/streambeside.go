package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	// streamedEach goes to each of two streams.
	streamedEach = mostStreamed / 2
	besideRounds = 2
	// leastShare of its fair share has each stream beside another one, and the load beside them. The
	// fair share of a stream is half of what it delivers alone.
	leastShare = 1.0 / 3
)

var twoBacklogs = []string{"backlog-a", "backlog-b"}

// streamsBeside has two backlogs delivered by one worker, one after the other and then at once, beside
// a steady load. None may starve.
func streamsBeside(ctx context.Context, c *chaos) error {
	f, err := c.deployStreams(ctx, "streamsbeside", 1, streamAbove)
	if err != nil {
		return err
	}
	b := &besideRun{chaos: c, fleet: f, alone: map[string][]float64{}, beside: map[string][]float64{}}
	return errors.Join(b.run(ctx), f.close(c.stack.Logs()))
}

type besideRun struct {
	*chaos
	*fleet
	// alone and beside are the rates of each queue's stream, in messages a second.
	alone, beside map[string][]float64
	inTime        []float64 // of the steady load, beside two streams
}

func (b *besideRun) run(ctx context.Context) error {
	load := b.StartLoad(besideRate, toQueues(besideStreams...)...)
	defer load.Stop()
	pause(ctx, onset) // warm up
	rounds := min(b.rounds, besideRounds)
	var s series
	for round := range rounds {
		without, err := b.steadily(ctx, func() error { pause(ctx, calmFor/2); return ctx.Err() })
		if err != nil {
			return err
		}
		if _, err := b.round(ctx, b.alone, twoBacklogs[round%2]); err != nil {
			return err
		}
		with, err := b.round(ctx, b.beside, twoBacklogs...)
		if err != nil {
			return err
		}
		s.without, s.with = append(s.without, without), append(s.with, with)
		b.say("stream-beside: without %s; beside two streams %s", without, with)
	}
	load.Stop()
	b.hold(s)
	arrived := b.Arrivals(twoBacklogs...)
	errs := []error{b.holdStreamed(ctx, b.chaos, "backlog", arrived), b.holdBeside(ctx, b.chaos, load), b.holdEnds()}
	_, err := b.judge(ctx, b.fleet, nil)
	return errors.Join(append(errs, err)...)
}

// round has a backlog of each queue delivered, notes the rate of each stream, and measures the load
// beside them.
func (b *besideRun) round(ctx context.Context, rates map[string][]float64, queues ...string) (measure, error) {
	from, err := b.moment(ctx)
	if err != nil {
		return measure{}, err
	}
	if err := b.enqueueBacklog(ctx, b.scaled(streamedEach), queues...); err != nil {
		return measure{}, err
	}
	m, err := b.steadily(ctx, func() error { return b.drainBacklog(ctx, b.chaos) })
	if err != nil {
		return m, err
	}
	for _, q := range queues {
		rate, err := b.rate(ctx, from, q, queues)
		if err != nil {
			return m, err
		}
		rates[q] = append(rates[q], rate)
		b.say("stream-beside: %s %.0f/s, of %d streams", q, rate, len(queues))
	}
	return m, b.awaitStreamsEnd(ctx, b.chaos)
}

// streamRate counts what a queue's stream delivered a second, in the time in which each of the streams
// had something to deliver.
const streamRate = `
WITH ended AS (
SELECT destination, finished_at FROM outbox.messages
 WHERE type = 'backlog' AND enqueued_at >= $1 AND destination = ANY ($2) AND streamed
), streams AS (
SELECT min(finished_at) AS began, max(finished_at) AS last FROM ended GROUP BY destination
), shared AS (
SELECT min(began) AS began, min(last) AS last FROM streams
)
SELECT coalesce(count(*) / nullif(extract(epoch FROM max(s.last) - max(s.began)), 0), 0)::float8
  FROM shared AS s JOIN ended AS e ON e.destination = $3 AND e.finished_at <= s.last`

func (b *besideRun) rate(ctx context.Context, from time.Time, queue string, queues []string) (rate float64, err error) {
	err = b.Pool.QueryRow(ctx, streamRate, from, toQueues(queues...), "sqs://"+queue).Scan(&rate)
	if err != nil && !errors.Is(err, pgx.ErrNoRows) {
		return 0, fmt.Errorf("reading the rate of a stream: %w", err)
	}
	return rate, nil
}

// hold prints what each has of its fair share.
func (b *besideRun) hold(s series) {
	var alone []float64
	for _, rates := range b.alone {
		alone = append(alone, rates...)
	}
	for _, q := range twoBacklogs {
		share := mean(b.beside[q]) / (mean(alone) / 2)
		b.result("ratio fair-share/%s %.2f", q, share)
		b.holdLeast("stream-beside", "fair share of "+q, share, leastShare)
	}
	r := s.ratios()
	b.result("ratio steady-throughput/stream-beside %.2f", r.throughput)
	b.result("ratio steady-p50/stream-beside %.2f", r.p50)
	b.result("ratio steady-p99/stream-beside %.2f", r.p99)
	b.holdLeast("stream-beside", "throughput of the steady load", r.throughput, leastShare)
}

func mean(of []float64) (sum float64) {
	for _, v := range of {
		sum += v / float64(len(of))
	}
	return sum
}

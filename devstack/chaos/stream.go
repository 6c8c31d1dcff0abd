package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outflowhq/outflow/devstack/faults"
)

const (
	// streamAbove has a backlog delivered by a stream.
	streamAbove = "OUTFLOW_STREAM_ABOVE=1000"
	// besideRate goes to two other queues meanwhile, in messages a second.
	besideRate = 20
	// mostStreamed go through a stream whose workers are killed; shorter runs have a tenth for each minute.
	mostStreamed  = 200_000
	streamMinutes = 10
	// leastStreamed of a backlog has to be delivered by a stream: else this shows too little.
	leastStreamed = 0.5
	// A lost page comes back after 70 s; what was lost three times goes out alone. Whatever is due
	// after that gets no stream until a minute after the last one ended badly.
	streamDrain = 5 * time.Minute
	// streamEnds bounds the wait for the end of a stream that has nothing to do: it looks for 30 s.
	streamEnds = 90 * time.Second
)

var besideStreams = []string{"letters", "invoices"}

var partsOfStream = []struct {
	name string
	run  func(context.Context, *chaos) error
}{
	{"stream-kills", streamKills},
	{"stream-beside", streamsBeside},
	{"stream-stops", streamStops},
	{"stream-order", streamOrder},
}

func streamParts() (names []string) {
	for _, p := range partsOfStream {
		names = append(names, p.name)
	}
	return names
}

// stream has backlogs delivered by streams while their workers are killed and stopped, beside each
// other, and in the order of keys while requests fail.
func stream(ctx context.Context, c *chaos) error {
	var errs []error
	for _, p := range partsOfStream {
		if ctx.Err() != nil || c.only != p.name && slices.Contains(streamParts(), c.only) {
			continue
		}
		c.say("%s", p.name)
		if err := p.run(ctx, c); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", p.name, err))
		}
	}
	return errors.Join(errs...)
}

// scaled is a number of messages or kills for so many minutes.
func (c *chaos) scaled(most int) int {
	return max(int(float64(most)*min(c.minutes/streamMinutes, 1)), 1)
}

// deployStreams starts workers that take streams, and a starter that takes none: what it delivers
// itself is no victim of what happens to workers.
func (c *chaos) deployStreams(ctx context.Context, name string, workers int, settings ...string) (*fleet, error) {
	f, err := c.deployCrews(ctx, name, []crew{
		{faults.Worker, workers, []string{"OUTFLOW_STREAMS=4"}}, {faults.Starter, 1, []string{"OUTFLOW_STREAMS=0"}},
	}, settings...)
	if err == nil {
		f.AnswersIn(answers)
	}
	return f, err
}

// enqueueBacklog commits n messages to each of the queues.
func (f *fleet) enqueueBacklog(ctx context.Context, n int, queues ...string) error {
	const atOnce = 5000
	to := toQueues(queues...)
	for left := n; left > 0; left -= atOnce {
		_, err := f.Pool.Exec(ctx, `
			INSERT INTO outbox.messages (id, destination, type, payload)
			SELECT gen_random_uuid(), d, 'backlog', format('{"number":%s}', n)::bytea
			  FROM generate_series(1, $1::int) AS n, unnest($2::text[]) AS d`, min(left, atOnce), to)
		if err != nil {
			return fmt.Errorf("enqueuing a backlog: %w", err)
		}
	}
	return nil
}

// drainBacklog waits until every message of a backlog is final.
func (f *fleet) drainBacklog(ctx context.Context, c *chaos) error {
	draining, cancel := context.WithTimeout(ctx, streamDrain)
	defer cancel()
	err := f.awaitNone(draining, "type = 'backlog' AND state = 'pending'")
	if err != nil {
		f.leftovers(context.WithoutCancel(ctx), c)
	}
	return err
}

const leftByStreams = `
SELECT (SELECT count(*) FROM outbox.pages), (SELECT count(*) FROM outbox.streams WHERE runs_until > now()),
       (SELECT string_agg(format('%s %s: delivered %s, dead %s, handed over %s', destination, coalesce(ended, 'runs'),
               delivered, dead, handed_over), '; ') FROM outbox.streams)`

// awaitStreamsEnd waits until no stream runs, and errs where one has left a page or its hint behind.
func (f *fleet) awaitStreamsEnd(ctx context.Context, c *chaos) error {
	waiting, cancel := context.WithTimeout(ctx, streamEnds)
	defer cancel()
	for {
		var pages, hints int
		var ended *string
		if err := f.Pool.QueryRow(ctx, leftByStreams).Scan(&pages, &hints, &ended); err != nil {
			return fmt.Errorf("looking at what streams have left behind: %w", err)
		}
		if ended == nil {
			return errors.New("there was no stream: this shows nothing")
		}
		if pages == 0 && hints == 0 {
			c.say("ended: %s", *ended)
			return nil
		}
		if !pause(waiting, 200*time.Millisecond) {
			return fmt.Errorf("streams left %d pages and %d hints behind (%s): %w", pages, hints, *ended, waiting.Err())
		}
	}
}

// steadily measures the load beside streams that was enqueued while something was done.
func (f *fleet) steadily(ctx context.Context, do func() error) (m measure, err error) {
	to := toQueues(besideStreams...)
	from, err := f.moment(ctx)
	if err != nil {
		return m, err
	}
	if err := do(); err != nil {
		return m, err
	}
	until, err := f.moment(ctx)
	if err != nil {
		return m, err
	}
	settling, cancel := context.WithTimeout(ctx, roundTimeout)
	defer cancel()
	err = f.awaitNone(settling, "destination = ANY ($1) AND state = 'pending' AND enqueued_at < $2", to, until)
	if err != nil {
		return m, err
	}
	rows, err := f.Pool.Query(ctx, `SELECT finished_at - enqueued_at AS took FROM outbox.messages
		WHERE destination = ANY ($1) AND enqueued_at >= $2 AND enqueued_at < $3 ORDER BY took`, to, from, until)
	if err == nil {
		m.took, err = pgx.CollectRows(rows, pgx.RowTo[time.Duration])
	}
	if err != nil {
		return m, fmt.Errorf("reading the latencies: %w", err)
	}
	m.throughput = float64(len(m.took)) / until.Sub(from).Seconds()
	return m, nil
}

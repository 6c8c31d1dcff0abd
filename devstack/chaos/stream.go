package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/outflowhq/outflow/devstack/faults"
	"github.com/outflowhq/outflow/publish/publishtest/fakesqs"
)

const (
	// streamAbove has a backlog delivered by a stream.
	streamAbove = "OUTFLOW_STREAM_ABOVE=1000"
	// besideRate goes to two other queues meanwhile, in messages a second.
	besideRate = 20
	// mostStreamed go through the parts of the scenario; smaller runs have a tenth for each minute.
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

// streamed is a message that streams were to deliver.
type streamed struct {
	ID          uuid.UUID `db:"id"`
	State       string    `db:"state"`
	Streamed    bool      `db:"streamed"`
	Destination string    `db:"destination"`
	LastError   string    `db:"last_error"`
}

// holdStreamed prints what became of the messages of a type, and errs where one is lost: its row does
// not say that it was delivered, or it never arrived.
func (f *fleet) holdStreamed(ctx context.Context, c *chaos, of string, arrived map[uuid.UUID]int) error {
	rows, err := f.Pool.Query(ctx, `SELECT id, state, streamed, destination, coalesce(last_error, '') AS last_error
		FROM outbox.messages WHERE type = $1`, of)
	if err != nil {
		return fmt.Errorf("reading how the messages ended: %w", err)
	}
	all, err := pgx.CollectRows(rows, pgx.RowToStructByName[streamed])
	if err != nil {
		return fmt.Errorf("reading how the messages ended: %w", err)
	}
	byStream, again := 0, 0
	var lost []streamed
	for _, m := range all {
		again += max(arrived[m.ID]-1, 0)
		if m.State != "delivered" || arrived[m.ID] == 0 {
			lost = append(lost, m)
		} else if m.Streamed {
			byStream++
		}
	}
	c.result("enqueued %d, delivered %d (by streams %d), lost %d, duplicates %d", len(all), len(all)-len(lost), byStream,
		len(lost), again)
	for _, m := range lost[:min(len(lost), 10)] {
		c.result("  lost %s: state %q, arrived %d times, to %s, last error %q", m.ID, m.State, arrived[m.ID],
			m.Destination, m.LastError)
	}
	switch {
	case len(lost) > 0:
		return fmt.Errorf("%d messages are lost", len(lost))
	case float64(byStream) < leastStreamed*float64(len(all)):
		return fmt.Errorf("streams delivered %d messages, of %d: this shows too little", byStream, len(all))
	}
	return nil
}

// holdBeside errs where a message of the load beside the streams is lost.
func (f *fleet) holdBeside(ctx context.Context, c *chaos, load *faults.Load) error {
	tally, err := load.Tally(ctx, besideStreams...)
	if err != nil {
		return err
	}
	c.result("beside the streams: enqueued %d, delivered %d, lost %d, duplicates %d", tally.Enqueued, tally.Delivered,
		tally.Lost, tally.Duplicates)
	return c.holdLost(tally)
}

// holdEnds errs where a program ended by itself.
func (f *fleet) holdEnds() error {
	var errs []error
	for _, m := range f.members() {
		errs = append(errs, m.Ends()...)
	}
	return errors.Join(errs...)
}

// flow is what workers send to a queue: its stream.
type flow struct {
	mu      sync.Mutex
	sent    int       // messages, second copies too
	from    string    // who sent last
	last    time.Time // when
	longest time.Duration
}

// watchFlow watches a queue, until its faults are healed.
func (f *fleet) watchFlow(queue string) *flow {
	w := &flow{}
	f.Queues.Inject(fakesqs.Fault{Queue: queue, When: func(r fakesqs.Request) bool { w.note(r); return false }})
	return w
}

func (w *flow) note(r fakesqs.Request) {
	if len(r.Entries) == 0 || !strings.HasPrefix(r.Caller, "worker-") {
		return
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	now := time.Now()
	if !w.last.IsZero() {
		w.longest = max(w.longest, now.Sub(w.last))
	}
	w.sent, w.from, w.last = w.sent+len(r.Entries), r.Caller, now
}

func (w *flow) now() (sent int, from string, last time.Time) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.sent, w.from, w.last
}

// more waits until n more messages were sent, and returns who sends.
func (w *flow) more(ctx context.Context, n int, within time.Duration) (from string, err error) {
	before, _, _ := w.now()
	waiting, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	for {
		sent, from, last := w.now()
		if sent-before >= n && time.Since(last) < time.Second {
			return from, nil
		}
		if !pause(waiting, 5*time.Millisecond) {
			return "", fmt.Errorf("the stream sent %d messages in %s, of %d: %w", sent-before, within, n, waiting.Err())
		}
	}
}

// longestPause is the longest time so far without a request of the stream.
func (w *flow) longestPause() time.Duration {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.longest
}

// worker is the member of a name.
func (f *fleet) worker(name string) (*faults.Member, error) {
	for _, m := range f.workers {
		if m.Name == name {
			return m, nil
		}
	}
	return nil, fmt.Errorf("no worker is called %q", name)
}

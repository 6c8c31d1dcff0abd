package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
)

const (
	// lookEvery is the wait between two looks at what is left of a backlog.
	lookEvery = 50 * time.Millisecond
	// Temporal still closes runs after the last message is out. A variant's CPU is read when
	// Temporal and Postgres together use less than quiet of one core for a moment, which they do
	// when idle.
	settleEvery = 400 * time.Millisecond
	quietShare  = 0.2
	settleLimit = 15 * time.Second
)

// result is what one variant did in one round.
type result struct {
	messages int
	seconds  float64 // from the first claim to the last delivered
	cpu      cpu
	requests float64 // of the queue service, for each message
	writes   float64 // inserts, updates and deletes in the application's database, for each message
	metered
}

// rate is in messages a second.
func (r result) rate() float64 { return float64(r.messages) / r.seconds }

// drain measures one variant once, with processes and rows of its own.
func (w *world) drain(ctx context.Context, variant string, round int, l load) (r result, err error) {
	defer func() { r.messages = l.messages }()
	limit := time.Minute + time.Duration(l.messages)*200*time.Millisecond
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("%s was not done after %s", variant, limit))
	defer cancel()
	if err := w.cleanUp(ctx); err != nil {
		return result{}, err
	}
	taskQueue := fmt.Sprintf("bench-%s-%d", variant, round)
	if variant == floor || variant == floorTwo {
		return w.drainFloor(ctx, variant, taskQueue, l.messages)
	}
	if variant == queueAlone {
		return w.drainAlone(ctx, taskQueue, l.messages)
	}
	before, err := w.rowWrites(ctx)
	if err != nil {
		return result{}, err
	}
	if r, err = w.drainRows(ctx, variant, taskQueue, l); err != nil {
		return result{}, err
	}
	after, err := w.rowWrites(ctx)
	r.writes = float64(after-before) / float64(l.messages+warmup)
	return r, err
}

// drainFloor has the process of floor or floor-two do the drain and time it.
func (w *world) drainFloor(ctx context.Context, variant, taskQueue string, messages int) (r result, err error) {
	c, err := w.startPart(variant, w.TemporalAddress, taskQueue, fmt.Sprint(messages))
	if err != nil {
		return result{}, err
	}
	defer func() { err = errors.Join(err, c.stop()) }()
	if err := c.read(ctx, &struct{}{}); err != nil {
		return result{}, err
	}
	before, err := w.settle(ctx, c)
	if err != nil {
		return result{}, err
	}
	conn, err := pgx.Connect(ctx, w.DatabaseURL)
	if err != nil {
		return result{}, fmt.Errorf("connecting to the database: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	starting, err := readMeter(ctx, conn)
	if err != nil {
		return result{}, err
	}
	if _, err := fmt.Fprintln(c.stdin, "go"); err != nil {
		return result{}, fmt.Errorf("starting %s: %w", variant, err)
	}
	var done floorDone
	if err := c.read(ctx, &done); err != nil {
		return result{}, err
	}
	after, err := w.settle(ctx, c)
	if err != nil {
		return result{}, err
	}
	r = result{seconds: done.Seconds, cpu: after.minus(before)}
	r.metered, err = meterDone(ctx, conn, starting, starting, []*child{c}, messages)
	return r, err
}

// drainRows starts the variant's processes, has them deliver a few messages, then the backlog.
func (w *world) drainRows(ctx context.Context, variant string, taskQueue string, l load) (r result, err error) {
	run, err := w.startRows(ctx, variant, taskQueue)
	defer func() { err = errors.Join(err, run.stop(ctx)) }()
	if err != nil {
		return result{}, err
	}
	inserting, err := readMeter(ctx, run.conn)
	if err != nil {
		return result{}, err
	}
	// What the inserts cost is the producer's: the CPU is read between them and their commit.
	var before cpu
	var committing meter
	since, err := run.source.enqueue(ctx, run.conn, taskQueue, l, func() (err error) {
		if committing, err = readMeter(ctx, run.conn); err == nil {
			before, err = w.usage(run.dispatchers)
		}
		return err
	})
	if err != nil {
		return result{}, err
	}
	committed := time.Now()
	if r.seconds, err = w.awaitDrain(ctx, run, l.messages, since, committed); err != nil {
		return result{}, err
	}
	after, err := w.settle(ctx, run.dispatchers...)
	if err != nil {
		return result{}, err
	}
	r.cpu = after.minus(before)
	if r.metered, err = meterDone(ctx, run.conn, inserting, committing, run.dispatchers, l.messages); err != nil {
		return result{}, err
	}
	r.requests, err = w.requests(ctx, l.messages)
	return r, err
}

// awaitDrain waits until nothing is left, and returns the seconds that the drain took. since is the
// beginning by the database's clock, committed the commit by this machine's.
func (w *world) awaitDrain(
	ctx context.Context, run rowsRun, messages int, since, committed time.Time,
) (float64, error) {
	if run.source.byArrival() {
		err := w.awaitArrivals(ctx, run.conn, run.source, run.dispatchers, messages)
		return time.Since(committed).Seconds(), err
	}
	if err := await(ctx, run.conn, run.source, run.dispatchers); err != nil {
		return 0, err
	}
	return run.source.took(ctx, run.conn, since, messages)
}

// dispatchers starts the processes of a variant that reads rows, tracked with more settings.
func (w *world) dispatchers(variant, taskQueue string, more ...string) ([]*child, error) {
	if variant == stream {
		more = append(more, "OUTFLOW_STREAM_ABOVE=100")
	}
	if variant != tracked && variant != stream {
		c, err := w.startPart(variant, w.DatabaseURL, w.TemporalAddress, taskQueue, w.queues.url)
		if err != nil {
			return nil, err
		}
		return []*child{c}, nil
	}
	var all []*child
	for _, name := range []string{"outflow-worker", "outflow-starter"} {
		c, err := start(append(w.trackedEnv(taskQueue), more...), syscall.SIGKILL, filepath.Join(w.folder, name))
		if err != nil {
			return all, err
		}
		all = append(all, c)
	}
	return all, nil
}

// requests checks that every message arrived once, and says how many requests each took.
func (w *world) requests(ctx context.Context, messages int) (float64, error) {
	stats, err := w.queues.counts(ctx)
	if err != nil {
		return 0, err
	}
	if stats.Messages != messages || stats.Different != messages {
		return 0, fmt.Errorf("counting what arrived: %d sent, %d different ones, of %d", stats.Messages,
			stats.Different, messages)
	}
	return float64(stats.Requests) / float64(messages), nil
}

// await waits until no row is left to deliver.
func await(ctx context.Context, conn *pgx.Conn, source source, dispatchers []*child) error {
	for {
		var left bool
		if err := conn.QueryRow(ctx, source.left+lookAlias).Scan(&left); err != nil {
			return fmt.Errorf("looking for what is left: %w", errors.Join(err, context.Cause(ctx)))
		}
		if !left {
			return nil
		}
		if err := alive(dispatchers); err != nil {
			return err
		}
		if err := pause(ctx, lookEvery); err != nil {
			return err
		}
	}
}

// settle waits until Temporal and Postgres are idle again, at most settleLimit, and reads the CPU
// used so far.
func (w *world) settle(ctx context.Context, dispatchers ...*child) (cpu, error) {
	last, err := w.usage(dispatchers)
	for until := time.Now().Add(settleLimit); err == nil && time.Now().Before(until); {
		if err = pause(ctx, settleEvery); err != nil {
			break
		}
		var now cpu
		now, err = w.usage(dispatchers)
		used := now.minus(last)
		last = now
		if (used.temporal + used.postgres).Seconds() < quietShare*settleEvery.Seconds() {
			break
		}
	}
	return last, err
}

func (w *world) usage(dispatchers []*child) (cpu, error) {
	all, err := processes()
	if err != nil {
		return cpu{}, err
	}
	var pids []int
	for _, c := range dispatchers {
		pids = append(pids, c.Pid())
	}
	c := usage(all, w.stack.Pid(), w.queue.Pid(), pids)
	text, err := os.ReadFile("/proc/stat")
	if err != nil {
		return cpu{}, fmt.Errorf("reading the machine's CPU times: %w", err)
	}
	c.busy, c.all, err = parseMachine(string(text))
	return c, err
}

// rowWrites is how many rows of the application's database were inserted, updated and deleted so
// far. A server process reports what it counted at its end at the latest, so it waits until all of
// them are gone.
func (w *world) rowWrites(ctx context.Context) (int64, error) {
	conn, err := pgx.Connect(ctx, w.DatabaseURL)
	if err != nil {
		return 0, fmt.Errorf("connecting to the database: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	for {
		var others int
		var writes int64
		err := conn.QueryRow(ctx, `
SELECT (SELECT count(*) FROM pg_stat_activity
         WHERE datname = current_database() AND backend_type = 'client backend' AND pid <> pg_backend_pid()),
       (SELECT coalesce(sum(n_tup_ins + n_tup_upd + n_tup_del), 0)::bigint FROM pg_stat_user_tables)`).
			Scan(&others, &writes)
		if err != nil {
			return 0, fmt.Errorf("reading the tables' statistics: %w", errors.Join(err, context.Cause(ctx)))
		}
		if others == 0 {
			return writes, nil
		}
		if err := pause(ctx, lookEvery); err != nil {
			return 0, err
		}
	}
}

func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

package main

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/outboxdb"
)

// latencyRate is how many messages a second are committed, each in a transaction of its own.
const latencyRate = 20

// What wakes the starter whose latency is measured. wake is a program that embeds the dispatcher and
// gets a line for each commit.
const (
	byPoll   = "poll"
	byListen = "listen"
	byWAL    = "wal"
	byWake   = "wake"
)

var triggers = []string{byPoll, byListen, byWAL, byWake}

// waking is what one trigger was seen to do.
type waking struct {
	trigger   string
	latencies []time.Duration
	idle      idleCost
}

// idleCost is what an idle dispatcher costs in a minute.
type idleCost struct {
	statements, walBytes float64
	postgres, dispatcher time.Duration
}

// measureTriggers measures each trigger, and the round trips of empty eager starts at the same rate.
func (w *world) measureTriggers(ctx context.Context, during time.Duration) (all []waking, starts []time.Duration, err error) {
	for _, trigger := range triggers {
		fmt.Fprintf(w.stderr, "latency of tracked with %s at %d messages/s, for %s\n", trigger, latencyRate, during)
		found, err := w.waking(ctx, trigger, during)
		if err != nil {
			return nil, nil, fmt.Errorf("measuring the latency with %s: %w", trigger, err)
		}
		all = append(all, found)
	}
	fmt.Fprintf(w.stderr, "round trips of empty eager starts at %d/s, for %s\n", latencyRate, during)
	if starts, err = w.starts(ctx, during); err != nil {
		return nil, nil, fmt.Errorf("measuring empty eager starts: %w", err)
	}
	return all, starts, nil
}

// waking measures tracked with one trigger: what it costs while nothing happens, and then the time from
// the answer to the producer's commit to the moment at which the queue service has the message, at a
// constant rate. Both moments are this machine's clock.
func (w *world) waking(ctx context.Context, trigger string, during time.Duration) (found waking, err error) {
	found.trigger = trigger
	ctx, cancel := context.WithTimeoutCause(ctx, 2*during+2*time.Minute,
		errors.New("the messages were not delivered in time"))
	defer cancel()
	conn, err := pgx.Connect(ctx, w.DatabaseURL)
	if err != nil {
		return found, fmt.Errorf("connecting to the database: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	queue := "bench-latency-" + trigger
	dispatchers, err := w.wakened(trigger, queue)
	defer func() {
		for _, c := range dispatchers {
			err = errors.Join(err, c.stop())
		}
	}()
	if err != nil {
		return found, err
	}
	source := sources[tracked]
	if _, err := source.enqueue(ctx, conn, queue, load{messages: warmup}, nil); err != nil {
		return found, err
	}
	if err := await(ctx, conn, source, dispatchers); err != nil {
		return found, err
	}
	// A scanner that has begun to wait for hints polls for five seconds more.
	if err := pause(ctx, 10*time.Second); err != nil {
		return found, err
	}
	if found.idle, err = w.idle(ctx, conn, during, dispatchers); err != nil {
		return found, err
	}
	if err := w.queues.reset(ctx); err != nil {
		return found, err
	}
	wake := func() error { return nil }
	if trigger == byWake {
		wake = func() error {
			_, err := fmt.Fprintln(dispatchers[len(dispatchers)-1].stdin, "wake")
			return err
		}
	}
	committed, err := commitSteadily(ctx, conn, "sqs://"+queue, during, wake)
	if err != nil {
		return found, err
	}
	if err := await(ctx, conn, source, dispatchers); err != nil {
		return found, err
	}
	stats, err := w.queues.stats(ctx)
	if err != nil {
		return found, err
	}
	found.latencies, err = latencies(committed, stats.Arrived)
	return found, err
}

// wakened starts the processes of tracked with one trigger.
func (w *world) wakened(trigger, taskQueue string) ([]*child, error) {
	if trigger != byWake {
		return w.dispatchers(tracked, taskQueue, "OUTFLOW_TRIGGER="+trigger)
	}
	c, err := start(w.env, syscall.SIGKILL, w.self, "part-"+byWake, w.DatabaseURL, w.TemporalAddress, taskQueue,
		w.queues.url)
	if err != nil {
		return nil, err
	}
	return []*child{c}, nil
}

// idle measures what idle dispatchers cost: statements in the application's database, and what these
// wrote to the log. Postgres's CPU is also that of Temporal.
func (w *world) idle(
	ctx context.Context, conn *pgx.Conn, during time.Duration, dispatchers []*child,
) (cost idleCost, err error) {
	calls := func() (calls, wal int64, err error) {
		err = conn.QueryRow(ctx, `
SELECT coalesce(sum(s.calls), 0)::bigint, coalesce(sum(s.wal_bytes), 0)::bigint
  FROM pg_stat_statements AS s
 WHERE s.dbid = (SELECT oid FROM pg_database WHERE datname = current_database())`).Scan(&calls, &wal)
		if err != nil {
			return 0, 0, fmt.Errorf("reading what Postgres has counted: %w", err)
		}
		return calls, wal, nil
	}
	before, walBefore, err := calls()
	if err != nil {
		return cost, err
	}
	used, err := w.usage(dispatchers)
	if err != nil {
		return cost, err
	}
	began := time.Now()
	if err := pause(ctx, during); err != nil {
		return cost, err
	}
	usedAfter, err := w.usage(dispatchers)
	if err != nil {
		return cost, err
	}
	after, walAfter, err := calls()
	if err != nil {
		return cost, err
	}
	perMinute := time.Minute.Seconds() / time.Since(began).Seconds()
	used = usedAfter.minus(used)
	return idleCost{
		statements: float64(after-before-1) * perMinute, walBytes: float64(walAfter-walBefore) * perMinute,
		postgres: scale(used.postgres, perMinute), dispatcher: scale(used.dispatcher, perMinute),
	}, nil
}

func scale(d time.Duration, by float64) time.Duration { return time.Duration(float64(d) * by) }

// starts has a process start empty workflows eagerly at the same rate, and returns how long each start
// took to be answered.
func (w *world) starts(ctx context.Context, during time.Duration) (took []time.Duration, err error) {
	ctx, cancel := context.WithTimeout(ctx, during+time.Minute)
	defer cancel()
	c, err := start(w.env, syscall.SIGKILL, w.self, "part-"+eagerStarts, w.TemporalAddress, "bench-starts", during.String())
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, c.stop()) }()
	return took, c.read(ctx, &took)
}

// commitSteadily enqueues single messages, calls wake after each commit, and says when each was
// committed.
func commitSteadily(
	ctx context.Context, conn *pgx.Conn, destination string, during time.Duration, wake func() error,
) (map[string]time.Time, error) {
	committed := map[string]time.Time{}
	ticks := time.NewTicker(time.Second / latencyRate)
	defer ticks.Stop()
	for range int(during.Seconds() * latencyRate) {
		select {
		case <-ticks.C:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		tx, err := conn.Begin(ctx)
		if err != nil {
			return nil, fmt.Errorf("enqueuing: %w", err)
		}
		ids, err := outboxdb.Enqueue(ctx, tx,
			outflow.Message{Destination: destination, Type: "order-placed", Payload: []byte(payload(len(committed)))})
		if err == nil {
			err = tx.Commit(ctx)
		}
		if err != nil {
			return nil, errors.Join(fmt.Errorf("enqueuing: %w", err), tx.Rollback(context.WithoutCancel(ctx)))
		}
		committed[ids[0].String()] = time.Now()
		if err := wake(); err != nil {
			return nil, fmt.Errorf("waking the dispatcher: %w", err)
		}
	}
	return committed, nil
}

// latencies are the times between commit and arrival, each message's.
func latencies(committed map[string]time.Time, arrived map[string]int64) ([]time.Duration, error) {
	all := make([]time.Duration, 0, len(committed))
	for id, at := range committed {
		nanos, ok := arrived[id]
		if !ok {
			return nil, fmt.Errorf("matching commits with arrivals: message %s is missing", id)
		}
		all = append(all, time.Unix(0, nanos).Sub(at))
	}
	return all, nil
}

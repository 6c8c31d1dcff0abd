package main

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/outboxdb"
)

// latencyRate is how many messages a second are committed, each in a transaction of its own.
const latencyRate = 20

// latency measures tracked from the answer to the producer's commit to the moment at which the
// queue service has the message, for a while at a constant rate. Both moments are this machine's
// clock.
func (w *world) latency(ctx context.Context, during time.Duration) (_ []time.Duration, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, during+time.Minute,
		errors.New("the messages were not delivered in time"))
	defer cancel()
	conn, err := pgx.Connect(ctx, w.DatabaseURL)
	if err != nil {
		return nil, fmt.Errorf("connecting to the database: %w", err)
	}
	defer conn.Close(context.WithoutCancel(ctx))
	const queue = "bench-latency"
	dispatchers, err := w.dispatchers(tracked, queue)
	defer func() {
		for _, c := range dispatchers {
			err = errors.Join(err, c.stop())
		}
	}()
	if err != nil {
		return nil, err
	}
	source := sources[tracked]
	if _, err := source.enqueue(ctx, conn, queue, warmup, nil); err != nil {
		return nil, err
	}
	if err := await(ctx, conn, source, dispatchers); err != nil {
		return nil, err
	}
	if _, err := w.settle(ctx, dispatchers...); err != nil {
		return nil, err
	}
	if err := w.queues.reset(ctx); err != nil {
		return nil, err
	}
	committed, err := commitSteadily(ctx, conn, "sqs://"+queue, during)
	if err != nil {
		return nil, err
	}
	if err := await(ctx, conn, source, dispatchers); err != nil {
		return nil, err
	}
	stats, err := w.queues.stats(ctx)
	if err != nil {
		return nil, err
	}
	return latencies(committed, stats.Arrived)
}

// commitSteadily enqueues single messages, and says when each was committed.
func commitSteadily(ctx context.Context, conn *pgx.Conn, destination string,
	during time.Duration) (map[string]time.Time, error) {
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

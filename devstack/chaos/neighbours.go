package main

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/operator"
	"github.com/outflowhq/outflow/outboxdb"
	"github.com/outflowhq/outflow/publish/publishtest/fakesqs"
)

const (
	// behindBlocked is how many messages wait behind a dead one of the same destination.
	behindBlocked = 2000
	besideQueue   = "beside"
	besideTo      = "sqs://" + besideQueue

	unusedKeys    = 10
	releaseWithin = time.Second
)

// neighbours measures keys of a queue in which a dead message blocks another key, in one round, and
// without it in the next. It holds the ratio of their p99, each the median of its rounds.
func (o *orderRun) neighbours(ctx context.Context) error {
	o.Queues.CreateQueue("", besideQueue, nil)
	o.Queues.Inject(fakesqs.Fault{Queue: besideQueue, EntryError: func(e fakesqs.Entry) *fakesqs.Error {
		if e.MessageBody != blockingBody {
			return nil
		}
		return &fakesqs.Error{Code: "InvalidMessageContents", SenderFault: true, Message: "it blocks its key"}
	}})
	defer o.Queues.Heal(besideQueue)
	if _, err := o.measureKeyed(ctx); err != nil { // warm up
		return err
	}
	var without, with []time.Duration
	_, err := o.compare("order", func(int) (measure, error) {
		m, err := o.measureKeyed(ctx)
		without = append(without, quantile(m.took, 0.99))
		return m, err
	}, func(round int) (measure, error) {
		m, err := o.besideBlocked(ctx, fmt.Sprintf("blocked-%d", round))
		with = append(with, quantile(m.took, 0.99))
		return m, err
	})
	if err != nil {
		return err
	}
	// A stall of a busy machine hits one round, and a key that waits for another is late in each.
	ratio := float64(median(with)) / float64(median(without))
	o.result("ratio median-p99/order %.2f", ratio)
	o.holdMost("order", "median p99 of the neighbours", ratio, mostP99)
	return nil
}

func median(of []time.Duration) time.Duration { return quantile(slices.Sorted(slices.Values(of)), 0.5) }

// measureKeyed keeps a steady load of many keys on the queue.
func (o *orderRun) measureKeyed(ctx context.Context) (m measure, err error) {
	pause(ctx, settleFor)
	from, err := o.moment(ctx)
	if err != nil {
		return m, err
	}
	load := o.StartLoadOf(o.rate, func(n int) outflow.Message {
		return outflow.Message{Destination: besideTo, Type: "beside", Payload: []byte(`{"beside":true}`),
			OrderingKey: fmt.Sprintf("key-%d", n%orderedKeys)}
	})
	pause(ctx, steadyFor)
	load.Stop()
	settling, cancel := context.WithTimeout(ctx, roundTimeout)
	defer cancel()
	if err := o.awaitNone(settling, "type = 'beside' AND state = 'pending'"); err != nil {
		return m, err
	}
	rows, err := o.Pool.Query(ctx, `SELECT finished_at - enqueued_at AS took FROM outbox.messages
		WHERE type = 'beside' AND enqueued_at >= $1 ORDER BY took`, from)
	if err == nil {
		m.took, err = pgx.CollectRows(rows, pgx.RowTo[time.Duration])
	}
	if err != nil {
		return m, fmt.Errorf("reading the latencies: %w", err)
	}
	m.throughput = float64(len(m.took)) / steadyFor.Seconds()
	return m, nil
}

const blockingBody = `{"blocks":true}`

// besideBlocked measures a round beside a blocked key, and frees that key.
func (o *orderRun) besideBlocked(ctx context.Context, key string) (measure, error) {
	err := o.enqueue(ctx, 1+behindBlocked, func(i int) outflow.Message {
		m := outflow.Message{Destination: besideTo, Type: "blocked", Payload: []byte(`{}`), OrderingKey: key}
		if i == 0 {
			m.Payload = []byte(blockingBody)
		}
		return m
	})
	if err != nil {
		return measure{}, err
	}
	settling, cancel := context.WithTimeout(ctx, roundTimeout)
	defer cancel()
	if err := o.awaitNone(settling, "type = 'blocked' AND state = 'pending' AND NOT follower"); err != nil {
		return measure{}, err
	}
	m, err := o.measureKeyed(ctx)
	if err != nil {
		return m, err
	}
	rows, err := o.Pool.Query(ctx, `SELECT id FROM outbox.messages WHERE ordering_key = $1 AND follower`, key)
	if err != nil {
		return m, fmt.Errorf("reading what waits behind a blocked key: %w", err)
	}
	behind, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil {
		return m, fmt.Errorf("reading what waits behind a blocked key: %w", err)
	}
	if len(behind) != behindBlocked {
		return m, fmt.Errorf("%d messages wait behind a dead one, of %d: nothing was blocked", len(behind), behindBlocked)
	}
	if _, err := outboxdb.New(o.Pool).RequestCancel(ctx, behind, chaosOperator.Who, "the round is over"); err != nil {
		return m, err
	}
	dead, err := o.deadHeads(ctx)
	if err == nil {
		_, err = operator.New(o.Pool, nil, o.World.Name).Skip(ctx, dead, chaosOperator)
	}
	return m, err
}

// releaseUnused redirects messages into keys that have no row, which scanners alone release, and holds
// the time until they have.
func (o *orderRun) releaseUnused(ctx context.Context) error {
	ops := operator.New(o.Pool, nil, o.World.Name)
	var longest time.Duration
	for i := range unusedKeys {
		var ids []uuid.UUID
		err := pgx.BeginFunc(ctx, o.Pool, func(tx pgx.Tx) (err error) {
			m := o.places[0].message(fmt.Sprintf("unused-%d", i), i)
			m.Type, m.DueIn = "unused", time.Hour
			ids, err = outboxdb.Enqueue(ctx, tx, m)
			return err
		})
		if err != nil {
			return err
		}
		if _, err := ops.Redirect(ctx, ids, o.places[1].destination, chaosOperator); err != nil {
			return err
		}
		began := time.Now()
		waiting, cancel := context.WithTimeout(ctx, drainWithin)
		err = o.awaitNone(waiting, "id = $1 AND follower", ids[0])
		cancel()
		if err != nil {
			return err
		}
		longest = max(longest, time.Since(began))
		if _, err := ops.Reschedule(ctx, ids, time.Time{}, 0, chaosOperator); err != nil {
			return err
		}
	}
	o.result("release of %d redirected messages whose key had no row: %s at most", unusedKeys,
		longest.Round(time.Millisecond))
	if longest > releaseWithin {
		o.broken = append(o.broken, fmt.Sprintf("order: a release took %s (at most %s)", longest, releaseWithin))
	}
	return nil
}

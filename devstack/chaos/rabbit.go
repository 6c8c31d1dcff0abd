package main

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/devstack/faults"
)

const (
	// The exchanges, each with a queue of its name: of one the queue is deleted.
	stable, deleted = "payments", "refunds"
	routingKey      = "order.paid"

	toRabbit     = 300             // messages that are enqueued when a trouble begins
	rabbitRate   = 10              // a second, beside them and all the time
	rabbitCuts   = 3 * time.Second // between two cuts of the connections
	rabbitSettle = 2 * time.Minute
	// stopsWithin is the time that docs/running.md gives a process.
	stopsWithin = 45 * time.Second
)

// rabbitTrouble is one way in which RabbitMQ is in trouble, for a round.
type rabbitTrouble struct {
	name  string
	begin func(ctx context.Context, r *rabbitRun) error
	end   func(ctx context.Context, r *rabbitRun) error
}

// rabbitTroubles take turns.
var rabbitTroubles = []rabbitTrouble{
	{"stopped", func(_ context.Context, r *rabbitRun) error { return r.rabbit.Stop() },
		func(ctx context.Context, r *rabbitRun) error { return r.rabbit.Start(ctx) }},
	{"alarm", func(ctx context.Context, r *rabbitRun) error {
		if err := r.rabbit.Alarm(ctx, true); err != nil {
			return err
		}
		return r.stopAWorker()
	}, func(ctx context.Context, r *rabbitRun) error { return r.rabbit.Alarm(ctx, false) }},
	{"queue deleted", func(_ context.Context, r *rabbitRun) error { return r.rabbit.Unbind(deleted) },
		func(_ context.Context, r *rabbitRun) error { return r.rabbit.Bind(deleted, routingKey) }},
	{"connections cut", func(ctx context.Context, r *rabbitRun) error {
		ctx, stop := context.WithCancel(ctx)
		cut := make(chan int)
		go func() { cut <- r.rabbit.CutOften(ctx, rabbitCuts) }()
		r.stopCuts = func() { stop(); r.say("connections were cut with %d confirms out", <-cut) }
		return nil
	}, func(_ context.Context, r *rabbitRun) error { r.stopCuts(); return nil }},
	{"killed", func(_ context.Context, r *rabbitRun) error { return r.rabbit.Crash() },
		func(ctx context.Context, r *rabbitRun) error { return r.rabbit.Start(ctx) }},
}

type rabbitRun struct {
	*chaos
	*fleet
	rabbit   *faults.Rabbit
	stopCuts func()
	stopping sync.WaitGroup
	mu       sync.Mutex
	errs     []error
}

// rabbitScenario has RabbitMQ in trouble under load, and measures healthy queues of SQS beside it.
func rabbitScenario(ctx context.Context, c *chaos) error {
	rabbit, err := c.stack.StartRabbit(ctx)
	if err != nil {
		return err
	}
	f, err := c.deploy(ctx, "rabbitmq", rabbit.Env()...)
	if err != nil {
		return err
	}
	f.AnswersIn(answers)
	r := &rabbitRun{chaos: c, fleet: f, rabbit: rabbit}
	return errors.Join(r.run(ctx), f.close(c.stack.Logs()))
}

func toExchange(name string) string {
	return outflow.Destination{Scheme: outflow.SchemeRabbitMQ, Name: name, RoutingKey: routingKey}.String()
}

func (r *rabbitRun) run(ctx context.Context) error {
	for _, name := range []string{stable, deleted} {
		if err := r.rabbit.Bind(name, routingKey); err != nil {
			return fmt.Errorf("binding %s: %w", name, err)
		}
	}
	load := r.StartLoad(rabbitRate, toExchange(stable), toExchange(deleted))
	defer load.Stop()
	if _, err := r.measureRound(ctx, r.fleet); err != nil { // warm up
		return err
	}
	found, err := r.compare("rabbitmq",
		func(int) (measure, error) {
			pause(ctx, onset)
			return r.measureHealthy(ctx)
		},
		func(round int) (measure, error) { return r.beside(ctx, rabbitTroubles[round%len(rabbitTroubles)]) })
	load.Stop()
	if err == nil {
		r.holdLeast("rabbitmq", "throughput", found.throughput, leastThroughput)
	}
	r.stopping.Wait()
	return errors.Join(append(r.errs, err, r.count(context.WithoutCancel(ctx)))...)
}

// measureHealthy is a round of the healthy queues alone: what goes to RabbitMQ takes its share of the
// machine in one round and waits in the next.
func (r *rabbitRun) measureHealthy(ctx context.Context) (measure, error) {
	m, err := r.measureRound(ctx, r.fleet)
	m.beside = 0
	return m, err
}

// beside measures a round with RabbitMQ in trouble, and waits until it has everything.
func (r *rabbitRun) beside(ctx context.Context, t rabbitTrouble) (measure, error) {
	if err := t.begin(ctx, r); err != nil {
		return measure{}, fmt.Errorf("%s: %w", t.name, err)
	}
	err := r.enqueue(ctx, toRabbit, func(i int) outflow.Message {
		return outflow.Message{Destination: toExchange([]string{stable, deleted}[i%2]), Type: "numbered",
			Payload: fmt.Appendf(nil, `{"number":%d}`, i)}
	})
	pause(ctx, onset)
	m, roundErr := r.measureHealthy(ctx)
	waiting, _ := r.Pending(ctx)
	if err := errors.Join(err, roundErr, t.end(context.WithoutCancel(ctx), r)); err != nil {
		return m, fmt.Errorf("%s: %w", t.name, err)
	}
	began := time.Now()
	settling, cancel := context.WithTimeout(ctx, rabbitSettle)
	defer cancel()
	since, err := r.moment(ctx)
	if err == nil {
		err = r.awaitNone(settling, "destination LIKE 'rabbitmq:%' AND state = 'pending' AND enqueued_at < $1", since)
	}
	if err != nil {
		r.leftovers(ctx, r.chaos)
		return m, fmt.Errorf("%s: not drained %s after it was over: %w", t.name, rabbitSettle, err)
	}
	r.say("%s: %d waited at its end; drained %.1f s after it", t.name, waiting, time.Since(began).Seconds())
	return m, nil
}

// stopAWorker sends SIGTERM to a worker and a starter beside the round: each must end in time,
// though RabbitMQ reads nothing.
func (r *rabbitRun) stopAWorker() error {
	for _, m := range []*faults.Member{r.workers[0], r.starters[0]} {
		r.stopping.Go(func() {
			pause(context.Background(), onset) // some of its messages are under way
			began := time.Now()
			err := m.Terminate()
			took := time.Since(began)
			r.say("%s: stopped during the alarm after %.1f s", m.Name, took.Seconds())
			r.mu.Lock()
			defer r.mu.Unlock()
			if err == nil && took > stopsWithin {
				err = fmt.Errorf("at most %s", stopsWithin)
			}
			if err != nil {
				r.errs = append(r.errs, fmt.Errorf("%s: its stop during the alarm took %s: %w", m.Name, took, err))
			}
		})
	}
	return nil
}

const rabbitDelivered = `SELECT id FROM outbox.messages WHERE destination = $1 AND state = 'delivered'`

// count errs where a message was not delivered, is not in its queue, or was sent again without a
// reason. A queue that was deleted took what was in it: there the relay's word counts.
func (r *rabbitRun) count(ctx context.Context) error {
	draining, cancel := context.WithTimeout(ctx, rabbitSettle)
	defer cancel()
	_, err := r.Drain(draining)
	errs := []error{err}
	heard := map[string]bool{}
	for _, c := range r.rabbit.Relay.Copies() {
		heard[c.MessageID] = heard[c.MessageID] || !c.Answered.IsZero() && !c.Refused && !c.Returned
	}
	for _, name := range []string{stable, deleted} {
		ids, err := r.delivered(ctx, toExchange(name))
		if err != nil {
			return err
		}
		there, err := r.rabbit.Take(name)
		if err != nil {
			return err
		}
		lost, twice := 0, 0
		for _, id := range ids {
			twice += max(there[id]-1, 0)
			if !heard[id.String()] || name == stable && there[id] == 0 {
				lost++
			}
		}
		r.result("%s: delivered %d, lost %d, twice in its queue %d", toExchange(name), len(ids), lost, twice)
		if lost > 0 {
			errs = append(errs, fmt.Errorf("%d messages to %s are lost", lost, name))
		}
	}
	again := r.rabbit.Judge()
	r.result("sent again because no confirm was heard %d, unexplained %d", again.Explained, len(again.Unexplained))
	for _, u := range again.Unexplained[:min(len(again.Unexplained), 10)] {
		r.result("  unexplained %s", u)
	}
	if n := len(again.Unexplained); n > 0 {
		errs = append(errs, fmt.Errorf("%d messages were sent again though their confirm was heard", n))
	}
	var all, rest int
	if err := r.Pool.QueryRow(ctx, notDelivered).Scan(&all, &rest); err != nil {
		return errors.Join(append(errs, fmt.Errorf("counting what was delivered: %w", err))...)
	}
	r.result("enqueued %d, delivered %d, lost %d", all, all-rest, rest)
	if rest > 0 {
		errs = append(errs, fmt.Errorf("%d messages are not delivered", rest))
	}
	_, err = r.judge(ctx, r.fleet, nil) // of SQS, where nothing was broken
	return errors.Join(append(errs, err)...)
}

// delivered are the messages to a destination whose delivery was written.
func (r *rabbitRun) delivered(ctx context.Context, destination string) ([]uuid.UUID, error) {
	rows, err := r.Pool.Query(ctx, rabbitDelivered, destination)
	if err != nil {
		return nil, fmt.Errorf("reading what was delivered: %w", err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil {
		return nil, fmt.Errorf("reading what was delivered: %w", err)
	}
	return ids, nil
}

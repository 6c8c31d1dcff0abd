package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/devstack/faults"
	"github.com/outflowhq/outflow/devstack/rabbitmq"
	"github.com/outflowhq/outflow/operator"
	"github.com/outflowhq/outflow/publish/publishtest/fakesqs"
)

const (
	// The load, which ends when it is complete or when the time is over.
	orderedKeys = 100 // at each destination
	orderedEach = 100 // messages of each key
	orderedRate = 400 // a second, while fewer than orderedWait are pending
	orderedWait = 2000

	// One request in this many fails. A message of a key waits for the retry of the one before it.
	orderFailsIn = 20
	// One confirm in this many is lost, with its connection and what else was sent on it.
	orderCutsIn = 100
	// One webhook in this many ends its message dead, which blocks its key until it is retried.
	orderDeadIn = 100
	orderKills  = 4 * time.Second
	orderActs   = 500 * time.Millisecond
)

var chaosOperator = operator.Actor{Who: "chaos", Why: "to see whether the others keep their order"}

// order measures keys beside one that a dead message blocks. Then it has messages of a hundred
// ordering keys delivered to each kind of destination while requests fail, programs are killed and
// an operator works on messages. It says whether the first arrivals of each key came in order.
func order(ctx context.Context, c *chaos) error {
	receiver, err := faults.NewReceiver()
	if err != nil {
		return err
	}
	defer receiver.Close()
	settings := receiver.Env()
	o := &orderRun{chaos: c, chance: rand.New(rand.NewPCG(c.seed, 0)), receiver: receiver, moved: map[uuid.UUID]bool{}}
	if rabbitmq.Installed() {
		if o.rabbit, err = c.stack.StartRabbit(ctx); err != nil {
			return err
		}
		settings = append(settings, o.rabbit.Env()...)
	} else {
		c.say("order: RabbitMQ is left out, for it is not installed (%s)", rabbitmq.HowToInstall)
	}
	if o.fleet, err = c.deploy(ctx, "ordering", settings...); err != nil {
		return err
	}
	o.AnswersIn(answers)
	o.Queues.AutoCreate = false
	errs := []error{o.run(ctx), o.close(c.stack.Logs())}
	if o.rabbit != nil {
		errs = append(errs, o.rabbit.Stop())
	}
	return errors.Join(errs...)
}

type orderRun struct {
	*chaos
	*fleet
	chance   *rand.Rand
	receiver *faults.Receiver
	rabbit   *faults.Rabbit // nil where RabbitMQ is not installed
	places   []ordered
	kills    int
	retried  int
	moved    map[uuid.UUID]bool // by a redirect
}

func (o *orderRun) run(ctx context.Context) error {
	if err := o.prepare(); err != nil {
		return err
	}
	if err := errors.Join(o.releaseUnused(ctx), o.neighbours(ctx)); err != nil {
		return err
	}
	o.fail()
	load, complete := o.load(ctx)
	disturbErr := o.disturb(ctx, complete, time.Duration(o.minutes*float64(time.Minute)))
	load.Stop()
	o.heal()
	drained, drainErr := o.finish(ctx)
	arrived, err := arrivals(o.places)
	if err != nil {
		return errors.Join(disturbErr, drainErr, err)
	}
	counts := map[uuid.UUID]int{}
	for _, ids := range arrived {
		for _, id := range ids {
			counts[id]++
		}
	}
	tally, err := load.TallyOf(ctx, counts)
	if err != nil {
		return errors.Join(disturbErr, drainErr, err)
	}
	tally.Drain = drained
	o.result("%s", tally)
	o.result("kills %d, dead messages retried %d, messages redirected %d", o.kills, o.retried, len(o.moved))
	for _, m := range o.members() {
		for _, end := range m.Ends() {
			o.say("%v", end) // a round with such an end says nothing of the neighbours
		}
	}
	return errors.Join(disturbErr, drainErr, o.holdLost(tally), o.holdOrder(ctx, arrived))
}

// fail has requests to each destination fail.
func (o *orderRun) fail() {
	o.Queues.Inject(fakesqs.Fault{
		When:  func(fakesqs.Request) bool { return rand.IntN(orderFailsIn) == 0 },
		Error: &fakesqs.Error{Status: http.StatusServiceUnavailable, Code: "ServiceUnavailable", Message: "try again"},
	})
	o.receiver.BehaveAs(orderedPath, func() http.HandlerFunc {
		switch {
		case rand.IntN(orderDeadIn) == 0:
			return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusUnprocessableEntity) }
		case rand.IntN(orderFailsIn) == 0:
			return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusServiceUnavailable) }
		}
		return nil
	})
	if o.rabbit != nil {
		o.rabbit.Relay.LoseOneIn(orderedName, orderCutsIn)
	}
}

func (o *orderRun) heal() {
	o.Queues.Heal("")
	o.receiver.Behave(orderedPath, nil)
	if o.rabbit != nil {
		o.rabbit.Relay.Heal(orderedName)
	}
}

// load enqueues the messages of each key, those of all keys and destinations in turn.
func (o *orderRun) load(ctx context.Context) (load *faults.Load, complete func() bool) {
	var enqueued, pending atomic.Int64
	all := int64(orderedEach * orderedKeys * len(o.places))
	complete = func() bool { return enqueued.Load() >= all }
	go func() {
		for pause(ctx, 100*time.Millisecond) && !complete() {
			if n, err := o.Pending(ctx); err == nil {
				pending.Store(int64(n))
			}
		}
	}()
	full := func() bool { return complete() || pending.Load() > orderedWait }
	return o.StartBoundedLoad(orderedRate, full, func(n int) outflow.Message {
		enqueued.Store(int64(n + 1))
		return o.places[n%len(o.places)].message(fmt.Sprintf("key-%d", n/len(o.places)%orderedKeys), n)
	}), complete
}

// disturb kills a program every few seconds, and has an operator retry and redirect messages, until the
// load is complete or its time is over.
func (o *orderRun) disturb(ctx context.Context, complete func() bool, length time.Duration) error {
	over := time.After(length)
	kill, act := time.NewTicker(orderKills), time.NewTicker(orderActs)
	defer kill.Stop()
	defer act.Stop()
	ops := operator.New(o.Pool, nil, o.World.Name)
	for !complete() {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-over:
			return nil
		case <-kill.C:
			members := o.members()
			victim := members[o.chance.IntN(len(members))]
			o.say("kill-%s", victim.Name)
			if err := victim.Kill(); err != nil {
				return err
			}
			o.kills++
		case <-act.C:
			if err := errors.Join(o.retryDead(ctx, ops), o.redirectOne(ctx, ops)); err != nil {
				return err
			}
		}
	}
	return nil
}

// retryDead retries the messages that block their keys.
func (o *orderRun) retryDead(ctx context.Context, ops *operator.Operator) error {
	ids, err := o.deadHeads(ctx)
	if err != nil || len(ids) == 0 {
		return err
	}
	o.retried += len(ids)
	_, err = ops.Retry(ctx, ids, chaosOperator)
	return err
}

func (o *orderRun) deadHeads(ctx context.Context) ([]uuid.UUID, error) {
	rows, err := o.Pool.Query(ctx, `SELECT id FROM outbox.messages WHERE head AND state = 'dead'`)
	if err != nil {
		return nil, fmt.Errorf("looking for blocked keys: %w", err)
	}
	ids, err := pgx.CollectRows(rows, pgx.RowTo[uuid.UUID])
	if err != nil {
		return nil, fmt.Errorf("looking for blocked keys: %w", err)
	}
	return ids, nil
}

// redirectOne sends a pending message to another of the destinations.
func (o *orderRun) redirectOne(ctx context.Context, ops *operator.Operator) error {
	var id uuid.UUID
	var from string
	err := o.Pool.QueryRow(ctx, `SELECT id, destination FROM outbox.messages WHERE state = 'pending'
		ORDER BY random() LIMIT 1`).Scan(&id, &from)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("choosing a message: %w", err)
	}
	to := o.places[o.chance.IntN(len(o.places))].destination
	if to == from {
		return nil
	}
	answers, err := ops.Redirect(ctx, []uuid.UUID{id}, to, chaosOperator)
	if err == nil && answers[0].Verdict == operator.Done {
		o.moved[id] = true
	}
	return err
}

// finish waits until everything is delivered. What has ended dead is retried.
func (o *orderRun) finish(ctx context.Context) (took time.Duration, err error) {
	draining, cancel := context.WithTimeout(ctx, drainWithin)
	defer cancel()
	ops := operator.New(o.Pool, nil, o.World.Name)
	for began := time.Now(); ; {
		if err := o.retryDead(draining, ops); err != nil {
			return time.Since(began), err
		}
		pending, err := o.Pending(draining)
		if err == nil && pending == 0 {
			return time.Since(began), nil
		}
		if !pause(draining, 100*time.Millisecond) {
			o.leftovers(ctx, o.chaos)
			return time.Since(began), fmt.Errorf("draining: %d messages are still pending (%w)", pending, draining.Err())
		}
	}
}

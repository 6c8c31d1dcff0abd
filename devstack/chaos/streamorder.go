package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"time"

	"github.com/google/uuid"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/devstack/faults"
	"github.com/outflowhq/outflow/devstack/rabbitmq"
	"github.com/outflowhq/outflow/publish/publishtest/fakesqs"
)

const (
	streamKeys = 1000 // at each destination
	streamEach = 10   // messages of each key
	// One entry of a request in this many is throttled or fails. Requests fail and confirms are lost
	// as in the scenario order.
	entryFailsIn = 20
	orderedKills = 2
)

// streamOrder has messages of a thousand keys delivered by streams to each kind of destination, while
// entries and requests fail and a worker is killed. It says whether the first arrivals of each key
// came in order.
func streamOrder(ctx context.Context, c *chaos) error {
	// Only the heads of keys are due.
	settings := []string{"OUTFLOW_STREAM_ABOVE=200"}
	o := &streamOrderRun{chaos: c}
	if rabbitmq.Installed() {
		var err error
		if o.rabbit, err = c.stack.StartRabbit(ctx); err != nil {
			return err
		}
		settings = append(settings, o.rabbit.Env()...)
	} else {
		c.say("stream-order: RabbitMQ is left out, for it is not installed (%s)", rabbitmq.HowToInstall)
	}
	var err error
	if o.fleet, err = c.deployStreams(ctx, "streamorder", 2, settings...); err != nil {
		return err
	}
	errs := []error{o.run(ctx), o.close(c.stack.Logs())}
	if o.rabbit != nil {
		errs = append(errs, o.rabbit.Stop())
	}
	return errors.Join(errs...)
}

type streamOrderRun struct {
	*chaos
	*fleet
	rabbit *faults.Rabbit // nil where RabbitMQ is not installed
	places []ordered
	causes []faults.Cause
}

func (o *streamOrderRun) run(ctx context.Context) error {
	if err := o.prepare(); err != nil {
		return err
	}
	each := o.scaled(streamEach)
	n := streamKeys * each * len(o.places)
	began := time.Now()
	err := o.enqueue(ctx, n, func(i int) outflow.Message {
		return o.places[i%len(o.places)].message(fmt.Sprintf("key-%d", i/len(o.places)%streamKeys), i)
	})
	if err != nil {
		return err
	}
	for kill := range orderedKills {
		if err := o.kill(ctx, n*(orderedKills-kill)/(orderedKills+1)); err != nil {
			return err
		}
	}
	draining, cancel := context.WithTimeout(ctx, drainWithin)
	defer cancel()
	if _, err := o.Drain(draining); err != nil {
		o.leftovers(ctx, o.chaos)
		return err
	}
	o.result("%d messages of %d keys took %.1f s", n, streamKeys*len(o.places), time.Since(began).Seconds())
	errs := []error{o.awaitStreamsEnd(ctx, o.chaos)}
	arrived, err := arrivals(o.places)
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	counts := map[uuid.UUID]int{}
	for _, ids := range arrived {
		for _, id := range ids {
			counts[id]++
		}
	}
	errs = append(errs, o.holdStreamed(ctx, o.chaos, "numbered", counts), o.holdEnds(),
		o.holdOrder(ctx, o.fleet, arrived, nil, streamKeys))
	_, err = o.judge(ctx, o.fleet, o.causes)
	return errors.Join(append(errs, err)...)
}

// prepare makes the destinations, and has each fail.
func (o *streamOrderRun) prepare() error {
	for _, queue := range []string{orderedName, orderedFIFO} {
		o.Queues.CreateQueue("", queue, nil)
		o.places = append(o.places, ordered{"sqs://" + queue, func() ([]uuid.UUID, error) { return o.accepted(queue), nil }})
	}
	o.Queues.Inject(fakesqs.Fault{
		When:  func(fakesqs.Request) bool { return rand.IntN(orderFailsIn) == 0 },
		Error: &fakesqs.Error{Status: http.StatusServiceUnavailable, Code: "ServiceUnavailable", Message: "try again"},
	})
	refusals := []*fakesqs.Error{
		{Code: "ThrottlingException", Message: "Rate exceeded"}, {Code: "InternalError", Message: "try again"},
	}
	o.Queues.Inject(fakesqs.Fault{EntryError: func(fakesqs.Entry) *fakesqs.Error {
		if n := rand.IntN(2 * entryFailsIn); n < len(refusals) {
			return refusals[n]
		}
		return nil
	}})
	if o.rabbit == nil {
		return nil
	}
	if err := o.rabbit.Bind(orderedName, routingKey); err != nil {
		return fmt.Errorf("binding %s: %w", orderedName, err)
	}
	o.rabbit.Relay.LoseOneIn(orderedName, orderCutsIn)
	o.places = append(o.places, ordered{toExchange(orderedName),
		func() ([]uuid.UUID, error) { return o.rabbit.TakeInOrder(orderedName) }})
	return nil
}

// kill kills a worker once so many messages are left.
func (o *streamOrderRun) kill(ctx context.Context, left int) error {
	waiting, cancel := context.WithTimeout(ctx, drainWithin)
	defer cancel()
	for {
		pending, err := o.Pending(waiting)
		if err == nil && pending <= left {
			break
		}
		if !pause(waiting, 50*time.Millisecond) {
			return fmt.Errorf("waiting until %d messages are left: %w", left, waiting.Err())
		}
	}
	victim := o.workers[len(o.causes)%len(o.workers)]
	cause := faults.Cause{Name: "kill-worker", Risk: faults.ProcessLost, Caller: victim.Name, From: time.Now()}
	err := victim.Kill()
	cause.To = time.Now()
	o.causes = append(o.causes, cause)
	o.say("killed %s, %d messages left", victim.Name, left)
	return err
}

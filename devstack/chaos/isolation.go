package main

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/publish/publishtest/fakesqs"
)

const (
	// Bounds on what one bad destination may do to the healthy ones.
	leastThroughput = 0.9
	mostP99         = 1.2

	badBacklog = 300 // messages that wait for the bad destination
	badRate    = 10  // a second, beside it
	recovery   = 30 * time.Second
	onset      = 3 * time.Second
)

// trouble is one way in which a destination is bad.
type trouble struct {
	name  string
	begin func(f *fleet, queue string)
	end   func(f *fleet, queue string)
}

var troubles = []trouble{
	failing("down", fakesqs.Fault{Error: &fakesqs.Error{Status: http.StatusServiceUnavailable, Code: "ServiceUnavailable", Message: "try again later"}}),
	failing("throttled", fakesqs.Fault{Error: &fakesqs.Error{Status: http.StatusBadRequest, Code: "ThrottlingException", Message: "Rate exceeded"}}),
	failing("forbidden", fakesqs.Fault{Error: &fakesqs.Error{Status: http.StatusForbidden, Code: "AccessDeniedException", Message: "no policy allows it"}}),
	{"missing",
		func(f *fleet, queue string) { f.Queues.DeleteQueue("", queue) },
		func(f *fleet, queue string) { f.Queues.CreateQueue("", queue, nil) }},
	failing("slow", fakesqs.Fault{Delay: 2 * time.Second}),
}

func troubleNames() (names []string) {
	for _, t := range troubles {
		names = append(names, t.name)
	}
	return names
}

func failing(name string, fault fakesqs.Fault) trouble {
	return trouble{name,
		func(f *fleet, queue string) { fault.Queue = queue; f.Queues.Inject(fault) },
		func(f *fleet, queue string) { f.Queues.Heal(queue) }}
}

// isolation measures the healthy destinations without and with a bad one beside
// them, in turn, for each way of being bad.
func isolation(ctx context.Context, c *chaos) error {
	f, err := c.deploy(ctx, "isolation")
	if err != nil {
		return err
	}
	f.AnswersIn(answers)
	f.Queues.AutoCreate = false
	for _, q := range healthy {
		f.Queues.CreateQueue("", q, nil)
	}
	_, err = c.measureRound(ctx, f) // warm up
	for _, t := range troubles {
		if err == nil && (c.only == t.name || !slices.Contains(troubleNames(), c.only)) {
			err = c.isolate(ctx, f, t)
		}
	}
	return errors.Join(err, f.close(c.stack.Logs()))
}

// isolate does the rounds of one trouble, and holds its bounds.
func (c *chaos) isolate(ctx context.Context, f *fleet, t trouble) error {
	var pairs []pair
	for round := range c.rounds {
		var p pair
		var err error
		if p.without, err = c.measureRound(ctx, f); err != nil {
			return err
		}
		if p.with, err = c.beside(ctx, f, t, fmt.Sprintf("%s-%d", t.name, round)); err != nil {
			return err
		}
		c.say("%s: without %s; with %s", t.name, p.without, p.with)
		pairs = append(pairs, p)
	}
	throughput, p99 := ratios(pairs)
	c.result("ratio healthy-throughput/%s %.2f", t.name, throughput)
	c.result("ratio healthy-p99/%s %.2f", t.name, p99)
	c.hold(t.name, throughput, p99)
	return nil
}

// hold notes a bound that is broken: the other measurements are made all the same.
func (c *chaos) hold(name string, throughput, p99 float64) {
	if throughput < leastThroughput {
		c.broken = append(c.broken, fmt.Sprintf("%s: healthy throughput %.2f (at least %.1f)", name, throughput, leastThroughput))
	}
	c.holdP99(name, p99)
}

func (c *chaos) holdP99(name string, p99 float64) {
	if p99 > mostP99 {
		c.broken = append(c.broken, fmt.Sprintf("%s: healthy p99 %.2f (at most %.1f)", name, p99, mostP99))
	}
}

// beside measures a round with a bad queue of its own, which had worked before.
func (c *chaos) beside(ctx context.Context, f *fleet, t trouble, queue string) (measure, error) {
	destination := "sqs://" + queue
	bad := func(int) outflow.Message {
		return outflow.Message{Destination: destination, Type: "bad", Payload: []byte(`{"bad":true}`)}
	}
	settle := func() error {
		settling, cancel := context.WithTimeout(ctx, recovery)
		defer cancel()
		return f.awaitNone(settling, "destination = $1 AND state = 'pending'", destination)
	}
	f.Queues.CreateQueue("", queue, nil)
	if err := errors.Join(f.enqueue(ctx, 1, bad), settle()); err != nil {
		return measure{}, err
	}
	t.begin(f, queue)
	if err := f.enqueue(ctx, badBacklog, bad); err != nil {
		return measure{}, err
	}
	load := f.StartLoad(badRate, destination)
	// The first messages find out that it is bad, and cost what messages cost. What
	// is held here is the time beside it.
	time.Sleep(onset)
	m, err := c.measureRound(ctx, f)
	load.Stop()
	t.end(f, queue)
	if err != nil {
		return m, err
	}
	healed := time.Now()
	if settle() != nil {
		// What is in a long backoff would disturb the next round without it.
		c.say("%s: not drained %s after it was healed; the rest is withdrawn", t.name, recovery)
		_, err = f.Pool.Exec(ctx, "UPDATE outbox.messages SET state = 'cancelled', retrying = false, finished_at = now() WHERE destination = $1 AND state = 'pending'", destination)
	} else {
		c.say("%s: drained %.1f s after it was healed", t.name, time.Since(healed).Seconds())
	}
	return m, err
}

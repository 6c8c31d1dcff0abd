package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/outflowhq/outflow"
)

// poisonEvery lies between two helpings of poison, one message of each kind.
const poisonEvery = 200 * time.Millisecond

// poison measures the neighbours of messages that can't be delivered, or look
// like it: they share queues, claims and batches with them.
func poison(ctx context.Context, c *chaos) error {
	f, err := c.deploy(ctx, "poison", soonDead)
	if err != nil {
		return err
	}
	f.AnswersIn(answers)
	f.Queues.AutoCreate = false
	for _, q := range healthy {
		f.Queues.CreateQueue("", q, map[string]string{"MaximumMessageSize": "2048"})
	}
	return errors.Join(c.poisonRounds(ctx, f), f.close(c.stack.Logs()))
}

func (c *chaos) poisonRounds(ctx context.Context, f *fleet) error {
	if _, err := c.measureRound(ctx, f); err != nil { // warm up
		return err
	}
	r, err := c.compare("poison",
		func(int) (measure, error) { return c.measureRound(ctx, f) },
		func(int) (measure, error) {
			poisoning, stop := context.WithCancel(ctx)
			done := make(chan error, 1)
			go func() { done <- f.poisonAll(poisoning) }()
			m, err := c.measureRound(ctx, f)
			stop()
			return m, errors.Join(err, <-done, f.awaitNone(ctx, "type = 'poison' AND state = 'pending'"))
		})
	if err != nil {
		return err
	}
	var dead, delivered int
	err = f.Pool.QueryRow(ctx, `
		SELECT count(*) FILTER (WHERE state = 'dead'), count(*) FILTER (WHERE state = 'delivered')
		  FROM outbox.messages WHERE type = 'poison'`).Scan(&dead, &delivered)
	if err != nil {
		return fmt.Errorf("counting the poison: %w", err)
	}
	c.result("poison: %d dead, %d delivered", dead, delivered)
	// What the poison itself takes of the machine its neighbours' throughput lacks:
	// that is shown, and not held.
	c.holdP99("poison", r)
	return nil
}

// poisonAll enqueues poison of every kind, a few at a time, until ctx ends.
func (f *fleet) poisonAll(ctx context.Context) error {
	tooLarge := bytes.Repeat([]byte("x"), 3000)
	for helping := 0; ; helping++ {
		queue := "sqs://" + healthy[helping%len(healthy)]
		messages := []outflow.Message{
			{Destination: "sqs://nowhere", Payload: []byte("unknown queue")},
			{Destination: queue, Payload: tooLarge},
			{Destination: queue, Payload: []byte("bell \a, null \x00, and no UTF-8 \xff")},
			{Destination: queue, Payload: []byte("a header"), Headers: map[string]string{"note": "bell \a"}},
		}
		err := f.enqueue(context.WithoutCancel(ctx), len(messages), func(i int) outflow.Message {
			m := messages[i]
			m.Type, m.ContentType = "poison", "text/plain"
			return m
		})
		if err != nil {
			return err
		}
		if !pause(ctx, poisonEvery) {
			return nil
		}
	}
}

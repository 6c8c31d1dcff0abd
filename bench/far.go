package main

import (
	"context"
	"fmt"
	"io"
)

// The queue service takes a fraction of a millisecond for a request. AWS's example has 20 ms for one from
// SQS's own region: who sends one message after the other then waits most of the time.
// https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/sqs-throughput-horizontal-scaling-and-batching.html

// farOf are the variants that are drained with slow answers, farShare how much of their usual backlog is
// enough for that.
var (
	farOf    = []string{riverPeer, dbosPeer, watermillPeer, stream, queueAlone}
	farShare = map[string]float64{riverPeer: 0.5, dbosPeer: 0.2, watermillPeer: 0.1, stream: 1, queueAlone: 0.5}
)

// measureFar measures drains while the queue service answers s.far later.
func (w *world) measureFar(ctx context.Context, s settings, stdout io.Writer) error {
	s.only = chosen(s.only, farOf)
	if s.far == 0 || len(s.only) == 0 {
		return nil
	}
	w.queues.delay = s.far
	defer func() { w.queues.delay = 0 }()
	results := map[string][]result{}
	for round := range s.rounds {
		for _, variant := range turn(s.only, round) {
			l := load{messages: max(int(float64(s.backlog(variant))*farShare[variant]), 1)}
			r, err := w.drain(ctx, variant, s.rounds+round+1, l)
			if err != nil {
				return fmt.Errorf("measuring %s with answers after %s: %w", variant, s.far, err)
			}
			results[variant] = append(results[variant], r)
			fmt.Fprintf(w.stderr, "answers after %s, round %d: %-11s %7.1f messages/s\n", s.far, round+1, variant, r.rate())
		}
	}
	fmt.Fprintf(stdout, "\nEach request to the queue service takes %s longer:\n", s.far)
	return report(stdout, s, results, "-far")
}

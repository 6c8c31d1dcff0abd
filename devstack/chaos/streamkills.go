package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"time"

	"github.com/outflowhq/outflow/devstack/faults"
)

const (
	killedQueue = "backlog"
	// streamKilled is how many workers are killed, in killRounds rounds of the same size.
	streamKilled = 20
	killRounds   = 2
	calmFor      = time.Minute // a round without a stream
	// A killed stream goes on when Temporal misses its heartbeats for 10 s. Then it waits for the next
	// attempt, 2 s at most, and for its pages.
	goesOnWithin = 45 * time.Second
	// mostHeld bounds what a worker has sent and not marked: 64 requests of ten, a statement that marks
	// 2,000, and as many that wait for it. (A stream has three pages of 2,000 in hand at most.)
	mostHeld = 64*10 + 2*2000
)

// streamKills kills the worker of a stream again and again while messages go through it, and measures
// other queues beside it. The stream leaves the machine room: what is held is that others keep their
// pace beside it, not that two cores are more than two.
func streamKills(ctx context.Context, c *chaos) error {
	f, err := c.deployStreams(ctx, "streamkills", 2, streamAbove)
	if err != nil {
		return err
	}
	k := &killedStream{
		chaos: c, fleet: f, flow: f.slowFlow(killedQueue), chance: rand.New(rand.NewPCG(c.seed, 0)),
		rounds: min(c.rounds, killRounds),
	}
	k.messages = c.scaled(mostStreamed) / k.rounds
	k.kills = max(min(c.kills, c.scaled(streamKilled))/k.rounds, 1)
	return errors.Join(k.run(ctx), f.close(c.stack.Logs()))
}

type killedStream struct {
	*chaos
	*fleet
	flow            *flow
	chance          *rand.Rand
	rounds          int
	messages, kills int // of a round
	slowest         time.Duration
	causes          []faults.Cause
}

func (k *killedStream) run(ctx context.Context) error {
	load := k.StartLoad(besideRate, toQueues(besideStreams...)...)
	defer load.Stop()
	pause(ctx, onset) // warm up
	found, err := k.compareIn(k.rounds, "stream-kills",
		func(int) (measure, error) {
			return k.steadily(ctx, func() error { pause(ctx, calmFor); return ctx.Err() })
		},
		func(int) (measure, error) { return k.round(ctx) })
	load.Stop()
	if err != nil {
		return err
	}
	k.holdP99("stream-kills", found)
	if k.slowest > goesOnWithin {
		k.broken = append(k.broken, fmt.Sprintf("stream-kills: a stream went on %s after a kill (at most %s)", k.slowest,
			goesOnWithin))
	}
	return errors.Join(k.count(ctx), k.holdBeside(ctx, k.chaos, load), k.holdEnds())
}

// round has a backlog delivered while the worker of its stream is killed. What enqueues it is not
// measured.
func (k *killedStream) round(ctx context.Context) (measure, error) {
	if err := k.enqueueBacklog(ctx, k.messages, killedQueue); err != nil {
		return measure{}, err
	}
	m, err := k.steadily(ctx, func() error {
		for range k.kills {
			if err := k.kill(ctx); err != nil {
				return err
			}
		}
		k.say("the last of %d kills is over", k.kills)
		return k.drainBacklog(ctx, k.chaos)
	})
	return m, errors.Join(err, k.awaitStreamsEnd(ctx, k.chaos))
}

// kill kills the worker that has the stream, once that has sent some messages.
func (k *killedStream) kill(ctx context.Context) error {
	share := k.messages / (4 * k.kills)
	began := time.Now()
	holder, err := k.flow.more(ctx, share/2+k.chance.IntN(share+1), streamDrain)
	if err != nil {
		return err
	}
	m, err := k.worker(holder)
	if err != nil {
		return err
	}
	cause := faults.Cause{Name: "kill-worker", Risk: faults.ProcessLost, Caller: holder, From: time.Now()}
	err = m.Kill()
	cause.To = time.Now()
	k.causes = append(k.causes, cause)
	if err != nil {
		return err
	}
	pause(ctx, second) // what it had sent has arrived
	if _, err := k.flow.more(ctx, 1, streamDrain); err != nil {
		return fmt.Errorf("after a kill: %w", err)
	}
	took := time.Since(cause.To)
	k.slowest = max(k.slowest, took)
	k.say("killed %s, %.1f s after the last one; the stream went on after %.1f s", holder, cause.From.Sub(began).Seconds(),
		took.Seconds())
	return nil
}

// count errs where a message is lost, came twice without a reason, or more came twice than the workers
// had in flight at the kills.
func (k *killedStream) count(ctx context.Context) error {
	copies, err := k.Copies(ctx)
	if err != nil {
		return err
	}
	most, all := 0, 0
	began := map[string]time.Time{} // the present process of each worker
	for _, cause := range k.causes {
		held := 0
		for _, each := range copies {
			for _, c := range each {
				if c.HeldBy(cause.Caller, began[cause.Caller], cause.From) {
					held++
				}
			}
		}
		most, all = max(most, held), all+held
		began[cause.Caller] = cause.To
	}
	errs := []error{k.holdStreamed(ctx, k.chaos, "backlog", k.Arrivals(killedQueue))}
	v, err := k.judge(ctx, k.fleet, k.causes)
	errs = append(errs, err)
	k.result("kills %d, sent and not marked at them %d, %d at most at one (bound %d); the stream went on within %.1f s",
		len(k.causes), all, most, mostHeld, k.slowest.Seconds())
	if v.Duplicates > all {
		errs = append(errs, fmt.Errorf("%d duplicates, and only %d were in flight at the kills", v.Duplicates, all))
	}
	if most > mostHeld {
		errs = append(errs, fmt.Errorf("%d messages were sent and not marked at a kill (at most %d)", most, mostHeld))
	}
	return errors.Join(errs...)
}

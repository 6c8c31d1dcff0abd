package main

import (
	"context"
	"net/http"
	"syscall"
	"time"

	"github.com/outflowhq/outflow/devstack/faults"
	"github.com/outflowhq/outflow/publish/publishtest/fakesqs"
)

// kind is a way to break something.
type kind struct {
	name string
	// part names what it breaks: two strikes on one part wait for each other, and
	// those on different parts overlap.
	part        string
	least, most time.Duration // how long it lasts
	// do begins it. undo ends it; nil where nothing is to be ended.
	do   func(h *hazard, s strike) error
	undo func(ctx context.Context, h *hazard, s strike) error
}

const second = time.Second

// kinds are all that is broken. A killed program is started again by its
// supervisor, after a second.
var kinds = []kind{
	{"kill-starter", "starter", 0, 0, func(h *hazard, s strike) error { return pick(h.starters, s).Kill() }, nil},
	{"kill-worker", "worker", 0, 0, func(h *hazard, s strike) error { return pick(h.workers, s).Kill() }, nil},
	{"roll-starter", "starter", 0, 0, roll, nil},
	{"stall-starter", "starter", 3 * second, 15 * second,
		func(h *hazard, s strike) error { return pick(h.starters, s).Signal(syscall.SIGSTOP) },
		func(_ context.Context, h *hazard, s strike) error { return pick(h.starters, s).Signal(syscall.SIGCONT) }},
	{"kill-temporal", "engine", 0, 4 * second, func(h *hazard, _ strike) error { return h.stack.Temporal.Kill() }, startTemporal},
	{"crash-temporals-postgres", "engine", 0, 4 * second, func(h *hazard, _ strike) error { return h.stack.EngineStore.Crash() },
		func(ctx context.Context, h *hazard, s strike) error {
			if err := h.stack.EngineStore.Start(ctx); err != nil {
				return err
			}
			select { // the server may have given up meanwhile
			case <-h.stack.Temporal.Done():
				return startTemporal(ctx, h, s)
			default:
				return nil
			}
		}},
	{"crash-postgres", "database", 0, 4 * second, func(h *hazard, _ strike) error { return h.stack.Application.Crash() },
		func(ctx context.Context, h *hazard, _ strike) error { return h.stack.Application.Start(ctx) }},

	onLink("cut-postgres", "link to postgres", postgres, (*faults.Link).Cut),
	onLink("cut-temporal", "link to temporal", temporal, (*faults.Link).Cut),
	onLink("cut-sqs", "link to sqs", sqs, (*faults.Link).Cut),
	onLink("swallow-postgres", "link to postgres", postgres, (*faults.Link).Swallow),
	onLink("swallow-temporal", "link to temporal", temporal, (*faults.Link).Swallow),
	onLink("swallow-sqs", "link to sqs", sqs, (*faults.Link).Swallow),
	onLink("deafen-postgres", "link to postgres", postgres, (*faults.Link).Deafen),
	onLink("deafen-temporal", "link to temporal", temporal, (*faults.Link).Deafen),
	onLink("deafen-sqs", "link to sqs", sqs, (*faults.Link).Deafen),
	onLink("slow-postgres", "link to postgres", postgres, slow),
	onLink("slow-temporal", "link to temporal", temporal, slow),
	onLink("slow-sqs", "link to sqs", sqs, slow),
	// Acts whose answers are lost. (For SQS that is lost-acks, which counts them.)
	onLink("reset-postgres", "link to postgres", postgres, (*faults.Link).Reset),
	onLink("reset-temporal", "link to temporal", temporal, (*faults.Link).Reset),

	atSQS("sqs-503", fakesqs.Fault{Error: &fakesqs.Error{Status: http.StatusServiceUnavailable, Code: "ServiceUnavailable", Message: "try again later"}}),
	atSQS("sqs-throttles", fakesqs.Fault{Error: &fakesqs.Error{Status: http.StatusBadRequest, Code: "ThrottlingException", Message: "Rate exceeded"}}),
	atSQS("sqs-slow", fakesqs.Fault{Delay: 1200 * time.Millisecond}),
	{"lost-acks", "sqs", 0, 0, loseAcks, nil},
}

func kindNames() (names []string) {
	for _, k := range kinds {
		names = append(names, k.name)
	}
	return names
}

func pick(members []*faults.Member, s strike) *faults.Member { return members[s.which%len(members)] }

// roll stops a starter as a deployment does. In the midst of other faults it may
// end badly, which is worth a line.
func roll(h *hazard, s strike) error {
	if err := pick(h.starters, s).Terminate(); err != nil {
		h.say("roll-starter: it ended with: %v", err)
	}
	return nil
}

func startTemporal(ctx context.Context, h *hazard, _ strike) error {
	return h.stack.Temporal.Start(ctx)
}

func postgres(h *hazard) *faults.Link { return h.Postgres }
func temporal(h *hazard) *faults.Link { return h.Temporal }
func sqs(h *hazard) *faults.Link      { return h.SQS }

func slow(l *faults.Link) error { return l.Slow(400 * time.Millisecond) }

func onLink(name, part string, link func(*hazard) *faults.Link, do func(*faults.Link) error) kind {
	return kind{name, part, second, 8 * second,
		func(h *hazard, _ strike) error { return do(link(h)) },
		func(_ context.Context, h *hazard, _ strike) error { return link(h).Heal() }}
}

// atSQS makes one queue or, one time in three, all of them fail.
func atSQS(name string, fault fakesqs.Fault) kind {
	return kind{name, "sqs", 2 * second, 12 * second,
		func(h *hazard, s strike) error {
			if s.which%3 > 0 {
				fault.Queue = queues[s.which%len(queues)]
			}
			h.Queues.Inject(fault)
			return nil
		},
		func(_ context.Context, h *hazard, _ strike) error { h.Queues.Heal(""); return nil }}
}

// loseAcks resets the connection of the next few requests after SQS took their
// entries, and counts these: each may come again.
func loseAcks(h *hazard, s strike) error {
	requests := 1 + s.which%4
	h.Queues.Inject(fakesqs.Fault{
		Action: "SendMessageBatch", Times: requests, CutAfter: true,
		When: func(r fakesqs.Request) bool {
			if requests > 0 {
				requests--
				h.lostAcks.Add(int64(len(r.Entries)))
			}
			return true
		},
	})
	return nil
}

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
	duplicates
}

// duplicates is what a fault may make come twice.
type duplicates struct {
	risk faults.Risk
	// among are the processes of which one is struck, for faults.ProcessLost.
	among func(h *hazard) []*faults.Member
	// atOnce says that only its beginning does it; after is how long it goes on
	// when the fault is healed.
	atOnce bool
	after  time.Duration
}

const (
	second = time.Second
	// reconnects is how long a program may need until it talks to Temporal again.
	reconnects = 10 * second
	// silence is when gRPC's keepalive has noticed a connection that says nothing:
	// 30 s, and 15 s for the answer.
	silence = 45 * second
)

var (
	nothingTwice  = duplicates{}
	ofAStarter    = duplicates{risk: faults.ProcessLost, among: starters}
	ofAWorker     = duplicates{risk: faults.ProcessLost, among: workers}
	ofTheEngine   = duplicates{risk: faults.EngineLost, after: reconnects}
	ofLostAnswers = duplicates{risk: faults.AnswersLost}
)

// kinds are all that is broken. A killed program is started again by its
// supervisor, after a second.
var kinds = []kind{
	{"kill-starter", "starter", 0, 0, kill(starters), nil, ofAStarter},
	{"kill-worker", "worker", 0, 0, kill(workers), nil, ofAWorker},
	{"roll-starter", "starter", 0, 0, roll, nil, nothingTwice},
	{"stall-starter", "starter", 3 * second, 15 * second,
		func(h *hazard, s strike) error { return pick(h.starters, s).Signal(syscall.SIGSTOP) },
		func(_ context.Context, h *hazard, s strike) error {
			return pick(h.starters,
				s).Signal(syscall.SIGCONT)
		}, ofAStarter},
	{"kill-temporal", "engine", 0, 4 * second, func(h *hazard, _ strike) error { return h.stack.Temporal.Kill() },
		startTemporal, ofTheEngine},
	{"crash-temporals-postgres", "engine", 0, 4 * second,
		func(h *hazard, _ strike) error { return h.stack.EngineStore.Crash() },
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
		}, ofTheEngine},
	// It keeps every commit, and a mark whose answer is lost is written.
	{"crash-postgres", "database", 0, 4 * second,
		func(h *hazard, _ strike) error { return h.stack.Application.Crash() },
		func(ctx context.Context, h *hazard, _ strike) error { return h.stack.Application.Start(ctx) }, nothingTwice},

	onLink("cut-postgres", "link to postgres", postgres, (*faults.Link).Cut, nothingTwice),
	onLink("cut-temporal", "link to temporal", temporal, (*faults.Link).Cut, ofTheEngine),
	onLink("cut-sqs", "link to sqs", sqs, (*faults.Link).Cut, ofLostAnswers),
	onLink("swallow-postgres", "link to postgres", postgres, (*faults.Link).Swallow, nothingTwice),
	onLink("swallow-temporal", "link to temporal", temporal, (*faults.Link).Swallow, ofTheEngine),
	onLink("swallow-sqs", "link to sqs", sqs, (*faults.Link).Swallow, ofLostAnswers),
	onLink("deafen-postgres", "link to postgres", postgres, (*faults.Link).Deafen, nothingTwice),
	onLink("deafen-temporal", "link to temporal", temporal, (*faults.Link).Deafen,
		duplicates{risk: faults.EngineLost, after: silence}),
	// What is sent on a deaf connection later does not arrive.
	onLink("deafen-sqs", "link to sqs", sqs, (*faults.Link).Deafen, duplicates{risk: faults.AnswersLost, atOnce: true}),
	onLink("slow-postgres", "link to postgres", postgres, slow, nothingTwice),
	onLink("slow-temporal", "link to temporal", temporal, slow, ofTheEngine),
	// Slower, and well within a call's deadline.
	onLink("slow-sqs", "link to sqs", sqs, slow, nothingTwice),
	// Acts whose answers are lost. (For SQS that is lost-acks.)
	onLink("reset-postgres", "link to postgres", postgres, (*faults.Link).Reset, nothingTwice),
	onLink("reset-temporal", "link to temporal", temporal, (*faults.Link).Reset, ofTheEngine),

	atSQS("sqs-503", fakesqs.Fault{Error: &fakesqs.Error{Status: http.StatusServiceUnavailable,
		Code: "ServiceUnavailable", Message: "try again later"}}),
	atSQS("sqs-throttles", fakesqs.Fault{Error: &fakesqs.Error{Status: http.StatusBadRequest,
		Code: "ThrottlingException", Message: "Rate exceeded"}}),
	atSQS("sqs-slow", fakesqs.Fault{Delay: 1200 * time.Millisecond}),
	// SQS itself knows which answers it cut off.
	{"lost-acks", "sqs", 0, 0, loseAcks, nil, nothingTwice},
}

func kindNames() (names []string) {
	for _, k := range kinds {
		names = append(names, k.name)
	}
	return names
}

func starters(h *hazard) []*faults.Member { return h.starters }
func workers(h *hazard) []*faults.Member  { return h.workers }

func pick(members []*faults.Member, s strike) *faults.Member { return members[s.which%len(members)] }

func kill(among func(*hazard) []*faults.Member) func(*hazard, strike) error {
	return func(h *hazard, s strike) error { return pick(among(h), s).Kill() }
}

// roll stops a starter as a deployment does. In the midst of other faults it may
// end badly, which is worth a line, and is then what a kill is.
func roll(h *hazard, s strike) error {
	m, began := pick(h.starters, s), time.Now()
	if err := m.Terminate(); err != nil {
		h.say("roll-starter: it ended with: %v", err)
		h.cause(faults.Cause{Name: "roll-starter that ended badly", Risk: faults.ProcessLost, From: began,
			To: time.Now(), Caller: m.Name})
	}
	return nil
}

// startTemporal starts the server again and again, as a supervisor does: on a busy
// machine it gives up before its own parts are ready.
func startTemporal(ctx context.Context, h *hazard, _ strike) error {
	for {
		err := h.stack.Temporal.Start(ctx)
		if err == nil || !pause(ctx, second) {
			return err
		}
		h.say("%v", err)
	}
}

func postgres(h *hazard) *faults.Link { return h.Postgres }
func temporal(h *hazard) *faults.Link { return h.Temporal }
func sqs(h *hazard) *faults.Link      { return h.SQS }

func slow(l *faults.Link) error { return l.Slow(400 * time.Millisecond) }

func onLink(name, part string, link func(*hazard) *faults.Link, do func(*faults.Link) error, d duplicates) kind {
	return kind{name, part, second, 8 * second,
		func(h *hazard, _ strike) error { return do(link(h)) },
		func(_ context.Context, h *hazard, _ strike) error { return link(h).Heal() }, d}
}

// atSQS makes one queue or, one time in three, all of them fail.
func atSQS(name string, fault fakesqs.Fault) kind {
	return kind{name, "sqs", 2 * second, 12 * second,
		func(h *hazard, s strike) error {
			if s.which%3 > 0 {
				fault.Queue = h.queues[s.which%len(h.queues)]
			}
			h.Queues.Inject(fault)
			return nil
		},
		func(_ context.Context, h *hazard, _ strike) error { h.Queues.Heal(""); return nil }, nothingTwice}
}

// loseAcks resets the connection of the next few requests after SQS took their
// entries: each may come again. It adds them to what was in flight.
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

// Package scanner turns due messages into running workflows: it claims them
// and starts one Deliver each, many at once.
//
// The invariant: every message that the scanner claims is either started, or
// given back uncounted, or left to its lease, which runs out by itself. No
// database transaction is open across a call to Temporal, so a scanner that
// stops at any point loses nothing and blocks nobody.
//
// Any number of scanners share a table. Eager start, the fast path, needs a
// worker on the same client in the same process, started first.
package scanner

import (
	"cmp"
	"context"
	"log/slog"
	"maps"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"go.opentelemetry.io/otel/trace"
	"go.temporal.io/sdk/client"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/stall"
	"github.com/outflowhq/outflow/internal/tracing"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/workflows"
)

// Store is the table as the scanner uses it; outboxdb.Store is one. Every
// method is safe for concurrent use.
type Store interface {
	Claim(ctx context.Context, req outbox.ClaimRequest) (outbox.Claimed, error)
	// ClaimIsolated claims one suspect (see outbox.QuarantineClaims), or none.
	ClaimIsolated(ctx context.Context, lease time.Duration) ([]outbox.ClaimedMessage, error)
	// Release gives a claim back at once; Uncount leaves its lease.
	Release(ctx context.Context, m outbox.ClaimedMessage) error
	Uncount(ctx context.Context, m outbox.ClaimedMessage) error
	// Forget lets go of what this process keeps for a run of its own.
	Forget(ref outbox.Ref)

	Destinations
	Callbacks
	Identity
}

// Client is what the scanner needs of a Temporal client.
type Client interface {
	ExecuteWorkflow(ctx context.Context, options client.StartWorkflowOptions, workflow any, args ...any) (client.WorkflowRun, error)
	SignalWorkflow(ctx context.Context, workflowID, runID, signalName string, arg any) error
	stall.Client
}

// Options are optional; a zero field takes its default.
type Options struct {
	// Outbox is the first part of every workflow ID; default "outbox". Two
	// databases that share a Temporal namespace need two names.
	Outbox string
	// TaskQueue of the workflows; default workflows.TaskQueueFor(Outbox).
	TaskQueue string
	// PollInterval is the wait between two looks at an idle table, lengthened
	// by up to a tenth so that scanners drift apart; default 250 ms. After a look that
	// found something it is shortened by up to half: scanners that came to the end of
	// a backlog together would else look together for many seconds, as if they were
	// one. While there is a backlog the scanner does not wait for it.
	PollInterval time.Duration
	// InFlight bounds the messages between claim and the end of their fast
	// path in this process; default DefaultInFlight. Keep the worker's workflow-task slots
	// and local-activity slots at least as many (the SDK's default is 1,000).
	InFlight int
	// PerDestination bounds those of one target (see outbox.TargetOf), so that a slow
	// queue or host can't hold every slot; default half of InFlight. Destinations that no
	// message has reached yet have a quarter of InFlight together.
	PerDestination int
	// BytesInFlight bounds the payloads and headers of the messages in flight, in bytes;
	// default 64 MiB. One message more may be in flight, whatever its size. No target is
	// claimed for while it has half of what the others leave.
	BytesInFlight int
	// Refuse says why this process can't send to a destination, or nil; publish.Router's
	// Refusal is one. Its messages wait as rows, with no run, and are looked at again
	// after a minute. The default refuses none. It must be quick.
	Refuse func(destination string) error
	// Lease is how long a claimed message stays unclaimable; default 1 minute,
	// at least 30 seconds. A process that dies delays its messages by that.
	Lease time.Duration
	// ClaimBytes bounds the payloads of one claim; default 16 MiB.
	ClaimBytes int
	// Logger; default slog.Default().
	Logger *slog.Logger
	// TracerProvider records the spans of starts; default OpenTelemetry's global
	// provider, which records none unless somebody has set one up.
	TracerProvider trace.TracerProvider
}

// DefaultInFlight is the default of Options.InFlight.
const DefaultInFlight = 200

const (
	leastLease = 30 * time.Second
	// claimTimeout bounds a claim: a connection that went silent, and was never
	// closed, would hold the scanner for hours. What a claim took whose answer
	// came too late is left to its lease.
	claimTimeout = 10 * time.Second
	// claimGrace is what a claim under way has left when the scanner is to stop: cut
	// off, it might have taken messages that nobody knows of until their lease is over.
	claimGrace = 2 * time.Second
	// leastGap lies between two claims, whatever wakes the scanner: under a
	// backlog it lets slots come free, so that one claim fills many.
	leastGap = 20 * time.Millisecond
	// newcomersShare is the part of the slots that new destinations have together.
	newcomersShare = 4
	// refusalsEvery is how often refused destinations are logged.
	refusalsEvery = time.Minute
	// A claim of fewer than worthwhile messages (or a quarter of a destination's
	// slots) costs as much as one of many: under a backlog the next one then
	// waits for more slots, up to longGap.
	worthwhile = 20
	longGap    = 40 * time.Millisecond
	// aloneAtMost and tendAtMost bound how often suspects and troubled
	// destinations take the scanner's time.
	aloneAtMost = 5 * time.Second
	tendAtMost  = time.Second
)

func (o Options) withDefaults() Options {
	o.Outbox = cmp.Or(o.Outbox, outflow.DefaultOutbox)
	o.TaskQueue = cmp.Or(o.TaskQueue, workflows.TaskQueueFor(o.Outbox))
	o.PollInterval = cmp.Or(max(o.PollInterval, 0), 250*time.Millisecond)
	o.InFlight = cmp.Or(max(o.InFlight, 0), DefaultInFlight)
	o.PerDestination = min(cmp.Or(max(o.PerDestination, 0), (o.InFlight+1)/2), o.InFlight)
	o.BytesInFlight = cmp.Or(max(o.BytesInFlight, 0), 64<<20)
	o.Lease = max(cmp.Or(o.Lease, time.Minute), leastLease)
	o.ClaimBytes = cmp.Or(max(o.ClaimBytes, 0), 16<<20)
	o.Logger = cmp.Or(o.Logger, slog.Default())
	return o
}

// Scanner claims and starts. Make one with New; one Run at a time.
type Scanner struct {
	store  Store
	client Client
	opts   Options
	tracer tracing.Tracer

	wake  chan struct{}
	woken bool          // Run's own: a wake that no claim has answered in full
	freed chan struct{} // a slot came free

	mu        sync.Mutex
	open      map[string]int // messages in flight, by what they take a share of
	all       int            // their sum
	newcomers int            // those of new destinations
	bytes     int            // their payloads and headers
	bytesOf   map[string]int // the same by target
	starting  int            // those whose start has no answer yet

	database  brake // raised by claims
	temporal  brake // raised by starts
	plain     plainStarts
	elsewhere atomic.Bool    // the last run was taken by another process
	running   sync.WaitGroup // deliveries
	aside     sync.WaitGroup // what goes on beside them: tending, sweeping

	meetings  meetings    // starts that met a run
	tending   atomic.Bool // troubled destinations are being looked after
	owed      []owed      // whoever tends has them
	owes      atomic.Bool // there are any
	sweeping  atomic.Bool // due callbacks are
	troubled  bool        // at the last claim; Run's own, as the next three
	nextTend  time.Time
	nextAlone time.Time
	nextSweep time.Time
	refused   refusals // Run's own
}

// New returns a Scanner over a store and a Temporal client.
func New(store Store, c Client, opts Options) *Scanner {
	return &Scanner{
		store: store, client: c, opts: opts.withDefaults(), tracer: tracing.Tracer{Provider: opts.TracerProvider},
		wake: make(chan struct{}, 1), freed: make(chan struct{}, 1),
		open: make(map[string]int), bytesOf: make(map[string]int),
	}
}

// Wake asks for a look at the table now: call it after the commit of a
// transaction that enqueued. It never blocks, and many calls make one look.
func (s *Scanner) Wake() { notify(s.wake) }

// Run claims and starts until ctx ends. Then it waits for the starts under way
// and for this process's open fast paths, at most about 20 seconds, and returns
// nil. Keep the worker running until Run has returned.
func (s *Scanner) Run(ctx context.Context) error {
	// Starts outlive ctx: a started message must not be given back.
	starts, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	for ctx.Err() == nil {
		began := time.Now()
		claimed := s.claim(ctx)
		s.refused.note(s.opts.Logger, claimed.Refused)
		s.begin(starts, claimed.Messages)
		if claimed.BreakerActive || s.owes.Load() {
			s.tend(ctx)
		}
		if claimed.QuarantinedDue {
			s.deliverAlone(ctx, starts)
		}
		s.sweep(ctx)
		s.rest(ctx, began, claimed)
	}
	s.drain(stop)
	return nil
}

// begin starts the runs of claimed messages.
func (s *Scanner) begin(starts context.Context, messages []outbox.ClaimedMessage) {
	for _, m := range messages {
		s.take(m)
		s.running.Go(func() {
			defer s.free(m)
			s.deliver(starts, m)
		})
	}
}

// deliverAlone takes one suspect to its end, or off the fast path, with nothing
// else in flight here. That holds the others up for a moment, and so comes once
// in aloneAtMost.
func (s *Scanner) deliverAlone(ctx, starts context.Context) {
	if time.Now().Before(s.nextAlone) {
		return
	}
	s.running.Wait()
	if ctx.Err() != nil {
		return
	}
	inTime, cancel := forAClaim(ctx)
	defer cancel()
	claimed, err := s.store.ClaimIsolated(inTime, s.opts.Lease)
	if err != nil {
		s.opts.Logger.Error("claiming a suspect", "error", err)
	}
	for _, m := range claimed {
		s.opts.Logger.Warn("delivering a message alone: the process ended without a word whenever somebody had it",
			"message", m.ID, "destination", outflow.DisplayDestination(m.Destination), "times", m.Claims-1)
	}
	s.begin(starts, claimed)
	s.running.Wait()
	s.nextAlone = time.Now().Add(aloneAtMost)
}

// forAClaim is the context of one claim.
func forAClaim(ctx context.Context) (context.Context, context.CancelFunc) {
	inTime, cancel := context.WithTimeout(context.WithoutCancel(ctx), claimTimeout)
	stop := context.AfterFunc(ctx, func() { time.AfterFunc(claimGrace, cancel) })
	return inTime, func() { stop(); cancel() }
}

// claim asks for as many messages as there are free slots; for one, and only
// when no start is under way, while Temporal is in trouble.
func (s *Scanner) claim(ctx context.Context) outbox.Claimed {
	s.mu.Lock()
	room, starting := s.opts.InFlight-s.all, s.starting
	open := maps.Clone(s.open)
	for target, own := range s.bytesOf {
		// A slow target with large payloads leaves room for others: it has half of what
		// they leave at most, and what one claim brings more.
		if own >= (s.opts.BytesInFlight-s.bytes+own)/2 {
			open[target] = max(open[target], s.opts.PerDestination)
		}
	}
	newcomers := max(s.opts.InFlight/newcomersShare, 1) - s.newcomers
	bytes := min(s.opts.BytesInFlight-s.bytes, s.opts.ClaimBytes)
	s.mu.Unlock()
	if bytes < 1 {
		room = 0
	}
	if newcomers < 1 {
		newcomers = -1
	}
	raised, left := s.temporal.state()
	if left > 0 {
		room = 0
	} else if raised {
		room = min(room, 1-starting)
	}
	if room < 1 { // what is troubled needs no slot to be probed and told
		return outbox.Claimed{Backlog: true, BreakerActive: s.troubled && !raised}
	}
	inTime, cancel := forAClaim(ctx)
	defer cancel()
	claimed, err := s.store.Claim(inTime, outbox.ClaimRequest{
		Lease: s.opts.Lease, MaxMessages: room, MaxBytes: bytes,
		Allowance: s.opts.PerDestination, Open: open, Newcomers: newcomers, Refuse: s.opts.Refuse, Ramp: true,
	})
	if claimed.Problem != nil {
		s.opts.Logger.Warn("beside claiming messages", "error", claimed.Problem)
	}
	switch {
	case err == nil:
		s.database.succeeded()
		s.troubled = claimed.BreakerActive
	case ctx.Err() == nil:
		s.database.failed()
		s.opts.Logger.Error("claiming messages", "error", err)
	}
	return claimed
}

// rest waits until the next claim is worth making.
func (s *Scanner) rest(ctx context.Context, began time.Time, claimed outbox.Claimed) {
	if s.database.rest(ctx) || s.temporal.rest(ctx) {
		return
	}
	poll := s.pollAfter(claimed)
	freed := s.freed
	switch {
	case !claimed.Backlog:
		freed = nil // there is nothing that a slot could be used for
	case len(claimed.Messages) > 0:
		poll = 0
	}
	if claimed.NewDestinationsIn > 0 && (s.woken || claimed.MoreDestinations) {
		// What somebody woke it for may have been overlooked: the wake stands. And of
		// many destinations the next look sees others.
		poll = min(poll, claimed.NewDestinationsIn)
	} else {
		s.woken = false
	}
	timer := time.NewTimer(poll)
	defer timer.Stop()
	select {
	case <-ctx.Done():
		return
	case <-timer.C:
	case <-s.wake:
		s.woken = true
	case <-freed:
	}
	gap := leastGap
	if claimed.Backlog && len(claimed.Messages) < min(worthwhile, s.opts.PerDestination/4) && s.allBusy(claimed.Messages) {
		gap = longGap
	}
	sleep(ctx, gap-time.Since(began))
}

// pollAfter is the wait for the next poll.
func (s *Scanner) pollAfter(claimed outbox.Claimed) time.Duration {
	by := 0.1
	if len(claimed.Messages) > 0 {
		by = -0.5
	}
	return s.opts.PollInterval + time.Duration(rand.Float64()*by*float64(s.opts.PollInterval))
}

// allBusy reports whether every message is of a target that has many in flight:
// others' must not wait because of its backlog.
func (s *Scanner) allBusy(messages []outbox.ClaimedMessage) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return !slices.ContainsFunc(messages, func(m outbox.ClaimedMessage) bool {
		return s.open[outbox.TargetOf(m.Destination)] < s.opts.PerDestination/2
	})
}

// drain waits for what is in flight, first leaving the starts their time.
func (s *Scanner) drain(stopStarts func()) {
	done := make(chan struct{})
	go func() {
		s.running.Wait()
		s.aside.Wait()
		close(done)
	}()
	timer := time.AfterFunc(startTimeout/2, stopStarts)
	defer timer.Stop()
	<-done
}

func (s *Scanner) take(m outbox.ClaimedMessage) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.count(m, 1)
	s.starting++
}

// count runs under the lock; by is 1 or -1.
func (s *Scanner) count(m outbox.ClaimedMessage, by int) {
	for _, name := range m.Shares {
		if s.open[name] += by; s.open[name] == 0 {
			delete(s.open, name)
		}
	}
	if m.Newcomer {
		s.newcomers += by
	}
	s.bytes += by * m.Bytes()
	target := outbox.TargetOf(m.Destination)
	if s.bytesOf[target] += by * m.Bytes(); s.bytesOf[target] == 0 {
		delete(s.bytesOf, target)
	}
	s.all += by
}

// started notes that a start has its answer.
func (s *Scanner) started() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.starting--
}

func (s *Scanner) free(m outbox.ClaimedMessage) {
	s.mu.Lock()
	s.count(m, -1)
	s.mu.Unlock()
	notify(s.freed)
}

func notify(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

func sleep(ctx context.Context, d time.Duration) {
	if d <= 0 {
		return
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-ctx.Done():
	case <-timer.C:
	}
}

// Package scanner turns due messages into running workflows: it claims many at once, and starts
// one Deliver for each.
//
// The invariant: every message that the scanner claims is either started, or given back
// uncounted, or left to its lease, which ends by itself. No database transaction is open across a
// call to Temporal. So a scanner that stops at any point loses nothing and blocks nobody.
//
// Any number of scanners share a table. Eager start, the fast path, needs a worker on the same
// client in the same process, started first.
package scanner

import (
	"cmp"
	"context"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
	"go.temporal.io/sdk/client"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/metrics"
	"github.com/outflowhq/outflow/internal/presence"
	"github.com/outflowhq/outflow/internal/stall"
	"github.com/outflowhq/outflow/internal/timing"
	"github.com/outflowhq/outflow/internal/tracing"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/workflows"
)

// Store is the table as the scanner uses it. outboxdb.Store implements it. Every method is safe
// for concurrent use.
type Store interface {
	Claim(ctx context.Context, req outbox.ClaimRequest) (outbox.Claimed, error)
	// ClaimIsolated claims one quarantined message (see outbox.QuarantineClaims), or none.
	ClaimIsolated(ctx context.Context, lease time.Duration) ([]outbox.ClaimedMessage, error)
	// GiveBack ends a claim for which this process started no run, or none that came here.
	GiveBack(ctx context.Context, m outbox.ClaimedMessage, why outbox.GiveBackReason) error

	Breakers
	// TakeCallbacks leases up to limit due callbacks that no run has in hand.
	TakeCallbacks(ctx context.Context, limit int, lease time.Duration) ([]outbox.DueCallback, error)
	// DatabaseID tells this database from every other one. It is read once.
	DatabaseID(ctx context.Context) (uuid.UUID, error)
	Processes
	Order
	Streams
}

// Order releases messages that waited for another of their ordering key.
type Order interface {
	// ReleaseDeferred releases those that nobody could release in time, and reports whether some are
	// left.
	ReleaseDeferred(ctx context.Context) (left bool, err error)
	// OnRelease has released called after each release by this process. released does not block.
	OnRelease(released func())
}

// Processes are the entries of running processes in the table.
type Processes interface {
	// Announce writes this process's entry. It is repeated every outbox.AnnounceInterval.
	Announce(ctx context.Context, p outbox.Process) error
	// Withdraw removes it, at the end of Run.
	Withdraw(ctx context.Context, id uuid.UUID) error
}

// Client is what the scanner needs of a Temporal client.
type Client interface {
	ExecuteWorkflow(
		ctx context.Context, options client.StartWorkflowOptions, workflow any, args ...any,
	) (client.WorkflowRun, error)
	SignalWorkflow(ctx context.Context, workflowID, runID, signalName string, arg any) error
	stall.Client
}

// Options are optional. A zero field takes its default.
type Options struct {
	// Outbox is the first part of every workflow ID; default "outbox". Two databases that share
	// a Temporal namespace need two names.
	Outbox string
	// TaskQueue of the workflows; default workflows.TaskQueueFor(Outbox).
	TaskQueue string
	// PollInterval is the wait between two claims of an idle scanner; default 250 ms. It is
	// lengthened by up to a tenth, so that scanners drift apart. After a claim that found messages
	// it is shortened by up to half: scanners that reached the end of a backlog together would
	// else claim together for many seconds. Under a backlog the scanner does not wait for it.
	// While a Trigger works, an idle scanner waits for it or for the next message that is due, and
	// claims after PollInterval at the latest; then the default is a minute. While the Trigger does
	// not work, it polls every 250 ms, or every PollInterval where that is shorter.
	PollInterval time.Duration
	// Trigger tells of new messages; package trigger has some. nil: the scanner polls.
	Trigger Trigger
	// InFlight bounds the messages between claim and the end of their fast path in this process;
	// default DefaultInFlight. Keep the worker's workflow-task slots and local-activity slots at
	// least as many (the SDK's default is 1,000).
	InFlight int
	// PerDestination bounds the messages in flight of one target (see outbox.TargetOf), so that a
	// slow queue or host can't hold every slot; default half of InFlight. Destinations that no
	// message has reached yet have a quarter of InFlight together.
	PerDestination int
	// BytesInFlight bounds the payloads and headers of the messages in flight, in bytes; default
	// 64 MiB. One message more may be in flight, whatever its size. A target that has half of
	// what the others leave is not claimed for.
	BytesInFlight int
	// Refuse says why this process can't send to a destination, or returns nil. publish.Router's
	// Refusal is such a function. Refused messages wait as rows, without a run, for a minute at a
	// time. An error that wraps outflow.ErrNoPublisher leaves them to processes that publish to the
	// scheme, or to MissingGrace. The default refuses none. Refuse must be quick.
	Refuse func(destination string) error
	// Schemes are those that this process publishes to, such as publish.Router's Schemes. Other
	// processes and "outflow doctor" know it by them. nil: the process does not say, and counts as
	// one that publishes to every scheme. Set them beside Refuse: else messages of a scheme that no
	// process publishes to wait for this one, without an end.
	Schemes []string
	// Check looks up a destination that did not exist, and is called every few seconds while
	// messages wait for it. publish.Router's Check is such a function. Without it one of the
	// messages is sent each time.
	Check func(ctx context.Context, destination string) error
	// MissingGrace is how long messages wait, from when they were due, for a destination that does
	// not exist, or for a process that publishes to their scheme, before they end dead. Zero:
	// outflow.DefaultMissingGrace; less than zero: they end at once. Give the activities the same
	// (activities.WithMissingGrace).
	MissingGrace time.Duration
	// StreamAbove has a stream started for a destination with more due messages than this, unless the
	// destination has a bound of its own; default 0: none is started. A stream delivers them by one run
	// instead of a run each, a hundred times as fast. It needs a worker that takes streams
	// (dispatcher.Options.Streams, workflows.RegisterStream).
	StreamAbove int
	// Lease is how long a claimed message stays unclaimable; default 1 minute, at least 30
	// seconds. A process that crashes delays its messages by that.
	Lease time.Duration
	// ClaimBytes bounds the payloads and headers of one claim, in bytes; default 16 MiB.
	ClaimBytes int
	// Logger; default slog.Default().
	Logger *slog.Logger
	// TracerProvider records the spans of starts; default OpenTelemetry's global provider, which
	// records none unless the program has set one up.
	TracerProvider trace.TracerProvider
	// MeterProvider records the metrics of claims and starts; default OpenTelemetry's global
	// provider, which records none unless the program has set one up.
	MeterProvider metric.MeterProvider
}

// DefaultInFlight is the default of Options.InFlight.
const DefaultInFlight = 200

// minLease has room for a start (10 s), and for the 15 s of lease that outboxdb wants a message to
// have left when its run takes it over. A message with less is loaded again before it is published.
// The default is twice as long, so that a slow start costs no load.
const minLease = 30 * time.Second

func (o Options) withDefaults() Options {
	o.Outbox = cmp.Or(o.Outbox, outflow.DefaultOutbox)
	o.TaskQueue = cmp.Or(o.TaskQueue, workflows.TaskQueueFor(o.Outbox))
	o.PollInterval = max(o.PollInterval, 0)
	o.InFlight = cmp.Or(max(o.InFlight, 0), DefaultInFlight)
	o.PerDestination = min(cmp.Or(max(o.PerDestination, 0), (o.InFlight+1)/2), o.InFlight)
	o.BytesInFlight = cmp.Or(max(o.BytesInFlight, 0), 64<<20)
	o.Lease = max(cmp.Or(o.Lease, time.Minute), minLease)
	o.MissingGrace = max(cmp.Or(o.MissingGrace, outflow.DefaultMissingGrace), 0)
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
	record *metrics.Recorder

	slots      *slots
	running    sync.WaitGroup // deliveries
	background sync.WaitGroup // recovery, starts of callbacks, releases, checks of stalled runs

	database backpressure // from claims
	temporal backpressure // from starts
	plain    plainStarts
	remotely atomic.Bool // the last run was taken by another process

	wake      chan struct{}
	hints     chan int // how often each was passed on
	passing   periodic
	recovery  recovery
	looks     periodic
	callbacks periodic
	deferred  periodic
	streams   periodic
	// streamPause lies between the last look for streams and the next one, as a time.Duration.
	streamPause atomic.Int64
	streaming   map[string]time.Time // of streams: when each was seen to run already
	pages       periodic
	collisions  collisions

	// Run's own.
	trigger       string // why it claims: "poll", "wake", "hint" or "slot"
	rest          rest
	pollBy        time.Time // when a poll is due, after claims that did not look for destinations
	wakePending   bool      // no claim has answered the last wake in full
	breakerActive bool      // at the last claim
	nextIsolated  time.Time
	refused       minuteLog
	missing       minuteLog
	givenUp       minuteLog
}

// New returns a Scanner over a store and a Temporal client.
func New(store Store, c Client, opts Options) *Scanner {
	opts = opts.withDefaults()
	s := &Scanner{
		store: store, client: c, opts: opts, tracer: tracing.Tracer{Provider: opts.TracerProvider},
		record: metrics.New(opts.MeterProvider), trigger: "poll",
		slots: newSlots(opts), wake: make(chan struct{}, 1), hints: make(chan int, 1),
	}
	s.rest.s = s
	store.OnRelease(s.Wake)
	return s
}

// Wake asks for a claim now: call it after the commit of a transaction that enqueued. It never
// blocks, and many calls make one claim.
func (s *Scanner) Wake() { notify(s.wake) }

// Run claims and starts until ctx ends. Then it waits for the starts under way and for this
// process's open fast paths, at most about 20 seconds, and returns nil. Keep the worker running
// until Run has returned.
func (s *Scanner) Run(ctx context.Context) error {
	// Starts outlive ctx: a started message must not be given back.
	starts, stop := context.WithCancel(context.WithoutCancel(ctx))
	defer stop()
	if s.opts.Refuse != nil && s.opts.Schemes == nil {
		s.opts.Logger.Warn("Options.Refuse is set and Options.Schemes is not: " +
			"messages to a scheme that no process publishes to wait without an end")
	}
	defer s.runTrigger(ctx)()
	defer presence.Keep(ctx, s.store, s.describe, s.opts.Logger)()
	for ctx.Err() == nil {
		began := time.Now()
		claimed := s.claim(ctx)
		s.noteWaiting(claimed)
		s.startStreams(ctx, claimed)
		s.startAll(starts, claimed.Messages)
		if claimed.BreakerActive || s.recovery.hasUnsignalled() {
			s.recover(ctx)
			s.look(ctx)
		}
		if claimed.QuarantinedDue {
			s.deliverIsolated(ctx, starts)
		}
		s.startDueCallbacks(ctx)
		s.releaseDeferred(ctx, claimed.Deferred)
		s.freeLostPages(ctx)
		s.passOn(ctx, claimed)
		s.awaitNextClaim(ctx, began, claimed)
	}
	s.drain(stop)
	return nil
}

// drain waits for what is in flight. Starts are cut off after StopStarts.
func (s *Scanner) drain(stopStarts func()) {
	timer := time.AfterFunc(timing.StopStarts, stopStarts)
	defer timer.Stop()
	s.running.Wait()
	s.background.Wait()
}

// periodic limits work in the background: one goroutine at a time, begun once an interval.
type periodic struct {
	busy  atomic.Bool
	began time.Time // Run's own
}

// begin reports whether the work may begin now. The worker ends it with done.
func (p *periodic) begin(interval time.Duration) bool {
	if time.Since(p.began) < interval || !p.busy.CompareAndSwap(false, true) {
		return false
	}
	p.began = time.Now()
	return true
}

func (p *periodic) done() { p.busy.Store(false) }

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

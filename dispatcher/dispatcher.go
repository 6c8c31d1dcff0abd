// Package dispatcher runs Outflow inside your program: a scanner, and a Temporal worker for its
// deliveries, in one call.
//
//	d, err := dispatcher.New(dispatcher.Options{
//		Pool: pool, Client: temporalClient,
//		Publishers: []publish.Publisher{awssqs.New(sqsClient)},
//	})
//	err = d.Run(ctx) // until ctx ends
//
// Call d.Wake after the commit of a transaction that enqueued: the scanner then claims at once,
// without waiting for its next poll. Your own workflows and activities can share the worker: see
// Options.Register.
//
// The invariant: the worker starts before the scanner, and stops after the scanner's starts have
// ended, with time to write the ends of published messages. So the end of the program sends no
// message twice.
package dispatcher

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/jackc/pgx/v5/pgxpool"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/activities"
	"github.com/outflowhq/outflow/internal/callbacks"
	"github.com/outflowhq/outflow/internal/metrics"
	"github.com/outflowhq/outflow/outboxdb"
	"github.com/outflowhq/outflow/publish"
	"github.com/outflowhq/outflow/scanner"
	"github.com/outflowhq/outflow/scanner/trigger"
	"github.com/outflowhq/outflow/workflows"
)

// Options are the required Pool, Client and Publishers, and optional settings. The Dispatcher
// closes none of them.
type Options struct {
	// Pool connects to the migrated database of the outbox (outboxdb/migrate). Ten connections are
	// enough for a busy program.
	Pool *pgxpool.Pool
	// Client starts the deliveries. The worker uses the same one: eager start needs that.
	Client client.Client
	// Publishers has at least one publisher, and at most one for each scheme. A webhook.Publisher
	// also sends callbacks to https URLs.
	Publishers []publish.Publisher

	// Scanner has the outbox's name, the task queue, the bounds of messages in flight, the grace for
	// missing destinations, the Logger and the providers of OpenTelemetry. A zero field takes its
	// default.
	Scanner scanner.Options
	// Trigger wakes the scanner within milliseconds of a commit: trigger.Listen or trigger.WAL. Empty:
	// the scanner polls, and Wake wakes it.
	Trigger trigger.Kind
	// ListenOn has the settings of the Trigger's own direct connections. nil: those of Pool, which must
	// not lead to a transaction pooler then.
	ListenOn *pgxpool.Config
	// PassDead has a message that ends dead let the next one of its ordering key go. Otherwise it
	// blocks the key, until an operator retries, redirects or skips it.
	PassDead bool
	// Streams is how many streams this program takes at once, each on some four connections of Pool and
	// with up to 64 MiB of payloads together; default 0: none, while a daemon takes 4. Scanner.StreamAbove
	// says when one is started: without a program that takes it, a backlog waits 15 s for it first.
	Streams int
	// Worker has options for the worker. A zero field takes the value that Outflow needs. New warns
	// of options with which messages would be published twice.
	Worker worker.Options
	// Register registers your own workflows and activities with the same worker, and so on
	// Outflow's task queue. It may be nil.
	Register func(worker.Registry)

	// Retention is how long final messages stay in the table, such as outflow.DefaultRetention().
	// Zero: they stay forever. Otherwise a Temporal schedule in Namespace purges every five
	// minutes.
	Retention outflow.Retention
	// Namespace is the Client's namespace, which a Client does not reveal. Only Retention needs it.
	Namespace string
}

// Dispatcher claims, starts and publishes messages. New makes one. Call Run once at a time.
type Dispatcher struct {
	opts       Options
	store      *outboxdb.Store
	activities *activities.Activities
	streams    *activities.Streams
	scanner    *scanner.Scanner
}

// New checks the options and connects to nothing. Its error joins one error for each option that is
// missing or wrong.
func New(opts Options) (*Dispatcher, error) {
	router := publish.NewRouter(opts.Publishers...)
	if err := errors.Join(opts.check(), router.Err()); err != nil {
		return nil, fmt.Errorf("dispatcher.Options: %w", err)
	}
	opts.complete()
	if opts.Scanner.Refuse == nil {
		opts.Scanner.Refuse = router.Refusal
	}
	if opts.Scanner.Check == nil {
		opts.Scanner.Check = router.Check
	}
	opts.Scanner.Schemes = router.Schemes()
	var order []outboxdb.Option
	if opts.PassDead {
		order = append(order, outboxdb.PassDead())
	}
	d := &Dispatcher{opts: opts, store: outboxdb.New(opts.Pool, order...)}
	d.activities = activities.New(d.store, router,
		activities.WithCallbacks(callbacks.New(opts.Publishers, router)),
		activities.WithTracerProvider(opts.Scanner.TracerProvider),
		activities.WithMeterProvider(opts.Scanner.MeterProvider),
		activities.WithMissingGrace(opts.Scanner.MissingGrace),
		activities.LogTo(opts.Scanner.Logger), activities.ForOutbox(opts.Scanner.Outbox))
	d.streams = activities.NewStreams(d.activities, d.store, router)
	if opts.Trigger.Hints() {
		opts.Scanner.Trigger = trigger.New(opts.Trigger, d.store,
			trigger.Options{Connect: trigger.OfPool(cmp.Or(opts.ListenOn, opts.Pool.Config())), Logger: opts.Scanner.Logger})
	}
	d.scanner = scanner.New(d.store, opts.Client, opts.Scanner)
	opts.Scanner.Logger.Info("outflow publishes to these schemes", "schemes", router.Schemes())
	return d, nil
}

func (o *Options) check() error {
	var errs []error
	for _, c := range []struct {
		wrong         bool
		option, wants string
	}{
		{o.Pool == nil, "Pool", "the pool of the database with the outbox"},
		{o.Client == nil, "Client", "a Temporal client"},
		{len(o.Publishers) == 0, "Publishers", "at least one, such as awssqs.New(sqsClient)"},
		{
			o.Trigger != "" && !slices.Contains(trigger.Kinds(), o.Trigger), "Trigger",
			"trigger.Poll, trigger.Listen or trigger.WAL",
		},
		{
			o.Retention != (outflow.Retention{}) && o.Namespace == "", "Namespace",
			`the Client's namespace, such as "default", because Retention is set`,
		},
		{o.Worker.DisableWorkflowWorker, "Worker.DisableWorkflowWorker", "false: deliveries are workflows"},
	} {
		if c.wrong {
			errs = append(errs, fmt.Errorf("%s: wants %s", c.option, c.wants))
		}
	}
	return errors.Join(errs...)
}

// Wake asks for a claim now. It never blocks, and many calls make one claim.
func (d *Dispatcher) Wake() { d.scanner.Wake() }

// Run delivers until ctx ends. Then it claims no more, waits at most about a minute for messages
// under way, and returns nil. It returns an error before that where
//   - the database can't be reached or lacks the outbox;
//   - the worker does not start, or ends by itself.
func (d *Dispatcher) Run(ctx context.Context) error {
	if err := d.store.Ping(ctx); err != nil {
		return err
	}
	if _, err := d.store.DatabaseID(ctx); err != nil {
		return err
	}
	ctx, fail := context.WithCancelCause(ctx)
	defer fail(nil)
	ended := func(err error) { fail(&workerError{err}) }
	workers := []worker.Worker{d.newWorker(ended)}
	if d.opts.Streams > 0 {
		workers = append(workers, d.newStreamWorker(ended))
	}
	stopWorkers, err := startAll(workers)
	defer stopWorkers() // after the scanner: they publish what the scanner has started
	if err != nil {
		return fmt.Errorf("starting the worker: %w", err)
	}
	stop, err := metrics.WatchTable(d.opts.Scanner.MeterProvider, d.store, d.opts.Scanner.Logger)
	if err != nil {
		d.opts.Scanner.Logger.Warn("the outbox table has no metrics", "error", err)
	} else {
		defer stop()
	}
	defer d.keepSchedule(ctx)()
	if err := d.scanner.Run(ctx); err != nil {
		return err
	}
	var failed *workerError
	if errors.As(context.Cause(ctx), &failed) {
		return failed
	}
	return nil
}

// workerError is the end of a worker that ended by itself.
type workerError struct{ err error }

func (e *workerError) Error() string { return "running the worker: " + e.err.Error() }
func (e *workerError) Unwrap() error { return e.err }

// newWorker returns a worker with all workflows and activities registered.
func (d *Dispatcher) newWorker(fail func(error)) worker.Worker {
	options := d.opts.Worker
	own := options.OnFatalError
	options.OnFatalError = func(err error) {
		fail(err)
		if own != nil {
			own(err)
		}
	}
	w := worker.New(d.opts.Client, d.opts.Scanner.TaskQueue, options)
	workflows.Register(w, d.activities)
	workflows.RegisterMaintain(w, activities.NewMaintenance(d.store,
		activities.MaintainOutbox(d.opts.Scanner.Outbox),
		activities.MaintainMeterProvider(d.opts.Scanner.MeterProvider)))
	if d.opts.Register != nil {
		d.opts.Register(w)
	}
	return w
}

// Package service composes Outflow's programs out of its parts. It is the only
// place that sees them all.
//
// The invariant: what is opened here is closed here, in the order that loses
// nothing: first the claiming, then the starts in flight, then the worker with
// what it still publishes, last the connections.
package service

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"go.temporal.io/sdk/client"
	sdklog "go.temporal.io/sdk/log"
	"go.temporal.io/sdk/worker"

	"github.com/outflowhq/outflow/activities"
	"github.com/outflowhq/outflow/internal/brokers"
	"github.com/outflowhq/outflow/internal/callbacks"
	"github.com/outflowhq/outflow/internal/config"
	"github.com/outflowhq/outflow/internal/metrics"
	"github.com/outflowhq/outflow/internal/telemetry"
	"github.com/outflowhq/outflow/internal/timing"
	"github.com/outflowhq/outflow/outboxdb"
	"github.com/outflowhq/outflow/publish"
	"github.com/outflowhq/outflow/scanner"
	"github.com/outflowhq/outflow/workflows"
)

const (
	// slots are the workflow-task and local-activity slots of a worker: the
	// SDK's default, and no less than a scanner's messages in flight.
	slots = 1000
	// connections are the database's, unless the URL names pool_max_conns: the
	// coalesced statements, the claim and the durable attempts.
	connections = 10
	// ping bounds the pool's look whether an idle connection still answers; its
	// default is to wait for ever.
	ping = time.Second
	// keepAlive and keepAliveAnswer bound how long a connection to Temporal that
	// went silent, and was never closed, is believed in. The SDK's defaults of 30
	// and 15 seconds outlive a lease. A server refuses more than one ping in ten
	// seconds (frontend.keepAliveMinTime).
	keepAlive       = 15 * time.Second
	keepAliveAnswer = 5 * time.Second
)

// parts are what a starter and a worker have in common.
type parts struct {
	pool   *pgxpool.Pool
	client client.Client
	store  *outboxdb.Store
	worker worker.Worker
	fatal  chan error
	spans  *telemetry.Spans
	// metrics are nil where none are collected.
	metrics *telemetry.Metrics
	// unwatch ends the table's metrics; nil where there are none.
	unwatch func()
	opts    scanner.Options
	log     *slog.Logger
}

// The names that the programs have in traces, unless OTEL_SERVICE_NAME says another.
const (
	nameStarter = "outflow-starter"
	nameWorker  = "outflow-worker"
)

// open connects to everything and starts the worker, or fails at once. name is the
// program's.
func open(ctx context.Context, c config.Config, name string, log *slog.Logger) (*parts, error) {
	return startup{log: log, once: true}.open(ctx, c, name)
}

// open connects to everything and starts the worker.
func (s startup) open(ctx context.Context, c config.Config, name string) (_ *parts, err error) {
	log := s.log
	c.WarnTo(log)
	p := &parts{metrics: s.metrics, fatal: make(chan error, 1), opts: c.Scanner, log: log}
	defer func() {
		if err != nil {
			p.close()
		}
	}()
	if p.spans, err = telemetry.Start(ctx, c.Traces, name, log); err != nil {
		log.Warn("no spans are exported", "error", err)
	}
	if c.Database.MaxConns < connections && !strings.Contains(c.Database.ConnString(), "pool_max_conns") {
		c.Database.MaxConns = connections
	}
	if c.Database.PingTimeout == 0 {
		c.Database.PingTimeout = ping
	}
	if p.pool, err = pgxpool.NewWithConfig(ctx, c.Database); err != nil {
		return nil, fmt.Errorf("opening the database: %w", err)
	}
	p.store = outboxdb.New(p.pool)
	if s.metrics != nil && name == nameStarter { // many workers need not all ask the same
		if p.unwatch, err = metrics.WatchTable(nil, p.store, log); err != nil {
			return nil, err
		}
	}
	if err := s.reachDatabase(ctx, p); err != nil {
		return nil, err
	}
	if c.Temporal.ConnectionOptions.GrpcCompression == nil {
		// Requests are some hundred bytes: compressing them, the SDK's default, saves nothing.
		c.Temporal.ConnectionOptions.GrpcCompression = &client.GrpcCompressionNone{}
	}
	if c.Temporal.ConnectionOptions.KeepAliveTime == 0 {
		c.Temporal.ConnectionOptions.KeepAliveTime, c.Temporal.ConnectionOptions.KeepAliveTimeout = keepAlive, keepAliveAnswer
	}
	c.Temporal.Logger = sdklog.NewStructuredLogger(log)
	c.Temporal.MetricsHandler = s.metrics.Temporal()
	if p.client, err = s.dial(ctx, c.Temporal); err != nil {
		return nil, err
	}
	publishers := brokers.Publishers(c.Brokers)
	router := publish.NewRouter(publishers...)
	if err := router.Err(); err != nil {
		return nil, err
	}
	p.opts.Refuse = router.Refusal
	logSchemes(router, c, log)
	outbox := outboxName(c.Scanner)
	publisher := publish.Watch(router, log)
	acts := activities.New(p.store, publisher, activities.WithCallbacks(callbacks.New(publishers, publisher)), activities.ForOutbox(outbox), activities.LogTo(p.log))
	// The SDK starts a worker once, so that each try has a new one.
	err = s.until(ctx, partTemporal, func(context.Context) error {
		w := worker.New(p.client, taskQueue(c.Scanner), workerOptions(c, p.fatal))
		workflows.Register(w, acts)
		workflows.RegisterMaintain(w, activities.NewMaintenance(p.store, activities.MaintainOutbox(outbox)))
		if err := w.Start(); err != nil {
			return fmt.Errorf("starting the worker: %w", err)
		}
		p.worker = w
		return nil
	}, temporalRefuses)
	if err != nil {
		return nil, err
	}
	return p, nil
}

// logSchemes says at the start which destinations are served.
func logSchemes(router *publish.Router, c config.Config, log *slog.Logger) {
	log.Info("publishing to these schemes", "schemes", router.Schemes())
	for _, b := range c.Brokers {
		if b.Waiting != "" {
			log.Info(b.Waiting)
		}
	}
}

func workerOptions(c config.Config, fatal chan<- error) worker.Options {
	return worker.Options{
		WorkerStopTimeout:                       stopTimeout(c),
		MaxConcurrentWorkflowTaskExecutionSize:  slots,
		MaxConcurrentLocalActivityExecutionSize: slots,
		WorkflowTaskPollerBehavior:              worker.NewPollerBehaviorAutoscaling(worker.PollerBehaviorAutoscalingOptions{}),
		ActivityTaskPollerBehavior:              worker.NewPollerBehaviorAutoscaling(worker.PollerBehaviorAutoscalingOptions{}),
		MaxHeartbeatThrottleInterval:            timing.HeartbeatThrottle,
		OnFatalError:                            func(err error) { fatal <- err },
	}
}

// stopTimeout has room for the longest call of a durable attempt, and for its end. The SDK's
// default of 0 leaves publishes without their marks, and another worker publishes again.
func stopTimeout(c config.Config) time.Duration {
	var longest time.Duration
	for _, b := range c.Brokers {
		longest = max(longest, b.Timeout)
	}
	return longest + timing.StopCalls
}

// close stops the worker, then lets go of the connections. The spans of what it
// still did go last.
func (p *parts) close() {
	if p.worker != nil {
		p.worker.Stop()
	}
	if p.client != nil {
		p.client.Close()
	}
	if p.unwatch != nil {
		p.unwatch()
	}
	if p.pool != nil {
		p.pool.Close()
	}
	var stopping sync.WaitGroup // at once: they share their time
	stopping.Go(p.spans.Stop)
	stopping.Go(p.metrics.Stop)
	stopping.Wait()
}

func taskQueue(o scanner.Options) string {
	return cmp.Or(o.TaskQueue, workflows.TaskQueueFor(outboxName(o)))
}

// startMetrics collects the program's metrics where there is an address to serve them at,
// or an endpoint to push them to. No delivery depends on them.
func startMetrics(ctx context.Context, c config.Config, name string, log *slog.Logger) *telemetry.Metrics {
	m, err := telemetry.StartMetrics(ctx, c.Metrics, name, c.HealthAddress != "", log)
	if err != nil {
		log.Warn("no metrics are collected", "error", err)
	}
	return m
}

// Worker runs a worker of the fleet until ctx ends: it takes what was not
// started eagerly, and every durable attempt.
func Worker(ctx context.Context, c config.Config, log *slog.Logger) error {
	m := startMetrics(ctx, c, nameWorker, log)
	h, err := newHealth(ctx, c.HealthAddress, m.Handler(), log)
	if err != nil {
		return err
	}
	defer h.close()
	p, err := startup{log: log, health: h, metrics: m}.open(ctx, c, nameWorker)
	if err != nil {
		return stoppedOr(ctx, err, log)
	}
	defer p.close()
	h.started(p.checks()...)
	defer h.stopping()
	defer p.schedule(c).Keep(ctx)()
	log.Info("working", "task_queue", taskQueue(c.Scanner))
	return p.wait(ctx)
}

// stoppedOr is err, unless the program was asked to stop while it still started.
func stoppedOr(ctx context.Context, err error, log *slog.Logger) error {
	if ctx.Err() == nil {
		return err
	}
	log.Info("stopping")
	return nil
}

// wait waits for the end of ctx or the worker's own.
func (p *parts) wait(ctx context.Context) error {
	select {
	case <-ctx.Done():
		p.log.Info("stopping")
		return nil
	case err := <-p.fatal:
		return fmt.Errorf("running the worker: %w", err)
	}
}

// Starter runs a scanner and the worker of its eager starts until ctx ends.
func Starter(ctx context.Context, c config.Config, log *slog.Logger) error {
	m := startMetrics(ctx, c, nameStarter, log)
	h, err := newHealth(ctx, c.HealthAddress, m.Handler(), log)
	if err != nil {
		return err
	}
	defer h.close()
	p, err := startup{log: log, health: h, metrics: m}.open(ctx, c, nameStarter)
	if err != nil {
		return stoppedOr(ctx, err, log)
	}
	defer p.close()
	defer p.schedule(c).Keep(ctx)()
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	scanned := p.scan(ctx)
	h.started(p.checks()...)
	log.Info("scanning", "task_queue", taskQueue(c.Scanner))
	err = p.wait(ctx)
	h.stopping()
	stop()
	return errors.Join(err, <-scanned)
}

// scan runs a scanner in the background.
func (p *parts) scan(ctx context.Context) <-chan error {
	opts := p.opts
	opts.Logger = p.log
	done := make(chan error, 1)
	go func() { done <- scanner.New(p.store, p.client, opts).Run(ctx) }()
	return done
}

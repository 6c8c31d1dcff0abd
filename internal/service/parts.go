package service

import (
	"context"
	"fmt"
	"log/slog"
	"sync"

	"github.com/jackc/pgx/v5/pgxpool"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"

	"github.com/outflowhq/outflow/activities"
	"github.com/outflowhq/outflow/internal/brokers"
	"github.com/outflowhq/outflow/internal/callbacks"
	"github.com/outflowhq/outflow/internal/config"
	"github.com/outflowhq/outflow/internal/metrics"
	"github.com/outflowhq/outflow/internal/telemetry"
	"github.com/outflowhq/outflow/outboxdb"
	"github.com/outflowhq/outflow/publish"
	"github.com/outflowhq/outflow/scanner"
	"github.com/outflowhq/outflow/workflows"
)

// parts are what a starter and a worker have in common.
type parts struct {
	pool   *pgxpool.Pool
	client client.Client
	store  *outboxdb.Store
	worker worker.Worker
	// streams is the worker of streams; nil where this process takes none.
	streams worker.Worker
	fatal   chan error
	spans   *telemetry.Spans
	// metrics are nil where none are collected.
	metrics *telemetry.Metrics
	// unwatch ends the table's metrics; nil where there are none.
	unwatch func()
	brokers []brokers.Broker
	opts    scanner.Options
	log     *slog.Logger
}

// open composes a program: it connects to everything and starts the worker, or fails at the first
// error. name is the program's.
func open(ctx context.Context, c config.Config, name string, log *slog.Logger) (*parts, error) {
	return startup{log: log, once: true}.open(ctx, c, name)
}

// open composes a program: it connects to everything and starts the worker. It waits for parts that
// are not there yet.
func (s startup) open(ctx context.Context, c config.Config, name string) (_ *parts, err error) {
	c.WarnTo(s.log)
	p := &parts{metrics: s.metrics, fatal: make(chan error, 1), brokers: c.Brokers, opts: c.Scanner, log: s.log}
	defer func() {
		if err != nil {
			p.close()
		}
	}()

	// No delivery depends on spans.
	if p.spans, err = telemetry.Start(ctx, c.Traces, name, s.log); err != nil {
		s.log.Warn("no spans are exported", "error", err)
	}

	setPool(c.Database)
	if p.pool, err = pgxpool.NewWithConfig(ctx, c.Database); err != nil {
		return nil, fmt.Errorf("opening the database: %w", err)
	}
	p.store = outboxdb.New(p.pool, storeOptions(c)...)
	if s.metrics != nil && name == nameStarter { // not each of many workers
		if p.unwatch, err = metrics.WatchTable(nil, p.store, s.log); err != nil {
			s.log.Warn("the outbox table has no metrics", "error", err) // no delivery depends on them
		}
	}
	if err := s.reachDatabase(ctx, p.store); err != nil {
		return nil, err
	}

	setClient(&c.Temporal, s.log)
	c.Temporal.MetricsHandler = s.metrics.Temporal()
	if p.client, err = s.dial(ctx, c.Temporal); err != nil {
		return nil, err
	}

	publishers := brokers.Publishers(c.Brokers)
	router := publish.NewRouter(publishers...)
	if err := router.Err(); err != nil {
		return nil, err
	}
	p.opts.Refuse, p.opts.Check, p.opts.Schemes = router.Refusal, router.Check, router.Schemes()
	p.opts.MissingGrace = c.MissingGrace
	logSchemes(router, c, s.log)

	outbox := outboxName(c.Scanner)
	delivery := activities.New(p.store, router, activities.WithCallbacks(callbacks.New(publishers, router)),
		activities.ForOutbox(outbox), activities.LogTo(s.log),
		activities.WithMissingGrace(missingGrace(c.MissingGrace)))
	maintenance := activities.NewMaintenance(p.store, activities.MaintainOutbox(outbox))
	p.worker, err = s.startWorker(ctx, func() worker.Worker {
		w := worker.New(p.client, taskQueue(c.Scanner), workerOptions(c, p.fatal))
		workflows.Register(w, delivery)
		workflows.RegisterMaintain(w, maintenance)
		return w
	})
	if err != nil {
		return nil, err
	}
	if c.Streams > 0 {
		streams := activities.NewStreams(delivery, p.store, router)
		p.streams, err = s.startWorker(ctx, func() worker.Worker {
			w := worker.New(p.client, workflows.StreamTaskQueue(taskQueue(c.Scanner)), streamWorkerOptions(c, p.fatal))
			workflows.RegisterStream(w, streams)
			return w
		})
	}
	if err != nil {
		return nil, err
	}
	return p, nil
}

// stopWorkers stops them at once: they share their time.
func (p *parts) stopWorkers() {
	var stopping sync.WaitGroup
	for _, w := range []worker.Worker{p.worker, p.streams} {
		if w != nil {
			stopping.Go(w.Stop)
		}
	}
	stopping.Wait()
}

// close stops the workers, then closes the connections. The spans and metrics of their last
// messages go last.
func (p *parts) close() {
	p.stopWorkers()
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
	stopping.Go(func() { brokers.Close(p.brokers) })
	stopping.Go(p.spans.Stop)
	stopping.Go(p.metrics.Stop)
	stopping.Wait()
}

// logSchemes logs which destinations are served.
func logSchemes(router *publish.Router, c config.Config, log *slog.Logger) {
	log.Info("publishing to these schemes", "schemes", router.Schemes())
	for _, b := range c.Brokers {
		if b.Waiting != "" {
			log.Info(b.Waiting)
		}
	}
}

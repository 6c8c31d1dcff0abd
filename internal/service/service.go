// Package service composes Outflow's programs out of its parts. It is the only package that sees
// them all.
//
// The invariant: parts that are opened here are closed here, in the order that loses nothing. First
// the claiming ends, then the starts in flight, then the worker with the messages that it still
// publishes, and last the connections.
package service

import (
	"context"
	"errors"
	"fmt"
	"log/slog"

	"github.com/outflowhq/outflow/internal/config"
	"github.com/outflowhq/outflow/internal/presence"
	"github.com/outflowhq/outflow/internal/telemetry"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/scanner"
	"github.com/outflowhq/outflow/scanner/trigger"
)

// The names of the programs in traces, unless OTEL_SERVICE_NAME gives another.
const (
	nameStarter = "outflow-starter"
	nameWorker  = "outflow-worker"
)

// Starter runs a scanner, and the worker of its eager starts, until ctx ends.
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
	if c.Trigger.Hints() {
		p.opts.Trigger = trigger.New(c.Trigger, p.store, trigger.Options{Connect: trigger.OfPool(c.Listen), Logger: log})
	}
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

// Worker runs a worker of the fleet until ctx ends. It takes runs that were not started eagerly,
// and every durable attempt.
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
	defer presence.Keep(ctx, p.store, func() outbox.Process { return outbox.Process{Schemes: p.opts.Schemes} }, log)()
	log.Info("working", "task_queue", taskQueue(c.Scanner))
	return p.wait(ctx)
}

// startMetrics collects the program's metrics where there is an address to serve them at, or an
// endpoint to push them to. No delivery depends on metrics.
func startMetrics(ctx context.Context, c config.Config, name string, log *slog.Logger) *telemetry.Metrics {
	m, err := telemetry.StartMetrics(ctx, c.Metrics, c.Traces, name, c.HealthAddress != "", log)
	if err != nil {
		log.Warn("no metrics are collected", "error", err)
	}
	return m
}

// stoppedOr returns err, or nil where the program was asked to stop during its start.
func stoppedOr(ctx context.Context, err error, log *slog.Logger) error {
	if ctx.Err() == nil {
		return err
	}
	log.Info("stopping")
	return nil
}

// wait waits for the end of ctx, or of the worker by itself.
func (p *parts) wait(ctx context.Context) error {
	select {
	case <-ctx.Done():
		p.log.Info("stopping")
		return nil
	case err := <-p.fatal:
		return fmt.Errorf("running the worker: %w", err)
	}
}

// scan runs a scanner in the background.
func (p *parts) scan(ctx context.Context) <-chan error {
	opts := p.opts
	opts.Logger = p.log
	done := make(chan error, 1)
	go func() { done <- scanner.New(p.store, p.client, opts).Run(ctx) }()
	return done
}

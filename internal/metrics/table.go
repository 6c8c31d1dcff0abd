package metrics

import (
	"context"
	"errors"
	"log/slog"
	"sync"
	"time"

	"go.opentelemetry.io/otel/metric"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/outbox"
)

// How the table is read for a scrape.
const (
	// readEvery is the least time between two reads, however many scrapes there are.
	readEvery = 15 * time.Second
	// readTimeout bounds a read. Its statement reads a bounded number of rows.
	readTimeout = 10 * time.Second
	// scrapeWait is how long a scrape waits for a read that is under way: less than
	// Prometheus's default of 10 s for a scrape.
	scrapeWait = 2 * time.Second
	// staleAfter is how old the figures may be that stand in for a slow or failed read.
	staleAfter = time.Minute
)

// Table counts what waits in the table; outboxdb.Store is one. Targets beyond maxTargets
// are counted together, as OtherTargets.
type Table interface {
	Gauges(ctx context.Context, maxTargets int, other string) (outbox.Gauges, error)
}

// WatchTable exports the table's gauges through p's meter, or the global provider's where p is nil,
// until the returned function is called. That function ends a read under way. The table is read
// when metrics are collected.
func WatchTable(p metric.MeterProvider, table Table, log *slog.Logger) (stop func(), err error) {
	ctx, cancel := context.WithCancel(context.Background())
	r := &tableReader{ctx: ctx, table: table, log: log}
	i := instruments{meter: meterOf(p)}
	g := tableGauges{
		up:        i.intGauge("outflow.table.up", "Whether the table's gauges could be read in the last minute."),
		truncated: i.intGauge("outflow.table.truncated", "Whether there were more rows than the gauges count."),
		readDuration: i.secondsGauge("outflow.table.read.duration",
			"Duration of the last read of the table for these gauges."),

		messages:     i.intGauge("outflow.messages", "Pending and dead messages."),
		oldest:       i.secondsGauge("outflow.oldest_due.age", "How long the oldest pending message has been due."),
		breakersOpen: i.intGauge("outflow.breaker.open", "Open circuit breakers."),
		breakersFailing: i.secondsGauge("outflow.breaker.open.age",
			"Time since the first failure of an open circuit breaker."),
		missing: i.secondsGauge("outflow.missing.age",
			"How long a destination that messages wait for has been missing."),
		blocked: i.intGauge("outflow.ordering_keys.blocked",
			"Ordering keys in which messages wait behind a dead one."),
		oldestBlocked: i.secondsGauge("outflow.ordering_keys.blocked.age",
			"How long the oldest first message behind a dead one of its ordering key has been due."),
		streams: i.intGauge("outflow.streams", "Streams that run or are paused."),
		oldestPage: i.secondsGauge("outflow.oldest_page.age",
			"How long ago the oldest page was claimed that has not ended."),
		callbacksDue: i.intGauge("outflow.callbacks.due", "Callbacks that are still to be sent."),
		oldestCallback: i.secondsGauge("outflow.oldest_due_callback.age",
			"How long the oldest callback has been due that no run has in hand."),
	}
	if err := errors.Join(i.errs...); err != nil {
		cancel()
		return nil, err
	}
	registration, err := i.meter.RegisterCallback(func(ctx context.Context, o metric.Observer) error {
		counts, ok := r.read(ctx)
		g.observe(o, counts, ok)
		return nil
	}, g.up, g.truncated, g.readDuration, g.messages, g.oldest, g.breakersOpen, g.breakersFailing, g.missing,
		g.blocked, g.oldestBlocked, g.streams, g.oldestPage, g.callbacksDue, g.oldestCallback)
	if err != nil {
		cancel()
		return nil, err
	}
	return func() {
		_ = registration.Unregister()
		cancel()
		r.reads.Wait() // the pool can be closed then
	}, nil
}

type tableGauges struct {
	up, truncated, messages, breakersOpen, callbacksDue   metric.Int64ObservableGauge
	readDuration, oldest, breakersFailing, oldestCallback metric.Float64ObservableGauge
	blocked, streams                                      metric.Int64ObservableGauge
	missing, oldestBlocked, oldestPage                    metric.Float64ObservableGauge
}

// observe exports the table's figures. Without them only up is exported: a figure of
// long ago would pass for the present.
func (g *tableGauges) observe(o metric.Observer, counts reading, ok bool) {
	if !ok {
		o.ObserveInt64(g.up, 0)
		return
	}
	o.ObserveInt64(g.up, 1)
	o.ObserveInt64(g.truncated, number(counts.Truncated))
	o.ObserveFloat64(g.readDuration, counts.took.Seconds())
	for _, t := range counts.Targets {
		target := keyTarget.String(outflow.DisplayDestination(t.Target))
		for phase, n := range map[string]int64{
			"due": t.Due, "leased": t.Leased, "waiting": t.Waiting, "retrying": t.Retrying, "delayed": t.Delayed,
			"dead": t.Dead,
		} {
			o.ObserveInt64(g.messages, n, labels(target, keyPhase.String(phase)))
		}
		o.ObserveFloat64(g.oldest, t.OldestDue.Seconds(), labels(target))
	}
	for _, b := range counts.Breakers {
		is := labels(keyBreaker.String(outflow.DisplayDestination(b.Name)), keyCovers.String(b.Covers))
		o.ObserveInt64(g.breakersOpen, b.Open, is)
		o.ObserveFloat64(g.breakersFailing, b.FailingFor.Seconds(), is)
	}
	for _, m := range counts.Missing {
		o.ObserveFloat64(g.missing, m.Since.Seconds(), labels(keyDestination.String(m.Destination)))
	}
	o.ObserveInt64(g.blocked, counts.BlockedKeys)
	o.ObserveFloat64(g.oldestBlocked, counts.OldestBlocked.Seconds())
	o.ObserveInt64(g.streams, counts.StreamsRunning, labels(keyState.String("running")))
	o.ObserveInt64(g.streams, counts.StreamsPaused, labels(keyState.String("paused")))
	o.ObserveFloat64(g.oldestPage, counts.OldestPage.Seconds())
	o.ObserveInt64(g.callbacksDue, counts.CallbacksDue)
	o.ObserveFloat64(g.oldestCallback, counts.OldestCallbackDue.Seconds())
}

func number(b bool) int64 {
	if b {
		return 1
	}
	return 0
}

// reading is what a read of the table found.
type reading struct {
	outbox.Gauges
	took time.Duration
}

// tableReader reads the table at most once in readEvery, and never twice at once.
type tableReader struct {
	ctx   context.Context // ends a read
	table Table
	log   *slog.Logger
	reads sync.WaitGroup

	mu      sync.Mutex
	began   time.Time     // of the last read
	reading chan struct{} // closed when the read under way ends; nil while there is none
	last    reading
	readAt  time.Time // when last was read
	failing bool
}

// read returns figures that are no older than staleAfter, or false. It waits scrapeWait
// at most.
func (r *tableReader) read(ctx context.Context) (reading, bool) {
	r.mu.Lock()
	if r.reading == nil && (r.began.IsZero() || time.Since(r.began) >= readEvery) {
		r.began, r.reading = time.Now(), make(chan struct{})
		done := r.reading
		r.reads.Go(func() { r.readNow(done) })
	}
	underWay := r.reading
	r.mu.Unlock()
	if underWay != nil {
		timer := time.NewTimer(scrapeWait)
		defer timer.Stop()
		select {
		case <-underWay:
		case <-timer.C:
		case <-ctx.Done():
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.last, !r.readAt.IsZero() && time.Since(r.readAt) < staleAfter
}

// readNow reads the table. A scrape that leaves does not end the read: the next one
// profits from it.
func (r *tableReader) readNow(done chan struct{}) {
	ctx, cancel := context.WithTimeout(r.ctx, readTimeout)
	defer cancel()
	began := time.Now()
	found, err := r.table.Gauges(ctx, MaxTargets, OtherTargets)
	r.mu.Lock()
	defer r.mu.Unlock()
	if err == nil {
		r.last, r.readAt = reading{found, time.Since(began)}, time.Now()
	} else if !r.failing && r.ctx.Err() == nil {
		r.log.Warn("reading the outbox table for metrics", "error", err)
	}
	r.failing = err != nil
	r.reading = nil
	close(done)
}

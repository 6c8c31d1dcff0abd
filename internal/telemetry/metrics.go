package telemetry

import (
	"context"
	"fmt"
	"log/slog"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/exporters/otlp/otlpmetric/otlpmetrichttp"
	otelprometheus "go.opentelemetry.io/otel/exporters/prometheus"
	"go.opentelemetry.io/otel/metric/noop"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
	"go.temporal.io/sdk/client"

	"github.com/outflowhq/outflow/internal/config"
	"github.com/outflowhq/outflow/internal/timing"
)

const (
	// scrapesAtOnce bounds the answers to /metrics that are made at once.
	scrapesAtOnce = 4
	// cardinality bounds the series of one metric, beyond the bounds that each label has.
	cardinality = 5000
)

// Metrics are a process's. The nil Metrics collects nothing.
type Metrics struct {
	provider *sdkmetric.MeterProvider
	handler  http.Handler
	log      *slog.Logger
}

// StartMetrics sets up OpenTelemetry's global MeterProvider, whose metrics are served by Handler,
// where scraped says so, and pushed where the settings ask for it. It makes no connection. service
// is the program's name, and traces has the variables that name the process for spans too.
func StartMetrics(ctx context.Context, c config.Metrics, traces config.Traces, service string, scraped bool,
	log *slog.Logger) (*Metrics, error) {
	if !scraped && !c.Push {
		return nil, nil
	}
	m := &Metrics{log: log}
	options := []sdkmetric.Option{
		sdkmetric.WithResource(resourceOf(traces, service)), sdkmetric.WithCardinalityLimit(cardinality),
	}
	if scraped {
		reader, err := m.scraped()
		if err != nil {
			return nil, fmt.Errorf("setting up the metrics endpoint: %w", err)
		}
		options = append(options, sdkmetric.WithReader(reader))
	}
	if c.Push {
		otlp, err := otlpmetrichttp.New(ctx) // it reads its own variables
		if err != nil {
			return nil, fmt.Errorf("setting up the exporter of metrics: %w", err)
		}
		options = append(options, sdkmetric.WithReader(sdkmetric.NewPeriodicReader(&watchedMetrics{Exporter: otlp,
			log: log})))
		log.Info("pushing metrics by OTLP")
	}
	m.provider = sdkmetric.NewMeterProvider(options...)
	otel.SetMeterProvider(m.provider)
	return m, nil
}

// scraped makes the reader behind Handler, with the process's and the runtime's figures
// beside Outflow's.
func (m *Metrics) scraped() (sdkmetric.Reader, error) {
	registry := prometheus.NewRegistry()
	registry.MustRegister(collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m.handler = promhttp.HandlerFor(registry, promhttp.HandlerOpts{
		ErrorLog: slog.NewLogLogger(m.log.Handler(),
			slog.LevelWarn), ErrorHandling: promhttp.ContinueOnError, MaxRequestsInFlight: scrapesAtOnce,
	})
	return otelprometheus.New(otelprometheus.WithRegisterer(registry), otelprometheus.WithoutScopeInfo())
}

// Handler answers a scrape; nil where there is none.
func (m *Metrics) Handler() http.Handler {
	if m == nil {
		return nil
	}
	return m.handler
}

// Temporal records the metrics of Temporal's SDK; nil records none.
func (m *Metrics) Temporal() client.MetricsHandler {
	if m == nil {
		return nil
	}
	return newTemporalMetrics(m.provider.Meter("temporal-sdk-go"))
}

// Stop pushes what is left, within the bound that spans have. Nothing is recorded
// afterwards.
func (m *Metrics) Stop() {
	if m == nil {
		return
	}
	otel.SetMeterProvider(noop.NewMeterProvider())
	ctx, cancel := context.WithTimeout(context.Background(), timing.StopSpans)
	defer cancel()
	if err := m.provider.Shutdown(ctx); err != nil {
		m.log.Warn("stopping without having pushed the last metrics", "error", err)
	}
}

// watchedMetrics logs once that pushing fails, and once that it works again. The SDK
// calls it from one goroutine at a time.
type watchedMetrics struct {
	sdkmetric.Exporter
	log     *slog.Logger
	failing bool
	since   time.Time
}

// Export returns no error: it is logged here, and the next push has the same counters.
func (w *watchedMetrics) Export(ctx context.Context, all *metricdata.ResourceMetrics) error {
	err := w.Exporter.Export(ctx, all)
	switch {
	case err != nil && !w.failing:
		w.failing, w.since = true, time.Now()
		w.log.Warn("pushing metrics fails; deliveries go on without", "error", err)
	case err == nil && w.failing:
		w.failing = false
		w.log.Info("pushing metrics works again", "failed_for", time.Since(w.since).Round(time.Second))
	}
	return nil
}

// Package telemetry exports the programs' spans, where the settings ask for it.
//
// The invariant: an exporter that is slow, away or refused costs deliveries
// nothing. Spans wait in a bounded queue that drops what has no room; a failure is logged once,
// not once for each batch; and stopping ends within its bound.
package telemetry

import (
	"context"
	"fmt"
	"log/slog"
	"runtime/debug"
	"sync/atomic"

	"github.com/google/uuid"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/propagation"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace/noop"

	"github.com/outflowhq/outflow/internal/config"
	"github.com/outflowhq/outflow/internal/timing"
)

// Spans are a process's, on their way out. The nil Spans exports nothing.
type Spans struct {
	provider *sdktrace.TracerProvider
	exporter *watched
	ended    *atomic.Int64
	log      *slog.Logger
}

// Start sets up OpenTelemetry's global TracerProvider and W3C's trace context as
// its propagator. Where the settings name no endpoint, spans cost nothing. service is
// the program's name. It makes no connection.
func Start(ctx context.Context, c config.Traces, service string, log *slog.Logger) (*Spans, error) {
	if c.Endpoint == nil {
		otel.SetTracerProvider(noop.NewTracerProvider())
		return nil, nil
	}
	otlp, err := otlptracehttp.New(ctx, clientOptions(c)...)
	if err != nil {
		return nil, fmt.Errorf("setting up the exporter of spans: %w", err)
	}
	s := &Spans{exporter: &watched{next: otlp, log: log, endpoint: c.Endpoint.Host}, ended: new(atomic.Int64), log: log}
	batches := sdktrace.NewBatchSpanProcessor(s.exporter,
		sdktrace.WithMaxQueueSize(c.QueueSize), sdktrace.WithMaxExportBatchSize(c.BatchSize),
		sdktrace.WithBatchTimeout(c.Delay), sdktrace.WithExportTimeout(c.ExportTimeout))
	s.provider = sdktrace.NewTracerProvider(
		sdktrace.WithSpanProcessor(counted{batches, s.ended}),
		sdktrace.WithSampler(samplerOf(c)),
		sdktrace.WithResource(resourceOf(c, service)),
	)
	// What the SDK itself has to say is rare, and no reason to write to standard
	// error past the log.
	otel.SetErrorHandler(otel.ErrorHandlerFunc(func(err error) { log.Warn("OpenTelemetry", "error", err) }))
	otel.SetTextMapPropagator(propagation.TraceContext{})
	otel.SetTracerProvider(s.provider)
	log.Info("exporting spans", "endpoint", c.Endpoint.Redacted(), "sampler", c.Sampler)
	return s, nil
}

// Stop exports what is left, within a bound, and ends the exporter. Spans that end
// later are not recorded.
func (s *Spans) Stop() {
	if s == nil {
		return
	}
	otel.SetTracerProvider(noop.NewTracerProvider())
	ctx, cancel := context.WithTimeout(context.Background(), timing.StopSpans)
	defer cancel()
	if err := s.provider.Shutdown(ctx); err != nil {
		_ = s.exporter.next.Shutdown(ctx) // cuts off a request that hangs
	}
	if lost := s.ended.Load() - s.exporter.exported.Load(); lost > 0 {
		s.log.Warn("stopping without having exported all spans", "lost", lost, "exported", s.exporter.exported.Load())
	}
}

func clientOptions(c config.Traces) []otlptracehttp.Option {
	options := []otlptracehttp.Option{
		otlptracehttp.WithEndpointURL(c.Endpoint.String()), otlptracehttp.WithTimeout(c.Timeout),
		otlptracehttp.WithHeaders(c.Headers),
	}
	if c.Gzip {
		options = append(options, otlptracehttp.WithCompression(otlptracehttp.GzipCompression))
	}
	if c.TLS != nil {
		options = append(options, otlptracehttp.WithTLSClientConfig(c.TLS))
	}
	return options
}

func samplerOf(c config.Traces) sdktrace.Sampler {
	roots := map[string]sdktrace.Sampler{
		"always_on": sdktrace.AlwaysSample(), "always_off": sdktrace.NeverSample(),
		"traceidratio": sdktrace.TraceIDRatioBased(c.Ratio),
	}
	if own, ok := roots[c.Sampler]; ok {
		return own
	}
	for name, root := range roots {
		if c.Sampler == "parentbased_"+name {
			return sdktrace.ParentBased(root)
		}
	}
	return sdktrace.ParentBased(sdktrace.AlwaysSample())
}

// instanceID names the process, in spans and metrics alike.
var instanceID = uuid.NewString()

// resourceOf says what the spans and metrics are of.
func resourceOf(c config.Traces, service string) *resource.Resource {
	name := c.ServiceName
	if name == "" {
		name = service
	}
	attributes := []attribute.KeyValue{attribute.String("service.instance.id", instanceID)}
	if info, ok := debug.ReadBuildInfo(); ok && info.Main.Version != "" {
		attributes = append(attributes, attribute.String("service.version", info.Main.Version))
	}
	for key, value := range c.Resource { // the setting's come later, and win
		attributes = append(attributes, attribute.String(key, value))
	}
	own := resource.NewSchemaless(append(attributes, attribute.String("service.name", name))...)
	if all, err := resource.Merge(resource.Default(), own); err == nil {
		return all
	}
	return own
}

// counted counts the spans that are to be exported.
type counted struct {
	sdktrace.SpanProcessor
	ended *atomic.Int64
}

func (c counted) OnEnd(s sdktrace.ReadOnlySpan) {
	if s.SpanContext().IsSampled() {
		c.ended.Add(1)
	}
	c.SpanProcessor.OnEnd(s)
}

// watched says once that exporting fails, and once that it works again. It is used
// by one goroutine at a time, as every exporter.
type watched struct {
	next     sdktrace.SpanExporter
	log      *slog.Logger
	endpoint string

	exported atomic.Int64
	failing  bool
	lost     int // since it fails
}

var _ sdktrace.SpanExporter = (*watched)(nil)

// ExportSpans reports no error: it has been said, and nothing else is to be done.
func (w *watched) ExportSpans(ctx context.Context, spans []sdktrace.ReadOnlySpan) error {
	err := w.next.ExportSpans(ctx, spans)
	switch {
	case err != nil:
		w.lost += len(spans)
		if !w.failing {
			w.log.Warn("exporting spans fails; deliveries go on without", "endpoint", w.endpoint, "error", err)
		}
		w.failing = true
	default:
		w.exported.Add(int64(len(spans)))
		if w.failing {
			w.log.Info("exporting spans works again", "endpoint", w.endpoint, "lost", w.lost)
		}
		w.failing, w.lost = false, 0
	}
	return nil
}

func (w *watched) Shutdown(ctx context.Context) error { return w.next.Shutdown(ctx) }

package telemetry

import (
	"context"
	"time"

	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/metric"
	"go.temporal.io/sdk/client"
)

// temporalSeconds are the bounds of the SDK's timers: calls take milliseconds, a long
// poll up to a minute. OpenTelemetry's default bounds are made for milliseconds.
var temporalSeconds = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60}

// temporalMetrics records the metrics of Temporal's SDK. Their labels are names of
// operations, workflow types and task queues: a bounded number.
type temporalMetrics struct {
	meter metric.Meter
	tags  attribute.Set
}

var _ client.MetricsHandler = temporalMetrics{}

func (t temporalMetrics) WithTags(tags map[string]string) client.MetricsHandler {
	all := t.tags.ToSlice()
	for key, value := range tags {
		all = append(all, attribute.String(key, value))
	}
	t.tags = attribute.NewSet(all...)
	return t
}

func (t temporalMetrics) Counter(name string) client.MetricsCounter {
	c, err := t.meter.Int64Counter(name)
	if err != nil {
		otel.Handle(err)
		return client.MetricsNopHandler.Counter(name)
	}
	return temporalCounter{c, metric.WithAttributeSet(t.tags)}
}

func (t temporalMetrics) Gauge(name string) client.MetricsGauge {
	g, err := t.meter.Float64Gauge(name)
	if err != nil {
		otel.Handle(err)
		return client.MetricsNopHandler.Gauge(name)
	}
	return temporalGauge{g, metric.WithAttributeSet(t.tags)}
}

func (t temporalMetrics) Timer(name string) client.MetricsTimer {
	h, err := t.meter.Float64Histogram(name, metric.WithUnit("s"),
		metric.WithExplicitBucketBoundaries(temporalSeconds...))
	if err != nil {
		otel.Handle(err)
		return client.MetricsNopHandler.Timer(name)
	}
	return temporalTimer{h, metric.WithAttributeSet(t.tags)}
}

type temporalCounter struct {
	counter metric.Int64Counter
	tags    metric.MeasurementOption
}

func (c temporalCounter) Inc(by int64) { c.counter.Add(context.Background(), by, c.tags) }

type temporalGauge struct {
	gauge metric.Float64Gauge
	tags  metric.MeasurementOption
}

func (g temporalGauge) Update(to float64) { g.gauge.Record(context.Background(), to, g.tags) }

type temporalTimer struct {
	timer metric.Float64Histogram
	tags  metric.MeasurementOption
}

func (t temporalTimer) Record(took time.Duration) {
	t.timer.Record(context.Background(), took.Seconds(), t.tags)
}

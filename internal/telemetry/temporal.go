package telemetry

import (
	"context"
	"reflect"
	"sync"
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
	// known has the instruments by kind and name. The SDK asks for one with each call, and the
	// meter makes it wait while metrics are collected, which may take a slow database's time.
	known *sync.Map
}

var _ client.MetricsHandler = temporalMetrics{}

func newTemporalMetrics(meter metric.Meter) temporalMetrics {
	return temporalMetrics{meter: meter, known: new(sync.Map)}
}

func (t temporalMetrics) WithTags(tags map[string]string) client.MetricsHandler {
	all := t.tags.ToSlice()
	for key, value := range tags {
		all = append(all, attribute.String(key, value))
	}
	t.tags = attribute.NewSet(all...)
	return t
}

func (t temporalMetrics) Counter(name string) client.MetricsCounter {
	c, ok := instrument(t.known, name, func() (metric.Int64Counter, error) { return t.meter.Int64Counter(name) })
	if !ok {
		return client.MetricsNopHandler.Counter(name)
	}
	return temporalCounter{c, metric.WithAttributeSet(t.tags)}
}

func (t temporalMetrics) Gauge(name string) client.MetricsGauge {
	g, ok := instrument(t.known, name, func() (metric.Float64Gauge, error) { return t.meter.Float64Gauge(name) })
	if !ok {
		return client.MetricsNopHandler.Gauge(name)
	}
	return temporalGauge{g, metric.WithAttributeSet(t.tags)}
}

func (t temporalMetrics) Timer(name string) client.MetricsTimer {
	h, ok := instrument(t.known, name, func() (metric.Float64Histogram, error) {
		return t.meter.Float64Histogram(name, metric.WithUnit("s"),
			metric.WithExplicitBucketBoundaries(temporalSeconds...))
	})
	if !ok {
		return client.MetricsNopHandler.Timer(name)
	}
	return temporalTimer{h, metric.WithAttributeSet(t.tags)}
}

// instrument returns the instrument of a kind and name, which is made once.
func instrument[I any](known *sync.Map, name string, create func() (I, error)) (i I, ok bool) {
	type key struct {
		kind reflect.Type
		name string
	}
	k := key{reflect.TypeFor[I](), name}
	if found, ok := known.Load(k); ok {
		return found.(I), true
	}
	i, err := create()
	if err != nil {
		otel.Handle(err)
		return i, false
	}
	known.Store(k, i)
	return i, true
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

package metrics

import "go.opentelemetry.io/otel/metric"

// The bounds of the histograms' buckets. Statements take milliseconds; calls to Temporal
// and to brokers up to 30 s; a message may wait for its destination for hours.
var (
	statementSeconds = []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10}
	callSeconds      = []float64{.0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30}
	deliverySeconds  = []float64{.01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30, 60, 300, 900, 3600, 14400, 86400}
	claimSizes       = []float64{0, 1, 2, 5, 10, 20, 50, 100, 200, 500, 1000}
	batchSizes       = []float64{1, 2, 3, 4, 5, 6, 7, 8, 9, 10}
)

// instruments makes instruments and collects the errors.
type instruments struct {
	meter metric.Meter
	errs  []error
}

func (i *instruments) note(err error) {
	if err != nil {
		i.errs = append(i.errs, err)
	}
}

func (i *instruments) counter(name, unit, description string) metric.Int64Counter {
	c, err := i.meter.Int64Counter(name, metric.WithUnit(unit), metric.WithDescription(description))
	i.note(err)
	return c
}

func (i *instruments) upDown(name, description string) metric.Int64UpDownCounter {
	c, err := i.meter.Int64UpDownCounter(name, metric.WithDescription(description))
	i.note(err)
	return c
}

func (i *instruments) seconds(name, description string, bounds []float64) metric.Float64Histogram {
	h, err := i.meter.Float64Histogram(name, metric.WithUnit("s"), metric.WithDescription(description),
		metric.WithExplicitBucketBoundaries(bounds...))
	i.note(err)
	return h
}

func (i *instruments) sizes(name, description string, bounds []float64) metric.Int64Histogram {
	h, err := i.meter.Int64Histogram(name, metric.WithDescription(description),
		metric.WithExplicitBucketBoundaries(bounds...))
	i.note(err)
	return h
}

func (i *instruments) timestamp(name, description string) metric.Float64Gauge {
	g, err := i.meter.Float64Gauge(name, metric.WithUnit("s"), metric.WithDescription(description))
	i.note(err)
	return g
}

func (i *instruments) intGauge(name, description string) metric.Int64ObservableGauge {
	g, err := i.meter.Int64ObservableGauge(name, metric.WithDescription(description))
	i.note(err)
	return g
}

func (i *instruments) secondsGauge(name, description string) metric.Float64ObservableGauge {
	g, err := i.meter.Float64ObservableGauge(name, metric.WithUnit("s"), metric.WithDescription(description))
	i.note(err)
	return g
}

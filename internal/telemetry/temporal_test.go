package telemetry

import (
	"context"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/metric"
	sdkmetric "go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
)

// A scrape that waits for the database holds up the first use of a metric alone: calls of Temporal's
// SDK that record known metrics go on.
func TestKnownMetricsDoNotWaitForAScrape(t *testing.T) {
	t.Parallel()
	reader := sdkmetric.NewManualReader()
	meter := sdkmetric.NewMeterProvider(sdkmetric.WithReader(reader)).Meter("temporal-sdk-go")
	temporal := newTemporalMetrics(meter)
	temporal.Counter("known").Inc(1)
	gauge, err := meter.Int64ObservableGauge("slow")
	require.NoError(t, err)
	collecting, release := make(chan struct{}), make(chan struct{})
	_, err = meter.RegisterCallback(func(context.Context, metric.Observer) error {
		close(collecting)
		<-release
		return nil
	}, gauge)
	require.NoError(t, err)
	ended := make(chan error, 2)
	go func() { ended <- reader.Collect(context.Background(), &metricdata.ResourceMetrics{}) }()
	<-collecting
	go func() { temporal.Counter("new").Inc(1); ended <- nil }()

	recorded := make(chan struct{})
	go func() {
		defer close(recorded)
		for began := time.Now(); time.Since(began) < 200*time.Millisecond; {
			temporal.WithTags(map[string]string{"operation": "a"}).Counter("known").Inc(1)
		}
	}()
	select {
	case <-recorded:
	case <-time.After(time.Minute):
		t.Error("a known metric waits for the scrape")
	}
	close(release)
	require.NoError(t, <-ended)
	require.NoError(t, <-ended)
}

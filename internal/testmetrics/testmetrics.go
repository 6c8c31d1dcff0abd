// Package testmetrics reads metrics in tests.
package testmetrics

import (
	"context"
	"testing"

	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/sdk/metric"
	"go.opentelemetry.io/otel/sdk/metric/metricdata"
)

// Counted is what a counter has counted under those of its labels that keep allows; nil: all.
func Counted(
	t testing.TB, reader *metric.ManualReader, counter string, keep func(labels attribute.Set) bool,
) (sum int64) {
	t.Helper()
	var found metricdata.ResourceMetrics
	require.NoError(t, reader.Collect(context.Background(), &found))
	for _, scope := range found.ScopeMetrics {
		for _, m := range scope.Metrics {
			counts, ok := m.Data.(metricdata.Sum[int64])
			if !ok || m.Name != counter {
				continue
			}
			for _, p := range counts.DataPoints {
				if keep == nil || keep(p.Attributes) {
					sum += p.Value
				}
			}
		}
	}
	return sum
}

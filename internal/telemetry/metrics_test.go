package telemetry

import (
	"io"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.opentelemetry.io/otel"

	"github.com/outflowhq/outflow/internal/config"
	"github.com/outflowhq/outflow/internal/timing"
)

// TestMetricsArePushedAndServed: a collector gets them at the end at the latest, and a
// scrape sees the same, with Temporal's beside.
func TestMetricsArePushedAndServed(t *testing.T) {
	var pushed atomic.Pointer[string]
	collector := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		text := r.URL.Path + " " + string(body)
		pushed.Store(&text)
	}))
	t.Cleanup(collector.Close)
	t.Setenv("OTEL_EXPORTER_OTLP_ENDPOINT", collector.URL)
	m, err := StartMetrics(t.Context(), config.Metrics{Push: true}, config.Traces{}, "outflow-starter", true,
		slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	counter, err := otel.GetMeterProvider().Meter("test").Int64Counter("outflow.claims")
	require.NoError(t, err)
	counter.Add(t.Context(), 3)
	m.Temporal().WithTags(map[string]string{"operation": "StartWorkflowExecution"}).Timer("temporal_request_latency").Record(7 * time.Millisecond)
	m.Temporal().Counter("temporal_request").Inc(1)
	m.Temporal().Gauge("temporal_worker_task_slots_available").Update(5)

	scrape := httptest.NewRecorder()
	m.Handler().ServeHTTP(scrape, httptest.NewRequest(http.MethodGet, "/metrics", nil))
	for _, wants := range []string{
		"\noutflow_claims_total 3\n", `temporal_request_latency_seconds_bucket{operation="StartWorkflowExecution",le="0.01"} 1`,
		"\ntemporal_request_total 1\n", "\ntemporal_worker_task_slots_available 5\n", `service_name="outflow-starter"`, "\ngo_goroutines ",
	} {
		assert.Contains(t, scrape.Body.String(), wants)
	}
	m.Stop()
	require.NotNil(t, pushed.Load())
	assert.True(t, strings.HasPrefix(*pushed.Load(), "/v1/metrics "))
	assert.Contains(t, *pushed.Load(), "outflow.claims")
}

// TestAHangingCollectorHoldsUpNoStop.
func TestAHangingCollectorHoldsUpNoStop(t *testing.T) {
	hanging := make(chan struct{})
	collector := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { <-hanging }))
	t.Cleanup(func() { close(hanging); collector.Close() })
	t.Setenv("OTEL_EXPORTER_OTLP_METRICS_ENDPOINT", collector.URL)
	m, err := StartMetrics(t.Context(), config.Metrics{Push: true}, config.Traces{}, "outflow-worker", false,
		slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	assert.Nil(t, m.Handler())
	began := time.Now()
	m.Stop()
	assert.Less(t, time.Since(began), timing.StopSpans+2*time.Second)
}

// TestNoMetrics: nobody asked for any.
func TestNoMetrics(t *testing.T) {
	m, err := StartMetrics(t.Context(), config.Metrics{}, config.Traces{}, "outflow-worker", false, slog.New(slog.DiscardHandler))
	require.NoError(t, err)
	assert.Nil(t, m.Handler())
	assert.Nil(t, m.Temporal())
	m.Stop()
}

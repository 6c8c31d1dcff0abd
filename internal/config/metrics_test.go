package config

import (
	"testing"

	"github.com/stretchr/testify/assert"
)

// TestMetrics are pushed where OpenTelemetry's variables ask for it.
func TestMetrics(t *testing.T) {
	t.Parallel()
	for name, c := range map[string]struct {
		set    map[string]string
		push   bool
		reason string
	}{
		"nothing":     {nil, false, ""},
		"an endpoint": {map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318"}, true, ""},
		"its own": {map[string]string{"OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": "http://localhost:4318/v1/metrics"},
			true, ""},
		"that of traces": {map[string]string{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://localhost:4318/v1/traces"},
			false, ""},
		"otlp": {map[string]string{"OTEL_METRICS_EXPORTER": "otlp"}, true, ""},
		"none": {map[string]string{"OTEL_METRICS_EXPORTER": "none",
			"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318"}, false, ""},
		"prometheus": {map[string]string{"OTEL_METRICS_EXPORTER": "prometheus",
			"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318"}, false, ""},
		"disabled": {map[string]string{"OTEL_METRICS_EXPORTER": "otlp", "OTEL_SDK_DISABLED": "true"}, false, ""},
		"another": {map[string]string{"OTEL_METRICS_EXPORTER": "console"}, false,
			`OTEL_METRICS_EXPORTER: wants otlp, prometheus or none (got "console")`},
		"grpc": {map[string]string{"OTEL_METRICS_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
			false, `OTEL_EXPORTER_OTLP_PROTOCOL: wants http/protobuf`},
		"grpc of metrics": {map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://localhost:4318",
			"OTEL_EXPORTER_OTLP_METRICS_PROTOCOL": "grpc"}, false, `OTEL_EXPORTER_OTLP_METRICS_PROTOCOL: wants http/protobuf`},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			got, err := readMetrics(func(name string) string { return c.set[name] })
			assert.Equal(t, c.push, got.Push)
			if c.reason == "" {
				assert.NoError(t, err)
			} else {
				assert.ErrorContains(t, err, c.reason)
			}
		})
	}
}

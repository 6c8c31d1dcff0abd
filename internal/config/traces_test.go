package config_test

import (
	"bytes"
	"encoding/json"
	"log/slog"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestTracesAreOffByDefault(t *testing.T) {
	for name, settings := range map[string]map[string]string{
		"nothing is set": nil,
		"how, and not where": {"OTEL_TRACES_SAMPLER": "nonsense", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc",
			"OTEL_SERVICE_NAME": "shop"},
		"none": {"OTEL_TRACES_EXPORTER": "none",
			"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"},
		"disabled": {"OTEL_SDK_DISABLED": "TRUE", "OTEL_TRACES_EXPORTER": "otlp",
			"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"},
		"disabled, and all wrong": {"OTEL_SDK_DISABLED": "true", "OTEL_TRACES_EXPORTER": "zipkin",
			"OTEL_EXPORTER_OTLP_ENDPOINT": "nonsense"},
	} {
		c, err := load(t, enough(settings))
		require.NoError(t, err, name)
		assert.Zero(t, c.Traces, name)
	}
}

func TestTraces(t *testing.T) {
	for name, c := range map[string]struct {
		settings map[string]string
		endpoint string
	}{
		"asked for": {map[string]string{"OTEL_TRACES_EXPORTER": "otlp"}, "http://localhost:4318/v1/traces"},
		"for all signals": {map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "http://collector:4318"},
			"http://collector:4318/v1/traces"},
		"below a path": {map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "https://collector/otlp/",
			"OTEL_SDK_DISABLED": "false"}, "https://collector/otlp/v1/traces"},
		"for traces, as it is": {map[string]string{
			"OTEL_EXPORTER_OTLP_ENDPOINT": "http://other:4318", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://collector:4318/here",
			"OTEL_EXPORTER_OTLP_PROTOCOL": "grpc", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf",
		}, "http://collector:4318/here"},
	} {
		got, err := load(t, enough(c.settings))
		require.NoError(t, err, name)
		require.NotNil(t, got.Traces.Endpoint, name)
		assert.Equal(t, c.endpoint, got.Traces.Endpoint.String(), name)
		assert.Equal(t, "parentbased_always_on", got.Traces.Sampler)
		assert.Equal(t, []any{2048, 512, 5 * time.Second, 30 * time.Second, 10 * time.Second},
			[]any{got.Traces.QueueSize, got.Traces.BatchSize, got.Traces.Delay, got.Traces.ExportTimeout,
				got.Traces.Timeout}, "the specification's defaults")
	}
	c, err := load(t, enough(map[string]string{
		"OTEL_TRACES_EXPORTER": "otlp", "OTEL_EXPORTER_OTLP_HEADERS": "api-key=a%20b, tenant=acme,", "OTEL_EXPORTER_OTLP_TIMEOUT": "2500",
		"OTEL_EXPORTER_OTLP_COMPRESSION": "gzip", "OTEL_TRACES_SAMPLER": "parentbased_traceidratio", "OTEL_TRACES_SAMPLER_ARG": "0.25",
		"OTEL_RESOURCE_ATTRIBUTES": "deployment.environment.name=test,service.name=named here", "OTEL_BSP_MAX_QUEUE_SIZE": "100",
		"OTEL_BSP_SCHEDULE_DELAY": "100", "OTEL_BSP_EXPORT_TIMEOUT": "200",
	}))
	require.NoError(t, err)
	assert.Equal(t, map[string]string{"api-key": "a b", "tenant": "acme"}, c.Traces.Headers)
	assert.True(t, c.Traces.Gzip)
	assert.Equal(t, []any{"parentbased_traceidratio", 0.25}, []any{c.Traces.Sampler, c.Traces.Ratio})
	assert.Equal(t, "named here", c.Traces.ServiceName)
	assert.Equal(t, "test", c.Traces.Resource["deployment.environment.name"])
	assert.Equal(t, []any{100, 100, 100 * time.Millisecond, 200 * time.Millisecond, 2500 * time.Millisecond},
		[]any{c.Traces.QueueSize, c.Traces.BatchSize, c.Traces.Delay, c.Traces.ExportTimeout,
			c.Traces.Timeout}, "a batch is no larger than the queue")
	c, err = load(t, enough(map[string]string{"OTEL_TRACES_EXPORTER": "otlp", "OTEL_SERVICE_NAME": "mine",
		"OTEL_RESOURCE_ATTRIBUTES": "service.name=other"}))
	require.NoError(t, err)
	assert.Equal(t, "mine", c.Traces.ServiceName)
}

// TestBadTraces: tracing is optional. What is wrong with it is warned of, and ends nothing.
func TestBadTraces(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file.pem")
	require.NoError(t, os.WriteFile(file, []byte("no certificate"), 0o600))
	for _, c := range []struct{ name, value, wants string }{
		{"OTEL_SDK_DISABLED", "yes", `OTEL_SDK_DISABLED: wants true or false (got "yes")`},
		{"OTEL_TRACES_EXPORTER", "zipkin", `OTEL_TRACES_EXPORTER: wants otlp or none (got "zipkin")`},
		{"OTEL_TRACES_EXPORTER", "otlp,console", "OTEL_TRACES_EXPORTER: wants otlp or none"},
		{"OTEL_EXPORTER_OTLP_ENDPOINT", "collector:4318",
			"OTEL_EXPORTER_OTLP_ENDPOINT: wants an address that takes OTLP over HTTP, such as http://localhost:4318"},
		{"OTEL_EXPORTER_OTLP_ENDPOINT", "grpc://collector:4317", "OTEL_EXPORTER_OTLP_ENDPOINT: wants"},
		{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: wants"},
		{"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "http://a b/", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT: wants"},
		{"OTEL_EXPORTER_OTLP_ENDPOINT", "http://user:hidden@collector:4318", "without password or query"},
		{"OTEL_EXPORTER_OTLP_PROTOCOL", "grpc", `OTEL_EXPORTER_OTLP_PROTOCOL: wants http/protobuf`},
		{"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "http/json", "OTEL_EXPORTER_OTLP_TRACES_PROTOCOL: wants http/protobuf"},
		{"OTEL_EXPORTER_OTLP_HEADERS", "api-key hidden",
			"OTEL_EXPORTER_OTLP_HEADERS: wants name=value, separated by commas"},
		{"OTEL_EXPORTER_OTLP_HEADERS", "api-key=%zzhidden", "OTEL_EXPORTER_OTLP_HEADERS: wants name=value"},
		{"OTEL_EXPORTER_OTLP_HEADERS", "api-key=a%0d%0ahidden", "OTEL_EXPORTER_OTLP_HEADERS: wants name=value"},
		{"OTEL_EXPORTER_OTLP_TIMEOUT", "10s",
			`OTEL_EXPORTER_OTLP_TIMEOUT: wants milliseconds, from 1 to 3600000 (got "10s")`},
		{"OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "0", "OTEL_EXPORTER_OTLP_TRACES_TIMEOUT: wants milliseconds"},
		{"OTEL_EXPORTER_OTLP_COMPRESSION", "zstd", "OTEL_EXPORTER_OTLP_COMPRESSION: wants gzip or none"},
		{"OTEL_EXPORTER_OTLP_CERTIFICATE", filepath.Join(t.TempDir(), "missing"),
			"OTEL_EXPORTER_OTLP_CERTIFICATE: wants a file that can be read: no such file"},
		{"OTEL_EXPORTER_OTLP_CERTIFICATE", file,
			"OTEL_EXPORTER_OTLP_CERTIFICATE: wants a file with certificates in PEM"},
		{"OTEL_EXPORTER_OTLP_CERTIFICATE", "/dev/zero",
			"OTEL_EXPORTER_OTLP_CERTIFICATE: wants a file that can be read: wants at most 4194304 bytes"},
		{"OTEL_EXPORTER_OTLP_CLIENT_KEY", file,
			"OTEL_EXPORTER_OTLP_CLIENT_CERTIFICATE and OTEL_EXPORTER_OTLP_CLIENT_KEY: want"},
		{"OTEL_TRACES_SAMPLER", "sometimes",
			`OTEL_TRACES_SAMPLER: wants always_on, always_off, traceidratio, or one of these with parentbased_ before it (got "sometimes")`},
		{"OTEL_TRACES_SAMPLER_ARG", "1.5", `OTEL_TRACES_SAMPLER_ARG: wants a number from 0 to 1 (got "1.5")`},
		{"OTEL_TRACES_SAMPLER_ARG", "NaN", "OTEL_TRACES_SAMPLER_ARG: wants a number from 0 to 1"},
		{"OTEL_RESOURCE_ATTRIBUTES", "service", "OTEL_RESOURCE_ATTRIBUTES: wants name=value"},
		{"OTEL_BSP_MAX_QUEUE_SIZE", "-1", "OTEL_BSP_MAX_QUEUE_SIZE: wants a whole number from 1 to 1048576"},
		{"OTEL_BSP_MAX_EXPORT_BATCH_SIZE", "3000",
			"OTEL_BSP_MAX_EXPORT_BATCH_SIZE: wants at most OTEL_BSP_MAX_QUEUE_SIZE"},
		{"OTEL_BSP_SCHEDULE_DELAY", "5s", "OTEL_BSP_SCHEDULE_DELAY: wants milliseconds"},
		{"OTEL_BSP_EXPORT_TIMEOUT", "9999999", "OTEL_BSP_EXPORT_TIMEOUT: wants milliseconds"},
	} {
		settings := map[string]string{"OTEL_EXPORTER_OTLP_ENDPOINT": "https://collector:4318",
			"OTEL_TRACES_SAMPLER": "traceidratio"}
		settings[c.name] = c.value
		got, err := load(t, enough(settings))
		require.NoError(t, err, "%s=%s", c.name, c.value)
		assert.Zero(t, got.Traces)
		var said bytes.Buffer
		got.WarnTo(slog.New(slog.NewJSONHandler(&said, nil)))
		var line struct{ Level, Warning string }
		require.NoError(t, json.Unmarshal(said.Bytes(), &line), "one line: %s", &said)
		assert.Equal(t, "WARN", line.Level)
		assert.Contains(t, line.Warning, c.wants)
		assert.Contains(t, line.Warning, "; no spans are exported")
		assert.NotContains(t, line.Warning, "hidden")
	}
}

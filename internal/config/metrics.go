package config

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/outflowhq/outflow/internal/settings"
)

// Metrics says where metrics are pushed to. Where they go, and how often, OpenTelemetry's
// SDK reads from its own variables.
// https://opentelemetry.io/docs/specs/otel/configuration/sdk-environment-variables/
type Metrics struct {
	// Push sends metrics by OTLP over HTTP. Without it they wait at /metrics for whoever
	// collects them.
	Push bool
}

const (
	settingMetricsExporter = "OTEL_METRICS_EXPORTER"
	settingOTLPMetrics     = "OTEL_EXPORTER_OTLP_METRICS_"
)

// readMetrics reads whether metrics are to be pushed.
func readMetrics(getenv func(string) string) (Metrics, error) {
	if _, err := sdkDisabled(getenv); err != nil {
		return Metrics{}, nil // readTraces reports it
	}
	push, err := exporterWanted(getenv, settingMetricsExporter, settingOTLPMetrics, "otlp", "prometheus", "none")
	if err != nil || !push {
		return Metrics{}, err
	}
	traces, _ := exporterWanted(getenv, settingTracesExporter, settingOTLPTraces, "otlp", "none")
	own, shared := getenv(settingOTLPMetrics+"PROTOCOL"), getenv(settingOTLP+"PROTOCOL")
	if protocol := cmp.Or(own, shared); protocol != "" && protocol != "http/protobuf" {
		name := settingOTLP + "PROTOCOL"
		switch {
		case own != "":
			name = settingOTLPMetrics + "PROTOCOL"
		case traces:
			return Metrics{}, nil // readTraces reports it
		}
		return Metrics{}, fmt.Errorf("%s: wants http/protobuf, the only protocol that is built in (got %s); "+
			"%s=none pushes no metrics",
			name, settings.Quote(protocol), settingMetricsExporter)
	}
	return Metrics{Push: true}, nil
}

// exporterWanted reports whether a signal is to be exported by OTLP: where its variable
// asks for that, or an endpoint is named, and no variable forbids it. values are those that
// the signal's variable takes.
func exporterWanted(getenv func(string) string, variable, otlp string, values ...string) (bool, error) {
	var errs []error
	disabled, err := sdkDisabled(getenv)
	if err != nil {
		errs = append(errs, err)
	}
	on := getenv(settingOTLP+"ENDPOINT") != "" || getenv(otlp+"ENDPOINT") != ""
	if value := getenv(variable); value != "" {
		on = value == "otlp"
		if !slices.Contains(values, value) {
			last := len(values) - 1
			wants := strings.Join(values[:last], ", ") + " or " + values[last]
			errs = append(errs, fmt.Errorf("%s: wants %s (got %s)", variable, wants, settings.Quote(value)))
		}
	}
	if disabled {
		return false, nil // whatever the others say
	}
	return on, errors.Join(errs...)
}

// sdkDisabled reports whether OpenTelemetry is off altogether.
func sdkDisabled(getenv func(string) string) (bool, error) {
	switch value := getenv(settingSDKDisabled); {
	case value == "", strings.EqualFold(value, "false"):
		return false, nil
	case strings.EqualFold(value, "true"):
		return true, nil
	default:
		return false, fmt.Errorf("%s: wants true or false (got %s)", settingSDKDisabled, settings.Quote(value))
	}
}

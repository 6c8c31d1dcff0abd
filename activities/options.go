package activities

import (
	"context"
	"log/slog"
	"time"

	"go.opentelemetry.io/otel/metric"
	"go.opentelemetry.io/otel/trace"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/log"

	"github.com/outflowhq/outflow/internal/metrics"
)

// Option changes what New returns.
type Option func(*Activities)

// WithCallbacks has callbacks sent by sender. The default is PublishCallbacks over New's publisher.
func WithCallbacks(sender CallbackSender) Option {
	return func(a *Activities) { a.sender = sender }
}

// WithTracerProvider has spans recorded by p. The default is OpenTelemetry's global provider, which
// records none unless the program has set one up.
func WithTracerProvider(p trace.TracerProvider) Option {
	return func(a *Activities) { a.tracer.Provider = p }
}

// WithMeterProvider has metrics recorded by p. The default is OpenTelemetry's global provider,
// which records none unless the program has set one up.
func WithMeterProvider(p metric.MeterProvider) Option {
	return func(a *Activities) { a.metrics = metrics.New(p) }
}

// ForOutbox has the activities refuse tasks of an outbox with another name. Without it they refuse
// only tasks of another database.
func ForOutbox(name string) Option {
	return func(a *Activities) { a.owner.outbox = name }
}

// WithMissingGrace has messages wait that long, from when they were due, for a destination that does
// not exist or for a process that publishes to their scheme. Then they end dead. The default is
// outflow.DefaultMissingGrace; 0 or less has them end at once. Give the scanner the same
// (scanner.Options.MissingGrace).
func WithMissingGrace(grace time.Duration) Option {
	return func(a *Activities) { a.grace = max(grace, 0) }
}

// LogTo has two kinds of lines logged there: messages that ended dead or expired, and destinations
// that begin to fail or work again. The default is the worker's own logger.
func LogTo(to *slog.Logger) Option {
	return func(a *Activities) { a.log = log.NewStructuredLogger(to) }
}

// logger returns the logger that LogTo describes.
func (a *Activities) logger(ctx context.Context) log.Logger {
	switch {
	case a.log != nil:
		return a.log
	case activity.IsActivity(ctx):
		return activity.GetLogger(ctx)
	}
	return log.NewStructuredLogger(slog.Default())
}

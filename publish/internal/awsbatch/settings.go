package awsbatch

import (
	"time"

	"go.opentelemetry.io/otel/metric"

	"github.com/outflowhq/outflow"
)

// DefaultTimeout bounds a request with its retries: 1 MiB at 1 Mbit/s.
const DefaultTimeout = 10 * time.Second

// Settings are what an Option changes.
type Settings struct {
	linger          time.Duration
	alwaysLingers   bool
	maxRequests     int
	timeout         time.Duration
	maxDestinations int
	meters          metric.MeterProvider
}

// Option changes a default of New. A value that makes no sense keeps the default.
type Option func(*Settings)

// Linger sets how long a message waits for others to share its request; 0 for not at all. While
// several messages share each request, it is four times that. By default it is 5 ms, and a message
// before which none has come for 10 ms waits for no other.
func Linger(d time.Duration) Option {
	return func(s *Settings) { s.linger, s.alwaysLingers = max(d, 0), true }
}

// MaxRequests sets how many requests of Publish to one destination may be under way at once; 8
// by default.
func MaxRequests(n int) Option {
	return func(s *Settings) {
		if n > 0 {
			s.maxRequests = n
		}
	}
}

// Timeout sets how long a request may take with its retries: DefaultTimeout by default,
// outflow.MaxCallTime at most.
func Timeout(d time.Duration) Option {
	return func(s *Settings) {
		if d > 0 {
			s.timeout = min(d, outflow.MaxCallTime)
		}
	}
}

// MeterProvider sets the provider of the metrics of requests. The default is OpenTelemetry's
// global provider.
func MeterProvider(p metric.MeterProvider) Option { return func(s *Settings) { s.meters = p } }

func newSettings(opts []Option) Settings {
	s := Settings{
		linger: 5 * time.Millisecond, maxRequests: 8, timeout: DefaultTimeout,
		// A destination takes a few hundred bytes; dropping one costs a look-up.
		maxDestinations: 1000,
	}
	for _, opt := range opts {
		opt(&s)
	}
	return s
}

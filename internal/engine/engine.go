// Package engine reads the settings by which programs connect to Temporal, under the names that
// Temporal's own tools read: for the workers, and for the publisher of temporal destinations.
//
// The invariant: every mistake is reported with the variable's name and with what it wants, and
// keys and certificates that change in their files are used without a restart.
package engine

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"go.temporal.io/sdk/client"

	"github.com/outflowhq/outflow/internal/settings"
)

// Load reads the settings. The files are read again while the program runs.
func Load(getenv func(string) string) (client.Options, *Files, error) {
	read := settings.ReadFile // the first time, even where the file was just written
	files, err := settings.Reload("TEMPORAL_…", func() (content, error) { return readContent(getenv, read) })
	read = settings.ReadSettledFile
	if err != nil {
		return client.Options{}, nil, fmt.Errorf("TEMPORAL_… variables or TEMPORAL_CONFIG_FILE: %s",
			settings.Brief(err.Error()))
	}
	options := files.Get().options
	var errs []error
	if address := options.HostPort; address != "" && !settings.IsHostPort(address) && !namesResolver(address) {
		errs = append(errs, fmt.Errorf("TEMPORAL_ADDRESS: wants host:port, such as temporal.example.com:7233, "+
			"without a scheme (got %s)", settings.Quote(address)))
	}
	// The loader ignores values that it can't read, and a connection without TLS would be a
	// surprise.
	for _, name := range []string{"TEMPORAL_TLS", "TEMPORAL_TLS_DISABLE_HOST_VERIFICATION"} {
		switch value := getenv(name); strings.ToLower(value) {
		case "", "true", "false", "1", "0":
		default:
			errs = append(errs, fmt.Errorf("%s: wants true or false%s", name, settings.Got(value)))
		}
	}
	if len(errs) > 0 {
		return client.Options{}, nil, errors.Join(errs...)
	}
	rotate(&options, files)
	return options, files, nil
}

// lookup gives Temporal's loader the program's own view of the environment.
type lookup func(string) string

func (l lookup) Environ() []string { return os.Environ() }

func (l lookup) LookupEnv(name string) (string, bool) {
	value := l(name)
	return value, value != ""
}

// namesResolver reports whether an address names a resolver of gRPC, as in dns:///temporal:7233.
func namesResolver(address string) bool {
	scheme, _, found := strings.Cut(address, ":///")
	return found && scheme != "" && scheme != "http" && scheme != "https"
}

const (
	// keepAlive and keepAliveTimeout bound how long a connection to Temporal that went silent, and
	// was never closed, is used. The SDK's defaults of 30 and 15 seconds outlive a lease. A server
	// refuses more than one ping in ten seconds (frontend.keepAliveMinTime).
	keepAlive        = 15 * time.Second
	keepAliveTimeout = 5 * time.Second
)

// SetConnection sets what the settings leave open.
func SetConnection(o *client.ConnectionOptions) {
	if o.GrpcCompression == nil {
		// Requests have some hundred bytes. The SDK's default, to compress them, saves nothing.
		o.GrpcCompression = &client.GrpcCompressionNone{}
	}
	if o.KeepAliveTime == 0 {
		o.KeepAliveTime, o.KeepAliveTimeout = keepAlive, keepAliveTimeout
	}
}

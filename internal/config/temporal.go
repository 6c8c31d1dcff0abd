package config

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"go.temporal.io/sdk/client"

	"github.com/outflowhq/outflow/internal/settings"
)

// Temporal reads Temporal's settings alone.
func Temporal(getenv func(string) string) (client.Options, error) {
	options, _, err := temporal(getenv)
	return options, err
}

// temporal also returns the files, which are read again while the program runs.
func temporal(getenv func(string) string) (client.Options, *engineFiles, error) {
	read := settings.ReadFile // the first time, even where the file was just written
	files, err := settings.Reload("TEMPORAL_…", func() (engine, error) { return readEngine(getenv, read) })
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
	rotateTemporal(&options, files)
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

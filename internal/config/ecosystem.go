package config

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"regexp"
	"strconv"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"go.temporal.io/sdk/client"
)

// Temporal reads Temporal's settings alone.
func Temporal(getenv func(string) string) (client.Options, error) {
	options, _, err := temporal(getenv)
	return options, err
}

// temporal also returns the files, which are read again while the program runs.
func temporal(getenv func(string) string) (client.Options, *engineFiles, error) {
	read := readFile // the first time, as it is
	files, err := newReread("TEMPORAL_…", func() (engine, error) { return readEngine(getenv, read) })
	read = settledFile
	if err != nil {
		return client.Options{}, nil, fmt.Errorf("TEMPORAL_… variables or TEMPORAL_CONFIG_FILE: %s", brief(err.Error()))
	}
	options := files.get().options
	var errs []error
	if address := options.HostPort; address != "" && !isHostPort(address) && !namesResolver(address) {
		errs = append(errs, fmt.Errorf("TEMPORAL_ADDRESS: wants host:port, such as temporal.example.com:7233, without a scheme (got %s)", quote(address)))
	}
	// The loader overlooks what it can't read, and a connection without TLS would be
	// a surprise.
	for _, name := range []string{"TEMPORAL_TLS", "TEMPORAL_TLS_DISABLE_HOST_VERIFICATION"} {
		switch value := getenv(name); strings.ToLower(value) {
		case "", "true", "false", "1", "0":
		default:
			errs = append(errs, fmt.Errorf("%s: wants true or false%s", name, got(name, value)))
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

// namesResolver reports whether gRPC is to find the address in a way of its own,
// as in dns:///temporal:7233.
func namesResolver(address string) bool {
	scheme, _, found := strings.Cut(address, ":///")
	return found && scheme != "" && scheme != "http" && scheme != "https"
}

// plainHost is a name or an address; net.SplitHostPort has taken the brackets off.
var plainHost = regexp.MustCompile(`^[A-Za-z0-9.:_%-]{0,253}$`)

// isHostPort reports whether value is an address to listen on or to connect to:
// host:port, or :port for this machine.
func isHostPort(value string) bool {
	host, port, err := net.SplitHostPort(value)
	n, notNumber := strconv.ParseUint(port, 10, 16)
	return err == nil && notNumber == nil && n > 0 && plainHost.MatchString(host)
}

// plainRegion is a label of a host name. Emulators have names of their own.
var plainRegion = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$`)

// AWS reads AWS's settings alone, by its own default chain. The region may be empty:
// whoever sends webhooks alone needs none, and a destination may name its own.
func AWS(ctx context.Context, getenv func(string) string) (aws.Config, error) {
	c, err := loadAWS(ctx)
	if err != nil {
		return aws.Config{}, fmt.Errorf("AWS_… variables or files: %s", brief(err.Error()))
	}
	var errs []error
	if c.Region != "" && !plainRegion.MatchString(c.Region) { // it becomes a part of the endpoint's name
		errs = append(errs, fmt.Errorf("AWS_REGION: wants the region of your queues, such as eu-west-1 (got %s)", quote(c.Region)))
	}
	// The SDK takes any text, and fails at each request.
	for _, name := range []string{"AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_SQS"} {
		value := getenv(name)
		if value == "" || isEndpoint(value) {
			continue
		}
		said := got(name, value)
		if strings.Contains(value, "@") { // a password may stand before it
			said = ""
		}
		errs = append(errs, fmt.Errorf("%s: wants a URL of scheme, host and port, such as http://localhost:4566%s", name, said))
	}
	if len(errs) > 0 {
		return aws.Config{}, errors.Join(errs...)
	}
	rotateAWS(&c, loadAWS)
	return c, nil
}

// isEndpoint reports whether requests can go to value.
func isEndpoint(value string) bool {
	u, err := url.Parse(value)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.User != nil || u.RawQuery != "" || u.Fragment != "" {
		return false
	}
	port := u.Port()
	if port == "" {
		port = "443"
	}
	return u.Hostname() != "" && isHostPort(net.JoinHostPort(u.Hostname(), port))
}

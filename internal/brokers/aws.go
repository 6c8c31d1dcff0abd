package brokers

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/url"
	"regexp"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"

	"github.com/outflowhq/outflow/internal/settings"
)

// plainRegion is a label of a host name. Emulators have names of their own.
var plainRegion = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$`)

// loadAWS reads AWS's settings by AWS's own default chain; endpoint is the variable with
// the address of the one service that is used. The region may be empty: a program that
// sends only webhooks needs none, and a destination may name its own.
func loadAWS(ctx context.Context, getenv func(string) string, endpoint string) (aws.Config, error) {
	c, err := defaultChain(ctx)
	if err != nil {
		return aws.Config{}, fmt.Errorf("AWS_… variables or files: %s", settings.Brief(err.Error()))
	}
	var errs []error
	if c.Region != "" && !plainRegion.MatchString(c.Region) { // it becomes a part of the endpoint's name
		errs = append(errs, fmt.Errorf("AWS_REGION: wants the region of your queues, such as eu-west-1%s",
			settings.Got(c.Region)))
	}
	// The SDK takes any text, and fails at each request.
	for _, name := range []string{"AWS_ENDPOINT_URL", endpoint} {
		value := getenv(name)
		if value == "" || isEndpoint(value) {
			continue
		}
		said := settings.Got(value)
		if strings.Contains(value, "@") { // a password may stand before it
			said = ""
		}
		errs = append(errs, fmt.Errorf("%s: wants a URL of scheme, host and port, such as http://localhost:4566%s",
			name, said))
	}
	if len(errs) > 0 {
		return aws.Config{}, errors.Join(errs...)
	}
	followFiles(&c, defaultChain)
	return c, nil
}

func defaultChain(ctx context.Context) (aws.Config, error) { return awsconfig.LoadDefaultConfig(ctx) }

// isEndpoint reports whether requests can go to value.
func isEndpoint(value string) bool {
	u, err := url.Parse(value)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.User != nil || u.RawQuery != "" ||
		u.Fragment != "" {
		return false
	}
	port := u.Port()
	if port == "" {
		port = "443"
	}
	return u.Hostname() != "" && settings.IsHostPort(net.JoinHostPort(u.Hostname(), port))
}

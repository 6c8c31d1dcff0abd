package brokers

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"regexp"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	awsconfig "github.com/aws/aws-sdk-go-v2/config"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/settings"
)

// plainRegion is a label of a host name. Emulators have names of their own.
var plainRegion = regexp.MustCompile(`^[A-Za-z0-9]([A-Za-z0-9-]{0,61}[A-Za-z0-9])?$`)

// loadAWS reads AWS's settings by AWS's own default chain; endpoints are the variables with
// the addresses of the services that are used. The region may be empty: a program that
// sends only webhooks needs none, and a destination may name its own.
func loadAWS(ctx context.Context, getenv func(string) string, endpoints ...string) (aws.Config, error) {
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
	for _, name := range append([]string{"AWS_ENDPOINT_URL"}, endpoints...) {
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

// idleConnections is how many connections to a service are kept: as many as a stream has requests under
// way. The SDK keeps ten, and would connect again for each of the others.
const idleConnections = 64

func defaultChain(ctx context.Context) (aws.Config, error) {
	client := awshttp.NewBuildableClient().WithTransportOptions(func(t *http.Transport) {
		t.MaxIdleConnsPerHost = idleConnections
		t.MaxIdleConns = max(t.MaxIdleConns, 2*idleConnections)
	})
	return awsconfig.LoadDefaultConfig(ctx, awsconfig.WithHTTPClient(client))
}

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

// awsRemedy is what an operator can do about the look-up's error of a destination, such as a queue.
func awsRemedy(destination string) func(error) string {
	return func(err error) string {
		switch {
		case outflow.IsPermanent(err):
			return "create the " + destination + ", or outflow redirect its messages"
		case errors.Is(err, context.DeadlineExceeded):
			return "check the endpoint, AWS_REGION and the network"
		}
		return "check AWS_REGION, the credentials and their policy"
	}
}

// awsCommand is a command of AWS's own for a destination, with fifo where it is a FIFO one.
func awsCommand(command, destination, fifo string) string {
	d, err := outflow.ParseDestination(destination)
	if err != nil {
		return ""
	}
	if strings.HasPrefix(d.Name, "-") { // else the command takes the name for an option
		command += "=" + d.Name
	} else {
		command += " " + d.Name
	}
	if d.FIFO() {
		command += fifo
	}
	if d.Region != "" {
		command += " --region " + d.Region
	}
	return command
}

package outflow

import (
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"
)

// The schemes of the destinations that Outflow knows.
const (
	SchemeSQS      = "sqs"
	SchemeSNS      = "sns"
	SchemeRabbitMQ = "rabbitmq"
	SchemeHTTPS    = "https"
	// SchemeHTTP is for development: its hosts are this machine alone.
	SchemeHTTP = "http"
)

// maxDestination is the longest destination in bytes; URLs beyond about 2,000
// characters are refused by many servers and proxies.
const maxDestination = 2000

// Destination is a parsed destination. Its String is the canonical form, which
// is what the table stores.
type Destination struct {
	Scheme string
	// Name is the queue (sqs), the topic (sns) or the exchange (rabbitmq; empty
	// for the default exchange).
	Name string
	// RoutingKey is RabbitMQ's.
	RoutingKey string
	// Region and Account are AWS's; empty means those of the configured client.
	Region, Account string
	// URL is the whole address of an https or http destination.
	URL string
}

var (
	awsName    = regexp.MustCompile(`^[A-Za-z0-9_-]+(\.fifo)?$`)
	awsRegion  = regexp.MustCompile(`^[a-z]{2,4}(-[a-z]+)+-[0-9]{1,2}$`)
	awsAccount = regexp.MustCompile(`^[0-9]{12}$`)
	awsARN     = regexp.MustCompile(`^arn:aws[a-z-]*:(sqs|sns):([^:]*):([^:]*):([^:]*)$`)
	// A queue URL names region, account and queue. Emulators answer on any
	// host, with http, without a region; AWS's own hosts carry it.
	awsQueueURL = regexp.MustCompile(`^https://(?:sqs\.([a-z0-9-]+)|([a-z0-9-]+)\.queue)\.amazonaws\.com(?:\.cn)?/([0-9]{12})/([^/?#]+)$`)
	vpcQueueURL = regexp.MustCompile(`^https://[a-z0-9-]+\.sqs\.([a-z0-9-]+)\.vpce\.amazonaws\.com(?:\.cn)?/([0-9]{12})/([^/?#]+)$`)
	anyQueueURL = regexp.MustCompile(`^http://[^/?#@]+/([0-9]{12})/([^/?#]+)$`)
	// loopbackAddress begins an address on this machine. One spelling of each host:
	// what 127.1, 0x7f.1 or ::ffff:127.0.0.1 is, depends on who reads it.
	loopbackAddress = regexp.MustCompile(`^http://(localhost|127(\.(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])){3}|\[::1\])(:[0-9]+)?([/?#]|$)`)
)

// ParseDestination parses a destination:
//
//	sqs://queue[?account=123456789012&region=eu-west-1]
//	sns://topic[?account=…&region=…]
//	rabbitmq://exchange/routing-key   (rabbitmq:///routing-key for the default exchange)
//	https://host/path
//	http://localhost:8080/path   (or 127.0.0.0/8, or [::1]: for development)
//
// An ARN of an SQS queue or SNS topic and an SQS queue URL are accepted as
// pasted. The host of a queue URL is dropped: the endpoint is the client's
// own setting. So http://localhost/000000000000/name is an emulator's queue; with
// a slash or a query behind it, it is an address. The error says what was wrong
// and what is wanted.
func ParseDestination(s string) (Destination, error) {
	d, err := parseDestination(s)
	if err != nil {
		return Destination{}, fmt.Errorf("wants sqs://queue, sns://topic, rabbitmq://exchange/routing-key, https://host/path, a queue URL or an ARN: %w (got %q)", err, abbreviate(s))
	}
	return d, nil
}

func parseDestination(s string) (Destination, error) {
	if len(s) > maxDestination {
		return Destination{}, fmt.Errorf("longer than %d bytes", maxDestination)
	}
	if m := awsARN.FindStringSubmatch(s); m != nil {
		return awsDestination(m[1], m[4], m[2], m[3])
	}
	if m := awsQueueURL.FindStringSubmatch(s); m != nil {
		return awsDestination(SchemeSQS, m[4], m[1]+m[2], m[3])
	}
	if m := vpcQueueURL.FindStringSubmatch(s); m != nil {
		return awsDestination(SchemeSQS, m[3], m[1], m[2])
	}
	if m := anyQueueURL.FindStringSubmatch(s); m != nil {
		return awsDestination(SchemeSQS, m[2], "", m[1])
	}
	scheme, rest, found := strings.Cut(s, "://")
	if !found {
		return Destination{}, fmt.Errorf("no scheme")
	}
	switch scheme {
	case SchemeSQS, SchemeSNS:
		return parseAWS(scheme, rest)
	case SchemeRabbitMQ:
		return parseRabbitMQ(rest)
	case SchemeHTTPS:
		return parseAddress(scheme, s)
	case SchemeHTTP:
		if !loopbackAddress.MatchString(s) {
			return Destination{}, fmt.Errorf("plain http is for localhost, 127.0.0.0/8 and [::1] alone; others want https")
		}
		return parseAddress(scheme, s)
	}
	return Destination{}, fmt.Errorf("unknown scheme %q", abbreviate(scheme))
}

func parseAWS(scheme, rest string) (Destination, error) {
	name, query, _ := strings.Cut(rest, "?")
	values, err := url.ParseQuery(query)
	if err != nil {
		return Destination{}, fmt.Errorf("reading the query: %w", err)
	}
	for key, given := range values {
		if key != "region" && key != "account" {
			return Destination{}, fmt.Errorf("unknown parameter %q; known are region and account", abbreviate(key))
		}
		if len(given) > 1 || given[0] == "" {
			return Destination{}, fmt.Errorf("parameter %s wants one value", key)
		}
	}
	return awsDestination(scheme, name, values.Get("region"), values.Get("account"))
}

// awsDestination holds AWS's rules for names: a queue has 1 to 80 characters,
// a topic 1 to 256, both with ".fifo" counted in.
// https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-queues.html
// https://docs.aws.amazon.com/sns/latest/api/API_CreateTopic.html
func awsDestination(scheme, name, region, account string) (Destination, error) {
	longest := 80
	if scheme == SchemeSNS {
		longest = 256
	}
	if len(name) > longest || !awsName.MatchString(name) {
		return Destination{}, fmt.Errorf("a name in %s has 1 to %d letters, digits, _ or -, and may end in .fifo", scheme, longest)
	}
	if region != "" && !awsRegion.MatchString(region) {
		return Destination{}, fmt.Errorf("region wants a form like eu-west-1")
	}
	if account != "" && !awsAccount.MatchString(account) {
		return Destination{}, fmt.Errorf("account wants 12 digits")
	}
	return Destination{Scheme: scheme, Name: name, Region: region, Account: account}, nil
}

func parseRabbitMQ(rest string) (Destination, error) {
	exchange, key, found := strings.Cut(rest, "/")
	if !found || strings.ContainsAny(rest, "?#") {
		return Destination{}, fmt.Errorf("rabbitmq wants exchange/routing-key, percent-encoded, and no query")
	}
	d := Destination{Scheme: SchemeRabbitMQ}
	var err error
	if d.Name, err = decodeShortString(exchange); err != nil {
		return Destination{}, fmt.Errorf("reading rabbitmq's exchange: %w", err)
	}
	if d.RoutingKey, err = decodeShortString(key); err != nil {
		return Destination{}, fmt.Errorf("reading rabbitmq's routing key: %w", err)
	}
	if d.Name == "" && d.RoutingKey == "" {
		return Destination{}, fmt.Errorf("rabbitmq's default exchange wants a routing key")
	}
	return d, nil
}

// decodeShortString undoes percent-encoding. AMQP 0-9-1 keeps exchange and
// routing key in short strings of at most 255 bytes.
func decodeShortString(encoded string) (string, error) {
	decoded, err := url.PathUnescape(encoded)
	if err != nil {
		return "", err
	}
	if len(decoded) > 255 || !utf8.ValidString(decoded) || strings.ContainsFunc(decoded, unicode.IsControl) {
		return "", fmt.Errorf("at most 255 bytes of UTF-8 without control characters")
	}
	return decoded, nil
}

func parseAddress(scheme, s string) (Destination, error) {
	if strings.ContainsFunc(s, func(r rune) bool { return r <= ' ' || r > '~' }) {
		return Destination{}, fmt.Errorf("an %s address has printable ASCII characters only; percent-encode the others", scheme)
	}
	u, err := url.Parse(s)
	if err != nil {
		return Destination{}, fmt.Errorf("reading the address: %w", err)
	}
	if u.Hostname() == "" || u.User != nil || u.Fragment != "" {
		return Destination{}, fmt.Errorf("an %s address wants a host, and no user name or fragment", scheme)
	}
	return Destination{Scheme: scheme, URL: s}, nil
}

// FIFO reports whether the destination is a FIFO queue or topic of AWS.
func (d Destination) FIFO() bool {
	return (d.Scheme == SchemeSQS || d.Scheme == SchemeSNS) && strings.HasSuffix(d.Name, ".fifo")
}

// String returns the canonical form.
func (d Destination) String() string {
	switch d.Scheme {
	case SchemeHTTPS, SchemeHTTP:
		return d.URL
	case SchemeRabbitMQ:
		return SchemeRabbitMQ + "://" + url.PathEscape(d.Name) + "/" + url.PathEscape(d.RoutingKey)
	}
	query := url.Values{}
	if d.Account != "" {
		query.Set("account", d.Account)
	}
	if d.Region != "" {
		query.Set("region", d.Region)
	}
	s := d.Scheme + "://" + d.Name
	if len(query) > 0 {
		s += "?" + query.Encode()
	}
	return s
}

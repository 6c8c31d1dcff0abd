package outflow

import (
	"errors"
	"fmt"
	"net/url"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/outflowhq/outflow/internal/text"
)

// The schemes of the destinations that Outflow knows.
const (
	SchemeSQS      = "sqs"
	SchemeSNS      = "sns"
	SchemeRabbitMQ = "rabbitmq"
	SchemeTemporal = "temporal"
	SchemeHTTPS    = "https"
	// SchemeHTTP is for development: its hosts are this machine alone.
	SchemeHTTP = "http"
)

// maxDestination is the longest destination in bytes; many servers and proxies refuse URLs beyond
// about 2,000 characters.
const maxDestination = 2000

// Destination is a parsed destination. The table stores its canonical form, which String returns.
type Destination struct {
	Scheme string
	// Name is the queue (sqs), the topic (sns) or the exchange (rabbitmq; empty for the default
	// exchange).
	Name string
	// RoutingKey is RabbitMQ's.
	RoutingKey string
	// Region and Account are AWS's; empty means those of the configured client.
	Region, Account string
	// TaskQueue and WorkflowType are those of a workflow that is started (temporal), and
	// Namespace is its namespace; empty means the configured client's.
	TaskQueue, WorkflowType, Namespace string
	// Signal is the name of a signal to send to that workflow, which is started where it does not
	// run; empty means a start alone.
	Signal string
	// UseExisting has a start use the run that its workflow ID has already, where it has one.
	UseExisting bool
	// URL is the whole address of an https or http destination, and of one for a publisher of your
	// own.
	URL string
}

var (
	awsName    = regexp.MustCompile(`^[A-Za-z0-9_-]+(\.fifo)?$`)
	awsRegion  = regexp.MustCompile(`^` + regionForm + `$`)
	awsAccount = regexp.MustCompile(`^[0-9]{12}$`)
	awsARN     = regexp.MustCompile(`^arn:aws[a-z-]*:(sqs|sns):([^:]*):([^:]*):([^:]*)$`)
)

const regionForm = `[a-z]{2,4}(?:-[a-z]+)+-[0-9]{1,2}`

// ParseDestination parses a destination:
//
//	sqs://queue[?account=123456789012&region=eu-west-1]
//	sns://topic[?account=…&region=…]
//	rabbitmq://exchange/routing-key   (rabbitmq:///routing-key for the default exchange)
//	temporal://task-queue/WorkflowType[?namespace=…][&signal=NAME][&existing=use]
//	https://host/path
//	http://localhost:8080/path   (or 127.0.0.0/8, or [::1]: for development)
//	x-name://anything            (for a publisher of your own: printable ASCII characters, no "#")
//
// It takes an ARN of an SQS queue or SNS topic and the URL of an SQS queue as pasted, in the forms
// of AWS and its emulators (destination_queue_url.go). It keeps the region and the account of a
// queue's URL; the endpoint is the client's own setting. A URL in https or http becomes canonical:
// its host in lower case, no default port, and "/" for an empty path. The error says what was
// wrong and what is wanted, and repeats no query of a URL.
func ParseDestination(s string) (Destination, error) {
	d, err := parseDestination(s)
	if err != nil {
		return Destination{}, fmt.Errorf("wants sqs://queue, sns://topic, rabbitmq://exchange/routing-key, "+
			"temporal://task-queue/WorkflowType, https://host/path, a queue URL or an ARN: %w (got %q)",
			err, text.Abbreviate(DisplayDestination(s)))
	}
	return d, nil
}

// parseDestination does in Go what outbox.canonical_destination and outbox.is_destination do in
// SQL, with the reasons of outbox.destination_refusal.
func parseDestination(s string) (Destination, error) {
	if len(s) > maxDestination {
		return Destination{}, errTooLong
	}
	if m := awsARN.FindStringSubmatch(s); m != nil {
		return awsDestination(m[1], m[4], m[2], m[3])
	}
	scheme, rest, found := strings.Cut(s, "://")
	if !found {
		return Destination{}, noScheme(s)
	}
	switch scheme {
	case SchemeSQS, SchemeSNS:
		return parseAWS(scheme, rest)
	case SchemeRabbitMQ:
		return parseRabbitMQ(rest)
	case SchemeTemporal:
		return parseTemporal(rest)
	case SchemeHTTPS, SchemeHTTP:
		return parseAddress(scheme, rest)
	}
	if strings.HasPrefix(scheme, ownPrefix) {
		return parseOwn(scheme, rest)
	}
	return Destination{}, unknownScheme(scheme, rest)
}

var (
	errTooLong = fmt.Errorf("longer than %d bytes", maxDestination)
	errRegion  = errors.New("region wants a form like eu-west-1")
)

// ownPrefix begins the schemes of publishers that Outflow does not have, so that none of its later
// schemes has the same name.
const ownPrefix = "x-"

var (
	ownName = regexp.MustCompile(`^x(?:-[a-z0-9]+)+$`)
	ownRest = regexp.MustCompile(`^[!"$-~]+$`)
	errOwn  = errors.New("a scheme of your own wants x- and up to 30 lower-case letters, digits and inner hyphens, " +
		"and behind it printable ASCII characters without #")
)

func parseOwn(scheme, rest string) (Destination, error) {
	if len(scheme) > len(ownPrefix)+30 || !ownName.MatchString(scheme) || !ownRest.MatchString(rest) {
		return Destination{}, errOwn
	}
	return Destination{Scheme: scheme, URL: scheme + "://" + rest}, nil
}

func parseAWS(scheme, rest string) (Destination, error) {
	name, query, asked := strings.Cut(rest, "?")
	values := map[string]string{}
	for _, parameter := range strings.Split(query, "&") {
		key, value, _ := strings.Cut(parameter, "=")
		switch {
		case !asked:
		case key != "region" && key != "account":
			return Destination{}, fmt.Errorf("unknown parameter%s; known are region and account", quoteWord(key))
		case value == "" || values[key] != "":
			return Destination{}, fmt.Errorf("parameter %s wants one value", key)
		default:
			values[key] = value
		}
	}
	return awsDestination(scheme, name, values["region"], values["account"])
}

// awsDestination checks AWS's rules for names: a queue has 1 to 80 characters, a topic 1 to 256,
// with ".fifo" counted in.
// https://docs.aws.amazon.com/AWSSimpleQueueService/latest/SQSDeveloperGuide/quotas-queues.html
// https://docs.aws.amazon.com/sns/latest/api/API_CreateTopic.html
func awsDestination(scheme, name, region, account string) (Destination, error) {
	longest := 80
	if scheme == SchemeSNS {
		longest = 256
	}
	if len(name) > longest || !awsName.MatchString(name) {
		return Destination{}, fmt.Errorf("a name in %s has 1 to %d letters, digits, _ or -, and may end in .fifo",
			scheme, longest)
	}
	if region != "" && !awsRegion.MatchString(region) {
		return Destination{}, errRegion
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
	var nameOK, keyOK bool
	d.Name, nameOK = decodeShortString(exchange)
	d.RoutingKey, keyOK = decodeShortString(key)
	if !nameOK || !keyOK {
		return Destination{}, errShortString
	}
	if d.Name == "" && d.RoutingKey == "" {
		return Destination{}, fmt.Errorf("rabbitmq's default exchange wants a routing key")
	}
	return d, nil
}

// decodeShortString undoes percent-encoding. AMQP 0-9-1 has exchange and routing key in short
// strings of at most 255 bytes.
func decodeShortString(encoded string) (decoded string, ok bool) {
	decoded, err := url.PathUnescape(encoded)
	return decoded, err == nil && len(decoded) <= 255 && utf8.ValidString(decoded) &&
		!strings.ContainsFunc(decoded, unicode.IsControl)
}

var errShortString = errors.New(
	"rabbitmq's exchange and routing key want at most 255 bytes of UTF-8 each, percent-encoded, " +
		"without control characters")

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
	case SchemeTemporal:
		return d.temporal()
	}
	if strings.HasPrefix(d.Scheme, ownPrefix) {
		return d.URL
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

// DisplayDestination returns a destination as logs, errors, histories and spans show it: a URL
// has scheme, host and path only, because a query often holds a token. Only the row and the
// request have the whole destination. Any text will do, valid or not.
func DisplayDestination(destination string) string {
	if ownScheme.MatchString(destination) {
		return destination
	}
	if at := strings.IndexAny(destination, "?#"); at >= 0 {
		destination = destination[:at]
	}
	start := strings.Index(destination, "//") + len("//")
	if start < len("//") {
		return destination
	}
	end := start + strings.IndexByte(destination[start:]+"/", '/')
	at := start + strings.LastIndexByte(destination[start:end], '@') + 1
	return destination[:start] + destination[at:]
}

// ownScheme begins destinations whose query, if any, has Outflow's own parameters only.
var ownScheme = regexp.MustCompile(`^(?i:sqs|sns|rabbitmq|temporal|arn):`)

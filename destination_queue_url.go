package outflow

import (
	"errors"
	"regexp"
)

// awsSuffix has the DNS suffixes of AWS's partitions, those for dual stack too.
// https://docs.aws.amazon.com/general/latest/gr/sqs-service.html and the endpoints
// in AWS's SDK.
const awsSuffix = `(?:amazonaws\.com(?:\.cn)?|amazonaws\.eu|api\.aws|api\.amazonwebservices\.(?:com\.cn|eu)` +
	`|c2s\.ic\.gov|sc2s\.sgov\.gov` +
	`|cloud\.adc-e\.uk|csp\.hci\.ic\.gov|api\.aws(?:\.hci)?\.ic\.gov|api\.aws\.scloud|api\.cloud-aws\.adc-e\.uk)`

// The URLs of queues. The same expressions stand in outbox.canonical_destination; those that
// recognise a wrong URL of a queue stand in outbox.is_destination too.
var (
	sqsHost = regexp.MustCompile(`^(?:sqs(?:-fips)?\.([a-z0-9-]+)|[a-z0-9-]+\.sqs(?:-fips)?\.([a-z0-9-]+)\.vpce` +
		`|([a-z0-9-]+)\.queue)\.` + awsSuffix + `$`)
	// Before regions had names: https://docs.aws.amazon.com/general/latest/gr/sqs-service.html
	// ("legacy endpoints").
	firstSQSHost = "queue.amazonaws.com"
	firstRegion  = "us-east-1"
	sqsPath      = regexp.MustCompile(`^/([0-9]{12})/([^/?]+)/?$`)

	// LocalStack's strategies "standard", "domain" and "path", and goaws, on a host of its own name or
	// on localhost.
	emulatorRegion = regexp.MustCompile(`^(?:sqs\.(` + regionForm + `)\.|(` + regionForm +
		`)\.(?:queue|goaws|localhost)(?:\.|$))`)
	emulatorPath = regexp.MustCompile(`^/(?:queue/([^/?]+)/)?([0-9]{12})/([^/?]+)/?$`)

	sqsHostLike = regexp.MustCompile(`(?:^|\.)(?:queue|sqs(?:-fips)?(?:\.[a-z0-9-]+)?(?:\.vpce)?)\.` + awsSuffix + `$`)
	pathLike    = regexp.MustCompile(`^/+(?:queue/+[^/?]+/+)?[0-9]{12}/+[^/?]+/*(?:\?|$)`)
	regionPath  = regexp.MustCompile(`^/+queue/+` + regionForm + `/`)
	// emulatorHost matches hosts that only emulators have, in https too.
	emulatorHost = regexp.MustCompile(`^(?:127\.[0-9.]+|\[::1\]|(?:[a-z0-9_.-]+\.)?(?:localhost|localstack\.cloud))$`)
	noRegionHost = regexp.MustCompile(`^(?:sqs\.[^.]+|[^.]+\.queue)\.localhost(?:\.localstack\.cloud)?$`)
	ipv6Host     = regexp.MustCompile(`^\[[0-9a-f:]+\]$`)
)

var (
	errQueueURL = errors.New("it looks like an SQS queue's URL, which wants /ACCOUNT/QUEUE, " +
		"with 12 digits and no query, " +
		"on port 443 or 80 of a host such as sqs.eu-west-1.amazonaws.com, or on an emulator; " +
		"sqs://QUEUE?account=ACCOUNT&region=REGION is the same")
	errTwoRegions = errors.New("a queue's URL wants one region, and its host and path name two")
)

// queue returns the queue whose URL an address is. A URL that looks like a queue's and can't be
// read is an error: sent as a webhook, a message would be lost in an emulator that answers 200 to
// anything.
func (a address) queue() (d Destination, is bool, err error) {
	if sqsHostLike.MatchString(a.host) {
		d, err = a.awsQueue()
		return d, true, err
	}
	switch {
	case !pathLike.MatchString(a.path), a.host[0] == '[' && !ipv6Host.MatchString(a.host):
		return Destination{}, false, nil
	case a.scheme == SchemeHTTP, emulatorHost.MatchString(a.host),
		emulatorRegion.MatchString(a.host), regionPath.MatchString(a.path):
		d, err = a.emulatorQueue()
		return d, true, err
	}
	return Destination{}, false, nil
}

func (a address) awsQueue() (Destination, error) {
	host, path := sqsHost.FindStringSubmatch(a.host), sqsPath.FindStringSubmatch(a.path)
	if a.host == firstSQSHost {
		host = []string{"", firstRegion, "", ""}
	}
	if host == nil || path == nil || a.port != "" && a.port != "443" && a.port != "80" {
		return Destination{}, errQueueURL
	}
	return awsDestination(SchemeSQS, path[2], host[1]+host[2]+host[3], path[1])
}

func (a address) emulatorQueue() (Destination, error) {
	region, path := "", emulatorPath.FindStringSubmatch(a.path)
	if host := emulatorRegion.FindStringSubmatch(a.host); host != nil {
		region = host[1] + host[2]
	}
	switch {
	case path == nil:
		return Destination{}, errQueueURL
	case region == "" && noRegionHost.MatchString(a.host):
		return Destination{}, errRegion
	case region != "" && path[1] != "" && region != path[1]:
		return Destination{}, errTwoRegions
	case region == "":
		region = path[1]
	}
	return awsDestination(SchemeSQS, path[3], region, path[2])
}

package awssqs

import (
	"time"

	"github.com/aws/aws-sdk-go-v2/service/sqs"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/publish/internal/aws"
)

// caller is what every request for one destination shares.
type caller struct {
	api         API
	destination outflow.Destination
	timeout     time.Duration
}

// minTime is the time that an attempt to send must have left.
func (c *caller) minTime() time.Duration { return c.timeout / 5 }

// retryFor returns options for a request that is tried again for that long only, however long
// its answer may take.
func (c *caller) retryFor(d time.Duration) func(*sqs.Options) {
	until := time.Now().Add(d)
	return func(o *sqs.Options) {
		c.options(o)
		o.Retryer = &aws.Retryer{Service: service, MinTime: c.minTime(), Until: until}
	}
}

// options sets what Outflow's promises need, whatever client it was given.
func (c *caller) options(o *sqs.Options) {
	o.Retryer = &aws.Retryer{Service: service, MinTime: c.minTime()}
	// The SDK turns one wrong checksum into an error of the whole batch; accepted checks it for
	// each entry instead.
	o.DisableMessageChecksumValidation = true
	if c.destination.Region != "" {
		o.Region = c.destination.Region
	}
}

package awssns

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/sns"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/publish/internal/awsbatch"
)

// topic finds the ARN of one topic. Nothing shows whether the topic exists before a message is
// sent: a request that does would want a permission more.
type topic struct {
	caller      *caller
	destination outflow.Destination
	timeout     time.Duration
}

func (c *caller) finder(d outflow.Destination, timeout time.Duration) awsbatch.Finder {
	return topic{caller: c, destination: d, timeout: timeout}
}

// Find is awsbatch.Finder's.
func (t topic) Find(
	ctx context.Context, reserve time.Duration, stale *awsbatch.Address,
) (*awsbatch.Address, error) {
	d := t.destination
	if err := t.caller.missingRegion(d); err != nil {
		return nil, err
	}
	region := d.Region
	if region == "" {
		region = t.caller.region()
	}
	if d.Account != "" {
		return &awsbatch.Address{Value: arn(region, d.Account, d.Name)}, nil
	}
	var old *awsbatch.Address
	if stale != nil {
		old = stale.Of
	}
	account, err := t.caller.accountFor(region, t.timeout).Find(ctx, reserve, old)
	if err != nil {
		return nil, fmt.Errorf("sending to %s: %w; to need no look-up, set AWS_ACCOUNT_ID, "+
			"or redirect the message to %s", d, err, awsbatch.With(d, "account"))
	}
	return &awsbatch.Address{Value: arn(region, account.Value, d.Name), Of: account}, nil
}

func arn(region, account, name string) string {
	return strings.Join([]string{"arn", partitionOf(region), "sns", region, account, name}, ":")
}

// partitions have the beginnings of their regions, as AWS's SDKs know them. Any other region is
// of the partition aws.
// https://docs.aws.amazon.com/IAM/latest/UserGuide/reference-arns.html
var partitions = []struct{ regions, name string }{
	{"cn-", "aws-cn"}, {"us-gov-", "aws-us-gov"}, {"eusc-", "aws-eusc"},
	{"us-iso-", "aws-iso"}, {"us-isob-", "aws-iso-b"}, {"eu-isoe-", "aws-iso-e"}, {"us-isof-", "aws-iso-f"},
}

func partitionOf(region string) string {
	for _, p := range partitions {
		if strings.HasPrefix(region, p.regions) {
			return p.name
		}
	}
	return "aws"
}

// region is the client's own.
func (c *caller) region() string {
	if client, ok := c.api.(interface{ Options() sns.Options }); ok {
		return client.Options().Region
	}
	return ""
}

func (c *caller) missingRegion(d outflow.Destination) error {
	if d.Region != "" || c.region() != "" {
		return nil
	}
	return awsbatch.NoRegion(d)
}

// Refusal is why nothing is sent to a topic whose region neither its destination nor the client
// names, or nil. A program that sends to no topic needs no region.
func (p *Publisher) Refusal(destination string) error {
	d, err := outflow.ParseDestination(destination)
	if err != nil {
		return nil // Publish refuses it
	}
	return p.caller.missingRegion(d)
}

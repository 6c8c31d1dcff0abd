package awssns

import (
	"context"

	sdk "github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sns"
	"github.com/aws/aws-sdk-go-v2/service/sns/types"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/publish/internal/aws"
	"github.com/outflowhq/outflow/publish/internal/awsbatch"
)

// caller makes the requests to SNS and STS.
type caller struct {
	api      API
	identity IdentityAPI // nil for none
	account  accounts
}

// options sets what Outflow's promises need, whatever client it was given.
func options(d outflow.Destination, r *aws.Retryer) func(*sns.Options) {
	return func(o *sns.Options) {
		o.Retryer = r
		if d.Region != "" {
			o.Region = d.Region
		}
	}
}

func (c *caller) send(ctx context.Context, r awsbatch.Request) (outcomes []awsbatch.Outcome, err error) {
	in := &sns.PublishBatchInput{TopicArn: &r.Address}
	for _, e := range r.Entries {
		in.PublishBatchRequestEntries = append(in.PublishBatchRequestEntries, entryOf(e))
	}
	out, err := c.api.PublishBatch(ctx, in, options(r.Destination, r.Retryer))
	if err != nil {
		return nil, err
	}
	for _, e := range out.Successful {
		outcomes = append(outcomes, awsbatch.Outcome{ID: e.Id, MessageID: e.MessageId})
	}
	// After the successes: an entry that is in both lists is sent again, since a duplicate is
	// better than a loss.
	for _, e := range out.Failed {
		outcomes = append(outcomes, awsbatch.Outcome{
			ID: e.Id, Refused: true, Code: e.Code, Said: e.Message, SenderFault: e.SenderFault,
		})
	}
	return outcomes, nil
}

func entryOf(e awsbatch.Entry) types.PublishBatchRequestEntry {
	entry := types.PublishBatchRequestEntry{
		Id: &e.ID, Message: &e.Body,
		MessageAttributes: make(map[string]types.MessageAttributeValue, len(e.Attributes)),
	}
	for name, value := range e.Attributes {
		entry.MessageAttributes[name] = types.MessageAttributeValue{
			DataType: sdk.String(aws.AttributeDataType), StringValue: &value,
		}
	}
	if e.Group != "" {
		entry.MessageGroupId, entry.MessageDeduplicationId = &e.Group, &e.Deduplication
	}
	if e.Subject != "" {
		entry.Subject = &e.Subject
	}
	return entry
}

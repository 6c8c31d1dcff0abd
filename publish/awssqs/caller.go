package awssqs

import (
	"context"
	"fmt"
	"time"

	sdk "github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/publish/internal/aws"
	"github.com/outflowhq/outflow/publish/internal/awsbatch"
)

// caller makes the requests to SQS.
type caller struct{ api API }

// options sets what Outflow's promises need, whatever client it was given.
func options(d outflow.Destination, r *aws.Retryer) func(*sqs.Options) {
	return func(o *sqs.Options) {
		o.Retryer = r
		// The SDK turns one wrong checksum into an error of the whole batch; awsbatch checks it
		// for each entry instead.
		o.DisableMessageChecksumValidation = true
		if d.Region != "" {
			o.Region = d.Region
		}
	}
}

// finder looks a queue's URL up.
func (c caller) finder(d outflow.Destination, timeout time.Duration) awsbatch.Finder {
	doing := "looking up " + d.String()
	return &awsbatch.Lookup{
		Errors: service, Doing: doing, Timeout: timeout,
		Ask: func(ctx context.Context, r *aws.Retryer) (string, error) {
			if err := missingRegion(c.api, d); err != nil {
				return "", err
			}
			in := &sqs.GetQueueUrlInput{QueueName: sdk.String(d.Name)}
			if d.Account != "" {
				in.QueueOwnerAWSAccountId = sdk.String(d.Account)
			}
			out, err := c.api.GetQueueUrl(ctx, in, options(d, r))
			if err != nil {
				return "", err
			}
			if sdk.ToString(out.QueueUrl) == "" {
				return "", outflow.Retryable(fmt.Errorf("%s: the answer has no queue URL (check the endpoint)", doing))
			}
			return *out.QueueUrl, nil
		},
	}
}

func (c caller) send(ctx context.Context, r awsbatch.Request) (outcomes []awsbatch.Outcome, err error) {
	in := &sqs.SendMessageBatchInput{
		QueueUrl: &r.Address, Entries: make([]types.SendMessageBatchRequestEntry, 0, len(r.Entries)),
	}
	for _, e := range r.Entries {
		in.Entries = append(in.Entries, entryOf(e))
	}
	out, err := c.api.SendMessageBatch(ctx, in, options(r.Destination, r.Retryer))
	if err != nil {
		return nil, err
	}
	for _, e := range out.Successful {
		outcomes = append(outcomes, awsbatch.Outcome{ID: e.Id, MessageID: e.MessageId, BodyMD5: e.MD5OfMessageBody})
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

var attributeDataType = sdk.String(aws.AttributeDataType)

func entryOf(e awsbatch.Entry) types.SendMessageBatchRequestEntry {
	entry := types.SendMessageBatchRequestEntry{
		Id: &e.ID, MessageBody: &e.Body,
		MessageAttributes: make(map[string]types.MessageAttributeValue, len(e.Attributes)),
	}
	for name, value := range e.Attributes {
		entry.MessageAttributes[name] = types.MessageAttributeValue{
			DataType: attributeDataType, StringValue: &value,
		}
	}
	if e.Group != "" {
		entry.MessageGroupId, entry.MessageDeduplicationId = &e.Group, &e.Deduplication
	}
	return entry
}

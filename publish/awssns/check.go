package awssns

import (
	"context"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/sns"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/publish/internal/aws"
	"github.com/outflowhq/outflow/publish/internal/awsbatch"
)

// Check looks a topic up and sends nothing. It needs the permission sns:GetTopicAttributes, which
// Publish does not. A nil error says that the topic exists; whether these credentials may publish
// to it shows only when a message is sent. Errors carry an outflow.Class, as Publish's do.
func (p *Publisher) Check(ctx context.Context, destination string) error {
	return p.batches.Check(ctx, destination)
}

// checker is a finder that asks SNS whether the topic exists.
func (c *caller) checker(d outflow.Destination, timeout time.Duration) awsbatch.Finder {
	looking := *service
	looking.Actions = "sns:GetTopicAttributes, which only a look-up needs,"
	return &awsbatch.Lookup{
		Errors: &looking, Doing: "looking up " + d.String(), Timeout: timeout,
		Ask: func(ctx context.Context, r *aws.Retryer) (string, error) {
			topic, err := c.finder(d, timeout).Find(ctx, 0, nil)
			if err != nil {
				return "", err
			}
			_, err = c.api.GetTopicAttributes(ctx, &sns.GetTopicAttributesInput{TopicArn: &topic.Value}, options(d, r))
			return topic.Value, err
		},
	}
}

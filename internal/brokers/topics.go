package brokers

import (
	"cmp"
	"context"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sns"
	"github.com/aws/aws-sdk-go-v2/service/sts"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/settings"
	"github.com/outflowhq/outflow/publish/awssns"
)

// topics is the registration of Amazon SNS.
type topics struct{ timeout time.Duration }

var _ registration = (*topics)(nil)

func (*topics) schemes() []string { return []string{outflow.SchemeSNS} }

// settings leaves AWS_REGION to the registration of SQS.
func (t *topics) settings() []settings.Setting {
	return []settings.Setting{{
		Name: "OUTFLOW_SNS_TIMEOUT", Default: awssns.DefaultTimeout.String(),
		Meaning: "how long SNS has to answer a durable attempt, 1s to 30s; a fast path waits 2.5 s at most",
		Set:     settings.Duration(&t.timeout, time.Second, outflow.MaxCallTime),
	}}
}

func (*topics) validate(func(string) string) error { return nil }

func (t *topics) open(ctx context.Context, getenv func(string) string) (Broker, error) {
	account, err := loadAWS(ctx, getenv, "AWS_ENDPOINT_URL_SNS", "AWS_ENDPOINT_URL_STS")
	if err != nil {
		return Broker{}, err
	}
	return SNS(account, t.timeout), nil
}

// SNS is the broker of an AWS account's topics. A timeout of 0 means the default.
func SNS(account aws.Config, timeout time.Duration) Broker {
	b := Broker{
		Schemes: []string{outflow.SchemeSNS},
		Publisher: awssns.New(sns.NewFromConfig(account), awssns.WithTimeout(timeout),
			awssns.WithIdentity(sts.NewFromConfig(account))),
		Timeout: cmp.Or(timeout, awssns.DefaultTimeout),
		Doctor:  Doctor{Remedy: awsRemedy("topic"), Create: createTopic},
	}
	if account.Region == "" {
		b.Waiting = "no AWS region is configured (AWS_REGION): messages to topics wait, " +
			"unless their destination names its region"
	}
	return b
}

// createTopic is the command that makes a topic.
func createTopic(destination string) string {
	return awsCommand("aws sns create-topic --name", destination, " --attributes FifoTopic=true")
}

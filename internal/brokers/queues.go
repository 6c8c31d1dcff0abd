package brokers

import (
	"cmp"
	"context"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/settings"
	"github.com/outflowhq/outflow/publish/awssqs"
)

// queues is the registration of Amazon SQS.
type queues struct{ timeout time.Duration }

var _ registration = (*queues)(nil)

func (*queues) schemes() []string { return []string{outflow.SchemeSQS} }

func (q *queues) settings() []settings.Setting {
	return []settings.Setting{
		{
			Name:    "AWS_REGION",
			Meaning: "and AWS's other variables and files; AWS_ENDPOINT_URL_SQS and _SNS for an emulator",
		},
		{
			Name: "OUTFLOW_SQS_TIMEOUT", Default: awssqs.DefaultTimeout.String(),
			Meaning: "how long SQS has to answer a durable attempt, 1s to 30s; a fast path waits 2.5 s at most",
			Set:     settings.Duration(&q.timeout, time.Second, outflow.MaxCallTime),
		},
	}
}

func (*queues) validate(func(string) string) error { return nil }

func (q *queues) open(ctx context.Context, getenv func(string) string) (Broker, error) {
	account, err := loadAWS(ctx, getenv, "AWS_ENDPOINT_URL_SQS")
	if err != nil {
		return Broker{}, err
	}
	return SQS(account, q.timeout), nil
}

// SQS is the broker of an AWS account's queues. A timeout of 0 means the default.
func SQS(account aws.Config, timeout time.Duration) Broker {
	b := Broker{
		Schemes:   []string{outflow.SchemeSQS},
		Publisher: awssqs.New(sqs.NewFromConfig(account), awssqs.WithTimeout(timeout)),
		Timeout:   cmp.Or(timeout, awssqs.DefaultTimeout),
		Doctor:    Doctor{Remedy: awsRemedy("queue"), Create: createQueue},
	}
	if account.Region == "" {
		b.Waiting = "no AWS region is configured (AWS_REGION): messages to queues wait, " +
			"unless their destination names its region"
	}
	return b
}

// createQueue is the command that makes a queue.
func createQueue(destination string) string {
	return awsCommand("aws sqs create-queue --queue-name", destination, " --attributes FifoQueue=true")
}

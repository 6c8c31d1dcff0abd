package awssqs

import (
	"github.com/aws/aws-sdk-go-v2/service/sqs"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/publish/internal/awsbatch"
)

// Refusal is why nothing is sent to a queue whose region neither its destination nor the
// client names, or nil. A program that sends webhooks alone needs no region.
func (p *Publisher) Refusal(destination string) error {
	d, err := outflow.ParseDestination(destination)
	if err != nil {
		return nil // Publish refuses it
	}
	return missingRegion(p.api, d)
}

func missingRegion(api API, d outflow.Destination) error {
	client, ok := api.(interface{ Options() sqs.Options })
	if !ok || d.Region != "" || client.Options().Region != "" {
		return nil
	}
	return awsbatch.NoRegion(d)
}

package main

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/teststack"
)

// A refused destination is refused in the same words by Go, by SQL (outboxdb's
// TestDestinationsAsPasted) and by the commands that take one.
func TestRefusedDestinationsInTheSameWords(t *testing.T) {
	settings := map[string]string{"DATABASE_URL": teststack.New(t).Config().ConnString()}
	for _, destination := range []string{
		"orders", "sqs:orders", "sqs://orders?region=Ireland", "sqs://orders?queue=x", "sns://news!",
		"https://host:99999", "https://sqs.eu-west-1.amazonaws.com/12345/orders",
		"http://sqs.ireland.localhost:4566/000000000000/orders", "http://example.com/",
		"arn:aws:sns:eu-west-1:123456789012:news:0190a5b0", "arn:aws:s3:::bucket", "kafka://orders",
	} {
		_, refusal := outflow.ParseDestination(destination)
		require.Error(t, refusal, destination)
		for _, line := range []string{
			"send -type order-placed -destination " + destination,
			"redirect -to " + destination + " 0198f3a2-5b1c-7000-8000-000000000001",
			"callback set -type order-placed " + destination,
		} {
			_, _, err := with(t, settings, "x", line)
			require.Error(t, err, line)
			require.ErrorContains(t, err, refusal.Error()[len("wants sqs://queue, sns://topic, "):], line)
		}
	}
}

package awssqs_test

import (
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
)

// Each endpoint that AWS's SDK knows for a region of each partition, plain, FIPS and dual stack, is
// read as the host of a queue's URL.
func TestTheSDKsEndpointsAreQueueURLs(t *testing.T) {
	hosts := map[string]bool{}
	for _, region := range []string{
		"us-east-1", "us-west-2", "eu-west-1", "eu-central-2", "ap-southeast-7", "mx-central-1", "ca-west-1", "il-central-1",
		"cn-north-1", "cn-northwest-1", "us-gov-east-1", "us-gov-west-1", "eusc-de-east-1",
		"us-iso-east-1", "us-iso-west-1", "us-isob-east-1", "us-isob-west-1", "eu-isoe-west-1",
		"us-isof-east-1", "us-isof-south-1",
	} {
		for _, fips := range []bool{false, true} {
			for _, dual := range []bool{false, true} {
				endpoint, err := sqs.NewDefaultEndpointResolverV2().ResolveEndpoint(t.Context(), sqs.EndpointParameters{
					Region: aws.String(region), UseFIPS: aws.Bool(fips), UseDualStack: aws.Bool(dual)})
				require.NoError(t, err, region)
				hosts[endpoint.URI.Host] = true
				d, err := outflow.ParseDestination(endpoint.URI.String() + "/123456789012/orders.fifo")
				require.NoError(t, err)
				assert.Equal(t, outflow.Destination{Scheme: "sqs", Name: "orders.fifo", Region: region,
					Account: "123456789012"}, d, endpoint.URI.Host)
			}
		}
	}
	assert.Greater(t, len(hosts), 50)
}

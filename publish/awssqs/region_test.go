package awssqs_test

import (
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/publish/awssqs"
	"github.com/outflowhq/outflow/publish/publishtest/fakesqs"
)

// TestWithoutARegion: nothing is sent where no setting names the region, and that says nothing
// about the message.
func TestWithoutARegion(t *testing.T) {
	t.Parallel()
	queues := &fakesqs.Server{AutoCreate: true}
	var requests atomic.Int64
	endpoint := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		requests.Add(1)
		queues.ServeHTTP(w, r)
	}))
	t.Cleanup(endpoint.Close)
	p := awssqs.New(newClient(t, endpoint.URL, func(o *sqs.Options) { o.Region = "" }))
	m, err := outflow.JSON("sqs://orders", "order-placed", 7)
	require.NoError(t, err)
	m.ID = uuid.New()
	_, err = p.Publish(t.Context(), m)
	require.ErrorContains(t, err, "sqs://orders: no AWS region is configured, "+
		"and the destination names none (set AWS_REGION")
	require.Equal(t, outflow.ClassUnavailable, outflow.ClassOf(err))
	require.ErrorContains(t, p.Check(t.Context(), "sqs://orders"), "set AWS_REGION")
	require.ErrorContains(t, p.Refusal("sqs://orders"), "set AWS_REGION")
	require.Zero(t, requests.Load())

	m.Destination = "sqs://orders?region=eu-west-1"
	require.NoError(t, p.Refusal(m.Destination))
	_, err = p.Publish(t.Context(), m)
	require.NoError(t, err)
}

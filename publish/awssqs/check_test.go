package awssqs_test

import (
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/publish/awssqs"
	"github.com/outflowhq/outflow/publish/publishtest/fakesqs"
)

func TestCheckLooksUpAndSendsNothing(t *testing.T) {
	b := newBroker(t)
	b.CreateQueue("", "orders", nil)
	p := awssqs.New(b.client)
	require.NoError(t, p.Check(t.Context(), "sqs://orders"))

	err := p.Check(t.Context(), "sqs://gone")
	require.ErrorContains(t, err, "looking up sqs://gone")
	assert.True(t, outflow.IsPermanent(err))
	b.CreateQueue("", "gone", nil)
	require.NoError(t, p.Check(t.Context(), "sqs://gone"), "it asks each time")

	for _, other := range []string{"nonsense", "https://shop.example/in"} {
		assert.True(t, outflow.IsPermanent(p.Check(t.Context(), other)), other)
	}
	b.Inject(fakesqs.Fault{Action: "GetQueueUrl", Error: &fakesqs.Error{Code: "AccessDenied", Message: "no"}})
	err = p.Check(t.Context(), "sqs://orders")
	require.Error(t, err)
	assert.False(t, outflow.IsPermanent(err))
	assert.Empty(t, b.Requests("SendMessageBatch"))
}

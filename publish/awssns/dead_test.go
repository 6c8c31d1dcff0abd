package awssns_test

import (
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/golden"
	"github.com/outflowhq/outflow/internal/text"
	"github.com/outflowhq/outflow/publish/awssns"
	"github.com/outflowhq/outflow/publish/internal/aws"
	"github.com/outflowhq/outflow/publish/publishtest/fakesns"
)

// lastError publishes to the topic news and returns the error that the row gets.
func lastError(t *testing.T, payload, destination string, refusal *fakesns.Error) string {
	t.Helper()
	b := newBroker(t)
	b.CreateTopic(arnOf("news"), nil)
	if refusal != nil {
		b.Inject(fakesns.Fault{Action: batch, Error: refusal})
	}
	m := message(destination, payload)
	m.ID = uuid.MustParse("0190a5b0-7c3e-7d50-9a2f-000000000001")
	_, err := b.publisher(awssns.WithLinger(0)).Publish(t.Context(), m)
	require.True(t, outflow.IsPermanent(err), "%v", err)
	return text.Clean(err.Error())
}

// TestWhyMessagesEndDead pins, for each cause that SQS has not, the text that an operator reads.
func TestWhyMessagesEndDead(t *testing.T) {
	var all []golden.Death
	for _, d := range []struct {
		cause, payload, destination string
		refusal                     *fakesns.Error
	}{
		{"another scheme", "x", "sqs://orders", nil},
		{"bad topic name", "x", "sns://news!", nil},
		{"unknown topic", "x", "sns://missing", nil},
		{"too large for the topic", strings.Repeat("x", 300_000), "sns://news", nil},
		{"too large for the topic, in the words of a request with one message", "payload", "sns://news",
			&fakesns.Error{Code: "InvalidParameter", Message: "Invalid parameter: Message too long"}},
		{"too large for any topic", strings.Repeat("x", 1<<20), "sns://news", nil},
		{"too large as base64", strings.Repeat("\x00", 800_000), "sns://news", nil},
		{"a proxy's size limit", "payload", "sns://news", &fakesns.Error{Status: 413}},
	} {
		all = append(all, golden.Death{Cause: d.cause, LastError: lastError(t, d.payload, d.destination, d.refusal)})
	}
	shown := all[:len(all):len(all)]
	refusal, codes := "", []string{} // SNS's codes, and the one text that they share
	for _, code := range awssns.CodesOf(aws.Content) {
		text := lastError(t, "payload", "sns://news",
			&fakesns.Error{Code: code, Message: "Invalid parameter: Message Reason: payload"})
		require.NotContains(t, text, "payload", "AWS's words may quote the message")
		all = append(all, golden.Death{Cause: "SNS refuses it: " + code, LastError: text})
		shape := strings.Replace(text, code, "CODE", 1)
		require.True(t, refusal == "" || refusal == shape, "%s differs from %s", text, refusal)
		refusal, codes = shape, append(codes, "`"+code+"`")
	}
	shown = append(shown, golden.Death{Cause: "SNS refuses it, and CODE is one of " + strings.Join(codes, ", "),
		LastError: refusal})
	golden.Deaths(t, "publish/awssns", all, shown)
}

package awssqs_test

import (
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/publish/awssqs"
)

// TestRoundTrip: every kind of payload with every kind of headers, through SQS's
// rules and back.
func TestRoundTrip(t *testing.T) {
	payloads := []string{
		`{"name":"Åsa","emoji":"🦉"}`, " \t\r\n ", "a\x00b", "\xff\xfe caf\xe9", "\uFFFE\uFFFF", "\uFFFD",
		"\xed\xa0\x80",
		"aGVsbG8=", `<a b="c">&amp;]]></a>`, "\r\n", strings.Repeat("\x01", 30_000),
	}
	many := map[string]string{
		"traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tracestate": "a=b",
		"empty": "", "control": "\x01",
		"Content-Type": "not the payload's", "outflow-type": "not Outflow's", "aws.reserved": "x",
		"two..dots": "x", "ö": `"\<&>`, "\uFFFF": "\uFFFE",
	}
	for i := range 20 {
		many[fmt.Sprintf("x-header.%02d", i)] = strings.Repeat("v", i+1)
	}
	kinds := []map[string]string{nil, {"tenant": "acme"}, {"line": "a\nb\r\tc"}, {"odd": ""}, many}

	for _, suffix := range []string{"", ".fifo"} {
		t.Run("queue"+suffix, func(t *testing.T) {
			b := newBroker(t)
			b.CreateQueue("", "orders"+suffix, visibleAtOnce)
			p := awssqs.New(b.client)
			sent := map[uuid.UUID]outflow.Message{}
			var wg sync.WaitGroup
			for i, payload := range payloads {
				for _, headers := range kinds {
					m := outflow.Message{
						ID: uuid.Must(uuid.NewV7()), Destination: "sqs://orders" + suffix, Type: "a.b_c:d/e-f",
						ContentType: `text/plain; charset="utf-8"`, Headers: headers, Payload: []byte(payload),
					}
					if i%2 == 0 {
						m.OrderingKey = fmt.Sprintf("customer-%d", i)
					}
					wg.Go(func() {
						_, err := p.Publish(t.Context(), m)
						assert.NoError(t, err)
					})
					want := m
					want.Destination = "" // it stays in the outbox
					if suffix == "" {
						want.OrderingKey = ""
					}
					sent[m.ID] = want
				}
			}
			wg.Wait()
			got := b.receive(t, "orders"+suffix)
			require.Len(t, got, len(payloads)*len(kinds))
			for _, m := range got {
				require.Equal(t, sent[m.ID], m)
			}
		})
	}
}

// A consumer that asks for too few attributes would take base64 for the payload.
func TestDecodeMissesWhatWasNotAskedFor(t *testing.T) {
	b := newBroker(t)
	b.CreateQueue("", "orders", visibleAtOnce)
	id := uuid.Must(uuid.NewV7())
	_, err := awssqs.New(b.client).Publish(t.Context(),
		outflow.Message{ID: id, Destination: "sqs://orders", Type: "scan", Payload: []byte{0}})
	require.NoError(t, err)
	url, err := b.client.GetQueueUrl(t.Context(), &sqs.GetQueueUrlInput{QueueName: aws.String("orders")})
	require.NoError(t, err)
	for _, tc := range []struct {
		ask  []string
		says string
	}{
		{nil, "no attribute outflow-message-id"},
		{[]string{awssqs.AttributeMessageID}, "decoding message " + id.String() + ": no attribute outflow-type"},
		{[]string{awssqs.AttributeMessageID, awssqs.AttributeType},
			"decoding message " + id.String() + ": no attribute content-type"},
	} {
		out, err := b.client.ReceiveMessage(t.Context(),
			&sqs.ReceiveMessageInput{QueueUrl: url.QueueUrl, MessageAttributeNames: tc.ask})
		require.NoError(t, err)
		require.Len(t, out.Messages, 1)
		_, err = awssqs.Decode(out.Messages[0])
		require.ErrorContains(t, err, tc.says)
	}
}

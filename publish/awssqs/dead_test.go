package awssqs_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/golden"
	"github.com/outflowhq/outflow/internal/text"
	"github.com/outflowhq/outflow/publish"
	"github.com/outflowhq/outflow/publish/awssqs"
	"github.com/outflowhq/outflow/publish/internal/aws"
	"github.com/outflowhq/outflow/publish/publishtest/fakesqs"
)

// death is a cause for which a message ends dead, and how to cause it.
type death struct {
	cause string
	// code is SQS's, for causes that differ in the code alone.
	code string
	// attributes are those of the queue, orders.
	attributes map[string]string
	message    outflow.Message
	fault      *fakesqs.Fault
	// api, if set, stands before the client.
	api func(*sqs.Client) awssqs.API
}

func to(destination string) outflow.Message {
	m := message(destination, "payload")
	m.ID = uuid.MustParse("0190a5b0-7c3e-7d50-9a2f-000000000001")
	return m
}

func changed(change func(*outflow.Message)) outflow.Message {
	m := to("sqs://orders")
	change(&m)
	return m
}

// outOfRange is a client that panics as Go does.
type outOfRange struct{ *sqs.Client }

func (outOfRange) SendMessageBatch(_ context.Context, in *sqs.SendMessageBatchInput,
	_ ...func(*sqs.Options)) (*sqs.SendMessageBatchOutput, error) {
	return nil, fmt.Errorf("%v", in.Entries[7])
}

func deaths() []death {
	refuse := func(status int, code string) *fakesqs.Fault {
		return &fakesqs.Fault{Action: batch, Error: &fakesqs.Error{
			Status: status, Code: code, SenderFault: true,
			Message: "Value payload for parameter MessageBody is invalid."}}
	}
	all := []death{
		{cause: "no scheme", message: to("orders")},
		{cause: "unknown scheme", message: to("ftp://orders")},
		{cause: "bad queue name", message: to("sqs://orders!")},
		{cause: "bad region", message: to("sqs://orders?region=moon")},
		{cause: "no publisher for the scheme", message: to("sns://news")},
		{cause: "unknown queue", message: to("sqs://missing")},
		{cause: "unknown queue, in the other spelling", message: to("sqs://orders"),
			fault: &fakesqs.Fault{Action: "GetQueueUrl", Error: &fakesqs.Error{Code: "QueueDoesNotExist"}}},
		{cause: "too large for SQS", message: changed(func(m *outflow.Message) {
			m.Payload = bytes.Repeat([]byte("x"),
				1<<20)
		})},
		{cause: "too large as base64", message: changed(func(m *outflow.Message) {
			m.Payload = make([]byte,
				800_000)
		})},
		{cause: "too large with its headers", message: changed(func(m *outflow.Message) {
			m.Payload, m.Headers = bytes.Repeat([]byte("x"), 1_000_000), map[string]string{}
			for i := range 64 {
				m.Headers[fmt.Sprintf("x-%02d", i)] = strings.Repeat("v", 1000)
			}
		})},
		{cause: "too large for the queue's own limit",
			message:    changed(func(m *outflow.Message) { m.Payload = bytes.Repeat([]byte("x"), 2000) }),
			attributes: map[string]string{"MaximumMessageSize": "1024"}},
		{cause: "characters that no attribute takes", message: changed(func(m *outflow.Message) { m.Type = "a\x01b" })},
		{cause: "a header that is not UTF-8",
			message: changed(func(m *outflow.Message) { m.Headers = map[string]string{"x": "\xff"} })},
		{cause: "panic", message: to("sqs://orders"), api: func(c *sqs.Client) awssqs.API { return outOfRange{c} }},
		{cause: "panic that may quote the message", message: to("sqs://orders"),
			api: func(c *sqs.Client) awssqs.API { return panicking{c, false} }},
		{cause: "a proxy's size limit", message: to("sqs://orders"), fault: refuse(413, "")},
	}
	for i := range all {
		if all[i].cause == "panic that may quote the message" {
			all[i].message.Payload = []byte("guilty")
		}
	}
	for _, code := range awssqs.CodesOf(aws.Content) {
		all = append(all, death{cause: "SQS refuses it: " + code, code: code, message: to("sqs://orders"),
			fault: refuse(400, code)})
	}
	return all
}

// lastError causes the death and returns the error that the row gets.
func (d death) lastError(t *testing.T) string {
	t.Helper()
	b := newBroker(t)
	b.CreateQueue("", "orders", d.attributes)
	if d.fault != nil {
		b.Inject(*d.fault)
	}
	var api awssqs.API = b.client
	if d.api != nil {
		api = d.api(b.client)
	}
	_, err := publish.NewRouter(awssqs.New(api, awssqs.WithLinger(0))).Publish(t.Context(), d.message)
	require.True(t, outflow.IsPermanent(err), "%s: %v", d.cause, err)
	return text.Clean(err.Error())
}

// TestWhyMessagesEndDead pins, for each cause, the text that an operator reads:
// what happened, and in brackets or after a semicolon what to do.
func TestWhyMessagesEndDead(t *testing.T) {
	var all, shown []golden.Death
	var refusals []string // SQS's codes, and the one text that they share
	var refusal string
	for _, d := range deaths() {
		text := d.lastError(t)
		require.NotContains(t, text, "payload for", "AWS's words may quote the message")
		require.NotContains(t, text, "guilty")
		all = append(all, golden.Death{Cause: d.cause, LastError: text})
		if d.code == "" {
			shown = append(shown, golden.Death{Cause: d.cause, LastError: text})
			continue
		}
		shape := strings.Replace(text, d.code, "CODE", 1)
		require.True(t, refusal == "" || refusal == shape, "%s differs from %s", text, refusal)
		refusal = shape
		refusals = append(refusals, "`"+d.code+"`")
	}
	shown = append(shown, golden.Death{Cause: "SQS refuses it, and CODE is one of " + strings.Join(refusals, ", "),
		LastError: refusal})
	golden.Deaths(t, "publish/awssqs", all, shown)
}

// TestEveryPermanentCodeIsAmongTheDead: codes for a missing queue come from the look-up, the
// others are refusals.
func TestEveryPermanentCodeIsAmongTheDead(t *testing.T) {
	pinned, err := os.ReadFile("testdata/dead.golden")
	require.NoError(t, err)
	for _, code := range append(awssqs.CodesOf(aws.Missing), awssqs.CodesOf(aws.Content)...) {
		require.Contains(t, string(pinned), ": "+code, code)
	}
}

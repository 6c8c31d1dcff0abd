package fakesqs_test

import (
	"errors"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/aws/smithy-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/outflowhq/outflow/publish/publishtest/fakesqs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// start returns a client of a fake with the queues "orders" and "orders.fifo",
// and their URLs.
func start(t *testing.T, fake *fakesqs.Server) (client *sqs.Client, orders, fifo string) {
	server := httptest.NewServer(fake)
	t.Cleanup(server.Close)
	client = sqs.New(sqs.Options{
		BaseEndpoint: aws.String(server.URL), Region: "eu-west-1", RetryMaxAttempts: 1,
		Credentials: credentials.NewStaticCredentialsProvider("fake", "fake", ""),
	})
	for _, name := range []string{"orders", "orders.fifo"} {
		out, err := client.CreateQueue(t.Context(), &sqs.CreateQueueInput{QueueName: &name})
		require.NoError(t, err)
		orders, fifo = fifo, *out.QueueUrl
	}
	return client, orders, fifo
}

func entry(id, body string) types.SendMessageBatchRequestEntry {
	return types.SendMessageBatchRequestEntry{Id: &id, MessageBody: &body}
}

func attributes(n int, value string) map[string]types.MessageAttributeValue {
	found := map[string]types.MessageAttributeValue{}
	for i := range n {
		found[fmt.Sprintf("a%d", i)] = types.MessageAttributeValue{DataType: aws.String("String"), StringValue: &value}
	}
	return found
}

func codeOf(err error) string {
	var api smithy.APIError
	if errors.As(err, &api) {
		return api.ErrorCode()
	}
	return ""
}

func TestRulesOfABatch(t *testing.T) {
	client, orders, _ := start(t, &fakesqs.Server{})
	var eleven []types.SendMessageBatchRequestEntry
	for i := range 11 {
		eleven = append(eleven, entry(fmt.Sprint(i), "x"))
	}
	half := strings.Repeat("x", 524_288)
	for want, entries := range map[string][]types.SendMessageBatchRequestEntry{
		"":                             {entry("a", half), entry("b", half)},
		"TooManyEntriesInBatchRequest": eleven,
		"EmptyBatchRequest":            {},
		"BatchRequestTooLong":          {entry("a", half), entry("b", half+"x")},
		"BatchEntryIdsNotDistinct":     {entry("a", "x"), entry("a", "x")},
		"InvalidBatchEntryId":          {entry("ä", "x")},
	} {
		_, err := client.SendMessageBatch(t.Context(), &sqs.SendMessageBatchInput{QueueUrl: &orders, Entries: entries})
		assert.Equal(t, want, strings.TrimPrefix(codeOf(err), "AWS.SimpleQueueService."), "%v", err)
	}
	_, err := client.SendMessageBatch(t.Context(),
		&sqs.SendMessageBatchInput{QueueUrl: aws.String(orders + "x"), Entries: eleven})
	assert.Equal(t, "AWS.SimpleQueueService.NonExistentQueue", codeOf(err))
}

func TestRulesOfAMessage(t *testing.T) {
	fake := &fakesqs.Server{}
	client, orders, fifo := start(t, fake)
	fake.CreateQueue("", "small", map[string]string{"MaximumMessageSize": "1024"})
	small := strings.Replace(orders, "orders", "small", 1)
	withAttributes := func(a map[string]types.MessageAttributeValue) types.SendMessageBatchRequestEntry {
		e := entry("a", "x")
		e.MessageAttributes = a
		return e
	}
	named := func(name string) map[string]types.MessageAttributeValue {
		return map[string]types.MessageAttributeValue{name: {DataType: aws.String("String"),
			StringValue: aws.String("v")}}
	}
	grouped := entry("a", "x")
	grouped.MessageGroupId = aws.String("g")
	full := grouped
	full.MessageDeduplicationId = aws.String("d")
	for name, tc := range map[string]struct {
		queue string
		entry types.SendMessageBatchRequestEntry
		want  string
	}{
		"plain":                     {orders, entry("a", "x"), ""},
		"every allowed range":       {orders, entry("a", "\t\n\r \uD7FF\uE000\uFFFD\U00010000\U0010FFFF"), ""},
		"empty body":                {orders, entry("a", ""), "MissingParameter"},
		"NUL":                       {orders, entry("a", "a\x00"), "InvalidMessageContents"},
		"non-character":             {orders, entry("a", "\uFFFE"), "InvalidMessageContents"},
		"queue's own limit":         {small, entry("a", strings.Repeat("x", 1025)), "InvalidParameterValue"},
		"attributes count as bytes": {small, withAttributes(attributes(1, strings.Repeat("x", 1024-9))), ""},
		"to the last one": {small, withAttributes(attributes(1, strings.Repeat("x", 1024-8))),
			"InvalidParameterValue"},
		"ten attributes":            {orders, withAttributes(attributes(10, "v")), ""},
		"eleven attributes":         {orders, withAttributes(attributes(11, "v")), "InvalidParameterValue"},
		"empty attribute":           {orders, withAttributes(attributes(1, "")), "InvalidParameterValue"},
		"odd attribute":             {orders, withAttributes(attributes(1, "\x01")), "InvalidParameterValue"},
		"name with AWS.":            {orders, withAttributes(named("AWS.x")), "InvalidParameterValue"},
		"name with a last dot":      {orders, withAttributes(named("x.")), "InvalidParameterValue"},
		"FIFO":                      {fifo, full, ""},
		"FIFO without a group":      {fifo, entry("a", "x"), "InvalidParameterValue"},
		"FIFO without a token":      {fifo, grouped, "InvalidParameterValue"},
		"token on a standard queue": {orders, full, "InvalidParameterValue"},
	} {
		t.Run(name, func(t *testing.T) {
			out, err := client.SendMessageBatch(t.Context(), &sqs.SendMessageBatchInput{
				QueueUrl: &tc.queue, Entries: []types.SendMessageBatchRequestEntry{tc.entry},
			})
			require.NoError(t, err)
			if tc.want == "" {
				assert.Len(t, out.Successful, 1)
				assert.Empty(t, out.Failed)
				return
			}
			require.Len(t, out.Failed, 1)
			assert.Equal(t, tc.want, *out.Failed[0].Code)
			assert.True(t, out.Failed[0].SenderFault)
		})
	}
}

func TestReceivingHidesAndDeletes(t *testing.T) {
	now := time.Now()
	fake := &fakesqs.Server{Now: func() time.Time { return now }}
	client, orders, _ := start(t, fake)
	_, err := client.SendMessage(t.Context(), &sqs.SendMessageInput{
		QueueUrl: &orders, MessageBody: aws.String("x"), MessageAttributes: attributes(2, "v"),
	})
	require.NoError(t, err)
	receive := func(names ...string) []types.Message {
		out, err := client.ReceiveMessage(t.Context(),
			&sqs.ReceiveMessageInput{QueueUrl: &orders, MessageAttributeNames: names})
		require.NoError(t, err)
		return out.Messages
	}
	got := receive("a1")
	require.Len(t, got, 1)
	assert.Len(t, got[0].MessageAttributes, 1, "only what was asked for")
	assert.Empty(t, receive(), "invisible")
	now = now.Add(30 * time.Second)
	got = receive("All")
	require.Len(t, got, 1, "visible again")
	assert.Len(t, got[0].MessageAttributes, 2)
	_, err = client.DeleteMessage(t.Context(),
		&sqs.DeleteMessageInput{QueueUrl: &orders, ReceiptHandle: got[0].ReceiptHandle})
	require.NoError(t, err)
	assert.Empty(t, fake.Messages("", "orders"))
}

func TestLongPollEndsWhenAMessageArrives(t *testing.T) {
	fake := &fakesqs.Server{}
	client, orders, _ := start(t, fake)
	got := make(chan int)
	begun := time.Now()
	go func() {
		out, err := client.ReceiveMessage(t.Context(), &sqs.ReceiveMessageInput{QueueUrl: &orders, WaitTimeSeconds: 20})
		assert.NoError(t, err)
		got <- len(out.Messages)
	}()
	require.Eventually(t, func() bool { return len(fake.Requests("ReceiveMessage")) == 1 }, 5*time.Second,
		time.Millisecond)
	_, err := client.SendMessage(t.Context(), &sqs.SendMessageInput{QueueUrl: &orders, MessageBody: aws.String("x")})
	require.NoError(t, err)
	assert.Equal(t, 1, <-got)
	assert.Less(t, time.Since(begun), 20*time.Second)
}

func TestFIFOGroupWaitsForItsMessageInFlight(t *testing.T) {
	client, _, fifo := start(t, &fakesqs.Server{})
	for i, group := range []string{"g", "g", "h"} {
		_, err := client.SendMessage(t.Context(), &sqs.SendMessageInput{
			QueueUrl: &fifo, MessageBody: aws.String(fmt.Sprint(i)), MessageGroupId: &group,
			MessageDeduplicationId: aws.String(fmt.Sprint(i)),
		})
		require.NoError(t, err)
	}
	var bodies []string
	for range 3 {
		out, err := client.ReceiveMessage(t.Context(), &sqs.ReceiveMessageInput{QueueUrl: &fifo})
		require.NoError(t, err)
		for _, m := range out.Messages {
			bodies = append(bodies, *m.Body)
		}
	}
	assert.Equal(t, []string{"0", "2"}, bodies)
}

func TestQueuesAndFaults(t *testing.T) {
	fake := &fakesqs.Server{}
	client, orders, _ := start(t, fake)
	list, err := client.ListQueues(t.Context(), &sqs.ListQueuesInput{QueueNamePrefix: aws.String("orders")})
	require.NoError(t, err)
	assert.Len(t, list.QueueUrls, 2)

	fake.Inject(fakesqs.Fault{Queue: "orders", Times: 1,
		Error: &fakesqs.Error{Status: 503, Code: "ServiceUnavailable"}})
	purge := &sqs.PurgeQueueInput{QueueUrl: &orders}
	_, err = client.PurgeQueue(t.Context(), purge)
	assert.Equal(t, "ServiceUnavailable", codeOf(err))
	_, err = client.PurgeQueue(t.Context(), purge)
	assert.NoError(t, err, "once only")

	fake.Inject(fakesqs.Fault{Queue: "orders", CutBefore: true})
	_, err = client.PurgeQueue(t.Context(), purge)
	assert.Error(t, err)
	fake.Heal("orders")
	_, err = client.PurgeQueue(t.Context(), purge)
	assert.NoError(t, err)

	_, err = client.TagQueue(t.Context(), &sqs.TagQueueInput{QueueUrl: &orders, Tags: map[string]string{"a": "b"}})
	assert.Equal(t, "AWS.SimpleQueueService.UnsupportedOperation", codeOf(err))
	_, err = client.DeleteQueue(t.Context(), &sqs.DeleteQueueInput{QueueUrl: &orders})
	require.NoError(t, err)
	_, err = client.PurgeQueue(t.Context(), purge)
	assert.Equal(t, "AWS.SimpleQueueService.NonExistentQueue", codeOf(err))
}

func TestAcceptancesKeepWhatWasTaken(t *testing.T) {
	fake := &fakesqs.Server{}
	client, orders, fifo := start(t, fake)
	_, err := client.SendMessage(t.Context(),
		&sqs.SendMessageInput{QueueUrl: &orders, MessageBody: aws.String("first")})
	require.NoError(t, err)
	fake.Inject(fakesqs.Fault{Queue: "orders", Times: 1, CutAfter: true})
	_, err = client.SendMessageBatch(t.Context(), &sqs.SendMessageBatchInput{QueueUrl: &orders,
		Entries: []types.SendMessageBatchRequestEntry{entry("a", "cut"), entry("b", "\a")}})
	require.Error(t, err)
	_, err = client.PurgeQueue(t.Context(), &sqs.PurgeQueueInput{QueueUrl: &orders})
	require.NoError(t, err)
	for range 2 {
		_, err = client.SendMessage(t.Context(), &sqs.SendMessageInput{QueueUrl: &fifo,
			MessageBody: aws.String("again"), MessageGroupId: aws.String("g"), MessageDeduplicationId: aws.String("d")})
		require.NoError(t, err)
	}
	var accepted []string
	for _, a := range fake.Acceptances() {
		assert.False(t, a.Answered.Before(a.Received))
		accepted = append(accepted, fmt.Sprint(a.Queue, " ", a.MessageBody, " from ", a.Caller, " ", a.Cut, " ",
			a.Deduplicated))
	}
	assert.Equal(t, []string{
		"orders first from fake false false", "orders cut from fake true false",
		"orders.fifo again from fake false false", "orders.fifo again from fake false true",
	}, accepted)
}

func TestForgets(t *testing.T) {
	fake := &fakesqs.Server{Forgets: true}
	client, orders, _ := start(t, fake)
	_, err := client.SendMessage(t.Context(), &sqs.SendMessageInput{QueueUrl: &orders, MessageBody: aws.String("x")})
	require.NoError(t, err)
	assert.Empty(t, fake.Requests())
	assert.Empty(t, fake.Acceptances())
	assert.Len(t, fake.Messages("", "orders"), 1, "it waits for a receiver")
}

func TestDrops(t *testing.T) {
	fake := &fakesqs.Server{Drops: true}
	client, orders, _ := start(t, fake)
	out, err := client.SendMessage(t.Context(), &sqs.SendMessageInput{QueueUrl: &orders, MessageBody: aws.String("x")})
	require.NoError(t, err)
	assert.NotEmpty(t, out.MessageId)
	assert.Len(t, fake.Acceptances(), 1)
	assert.Empty(t, fake.Messages("", "orders"))
}

package fakesns_test

import (
	"errors"
	"fmt"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/sns"
	"github.com/aws/aws-sdk-go-v2/service/sns/types"
	"github.com/aws/aws-sdk-go-v2/service/sts"
	"github.com/aws/smithy-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/outflowhq/outflow/publish/publishtest/fakesns"
	"github.com/outflowhq/outflow/publish/publishtest/fakesqs"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	news   = "arn:aws:sns:eu-west-1:000000000000:news"
	orders = "arn:aws:sns:eu-west-1:000000000000:orders.fifo"
	queue  = "arn:aws:sqs:eu-west-1:000000000000:"
)

// start returns a client of a fake with the topics "news" and "orders.fifo".
func start(t *testing.T, fake *fakesns.Server) *sns.Client {
	server := httptest.NewServer(fake)
	t.Cleanup(server.Close)
	client := sns.New(sns.Options{
		BaseEndpoint: aws.String(server.URL), Region: "eu-west-1", RetryMaxAttempts: 1,
		Credentials: credentials.NewStaticCredentialsProvider("fake", "fake", ""),
	})
	for name, attributes := range map[string]map[string]string{"news": nil, "orders.fifo": {"FifoTopic": "true"}} {
		out, err := client.CreateTopic(t.Context(), &sns.CreateTopicInput{Name: &name, Attributes: attributes})
		require.NoError(t, err)
		assert.Equal(t, "arn:aws:sns:eu-west-1:000000000000:"+name, *out.TopicArn)
	}
	return client
}

func entry(id, message string) types.PublishBatchRequestEntry {
	return types.PublishBatchRequestEntry{Id: &id, Message: &message}
}

func attribute(name, dataType, value string) map[string]types.MessageAttributeValue {
	return map[string]types.MessageAttributeValue{name: {DataType: &dataType, StringValue: &value}}
}

func codeOf(err error) string {
	var api smithy.APIError
	if errors.As(err, &api) {
		return api.ErrorCode()
	}
	return ""
}

func TestRulesOfABatch(t *testing.T) {
	client := start(t, &fakesns.Server{})
	var eleven []types.PublishBatchRequestEntry
	for i := range 11 {
		eleven = append(eleven, entry(fmt.Sprint(i), "x"))
	}
	half := strings.Repeat("x", 131_072)
	publish := func(arn string, entries ...types.PublishBatchRequestEntry) string {
		_, err := client.PublishBatch(t.Context(),
			&sns.PublishBatchInput{TopicArn: &arn, PublishBatchRequestEntries: entries})
		return codeOf(err)
	}
	for want, entries := range map[string][]types.PublishBatchRequestEntry{
		"":                             {entry("a", half), entry("b", half)},
		"TooManyEntriesInBatchRequest": eleven,
		"EmptyBatchRequest":            {},
		"BatchRequestTooLong":          {entry("a", half), entry("b", half+"x")},
		"BatchEntryIdsNotDistinct":     {entry("a", "x"), entry("a", "x")},
		"InvalidBatchEntryId":          {entry("ä", "x")},
	} {
		assert.Equal(t, want, publish(news, entries...))
	}
	assert.Equal(t, "NotFound", publish(news+"x", eleven...))
	assert.Equal(t, "InvalidParameter", publish(strings.Replace(news, "eu-west-1", "us-east-1", 1), entry("a", "x")),
		"of another region")
	assert.Equal(t, "InvalidParameter", publish("news", entry("a", "x")))
}

func TestRulesOfAMessage(t *testing.T) {
	client := start(t, &fakesns.Server{})
	const small = "arn:aws:sns:eu-west-1:000000000000:small"
	_, err := client.CreateTopic(t.Context(), &sns.CreateTopicInput{Name: aws.String("small"),
		Attributes: map[string]string{"MaximumMessageSize": "1024"}})
	require.NoError(t, err)
	with := func(change func(*types.PublishBatchRequestEntry)) types.PublishBatchRequestEntry {
		e := entry("a", "x")
		change(&e)
		return e
	}
	attributed := func(a map[string]types.MessageAttributeValue) types.PublishBatchRequestEntry {
		return with(func(e *types.PublishBatchRequestEntry) { e.MessageAttributes = a })
	}
	subject := func(s string) types.PublishBatchRequestEntry {
		return with(func(e *types.PublishBatchRequestEntry) { e.Subject = &s })
	}
	grouped := with(func(e *types.PublishBatchRequestEntry) { e.MessageGroupId = aws.String("g") })
	full := grouped
	full.MessageDeduplicationId = aws.String("d")
	for name, tc := range map[string]struct {
		topic string
		entry types.PublishBatchRequestEntry
		want  string
	}{
		"plain":                 {news, entry("a", "x"), ""},
		"any character":         {news, entry("a", "\x00\uFFFE"), ""},
		"empty":                 {news, entry("a", ""), "Empty message"},
		"the topic's own limit": {small, entry("a", strings.Repeat("x", 1025)), "BatchRequestTooLong"},
		"attributes count":      {small, attributed(attribute("a", "String", strings.Repeat("x", 1024-8))), ""},
		"to the last byte": {small, attributed(attribute("a", "String", strings.Repeat("x", 1024-7))),
			"BatchRequestTooLong"},
		"subject":                 {news, subject("Welcome, Åsa"), ""},
		"empty subject":           {news, subject(""), "Subject"},
		"long subject":            {news, subject(strings.Repeat("s", 100)), "Subject"},
		"subject of two lines":    {news, subject("a\nb"), "Subject"},
		"subject led by a space":  {news, subject(" a"), "Subject"},
		"String.Array":            {news, attributed(attribute("a", "String.Array", `["b"]`)), ""},
		"no such type":            {news, attributed(attribute("a", "Text", "b")), "type"},
		"custom type":             {news, attributed(attribute("a", "Number.int", "7")), "type"},
		"empty attribute":         {news, attributed(attribute("a", "String", "")), "non-empty"},
		"name with AWS.":          {news, attributed(attribute("AWS.x", "String", "b")), "name"},
		"name with a last dot":    {news, attributed(attribute("x.", "String", "b")), "name"},
		"FIFO":                    {orders, full, ""},
		"FIFO without a group":    {orders, entry("a", "x"), "MessageGroupId"},
		"FIFO without a token":    {orders, grouped, "MessageDeduplicationId"},
		"group on a standard one": {news, grouped, ""},
		"token on a standard one": {news, full, "MessageDeduplicationId"},
	} {
		t.Run(name, func(t *testing.T) {
			out, err := client.PublishBatch(t.Context(), &sns.PublishBatchInput{TopicArn: &tc.topic,
				PublishBatchRequestEntries: []types.PublishBatchRequestEntry{tc.entry}})
			switch {
			case strings.HasPrefix(tc.want, "Batch"):
				assert.Equal(t, tc.want, codeOf(err))
			case tc.want == "":
				require.NoError(t, err)
				assert.Len(t, out.Successful, 1)
				assert.Empty(t, out.Failed)
			default:
				require.NoError(t, err)
				require.Len(t, out.Failed, 1)
				assert.Equal(t, "InvalidParameter", *out.Failed[0].Code)
				assert.Contains(t, *out.Failed[0].Message, tc.want)
				assert.True(t, out.Failed[0].SenderFault)
			}
		})
	}
}

func TestTopics(t *testing.T) {
	client := start(t, &fakesns.Server{})
	for name, attributes := range map[string]map[string]string{
		"a.b": nil, "": nil, strings.Repeat("t", 257): nil, "orders.fifo": nil, "plain": {"FifoTopic": "true"},
		"tiny": {"MaximumMessageSize": "1023"}, "huge": {"MaximumMessageSize": "1048577"},
	} {
		_, err := client.CreateTopic(t.Context(), &sns.CreateTopicInput{Name: &name, Attributes: attributes})
		assert.Equal(t, "InvalidParameter", codeOf(err), name)
	}
	got, err := client.GetTopicAttributes(t.Context(), &sns.GetTopicAttributesInput{TopicArn: aws.String(orders)})
	require.NoError(t, err)
	assert.Equal(t, map[string]string{"TopicArn": orders, "Owner": "000000000000", "FifoTopic": "true",
		"SubscriptionsConfirmed": "0"}, got.Attributes)
	_, err = client.SetTopicAttributes(t.Context(), &sns.SetTopicAttributesInput{TopicArn: aws.String(news),
		AttributeName: aws.String("MaximumMessageSize"), AttributeValue: aws.String("1048576")})
	require.NoError(t, err)
	_, err = client.Publish(t.Context(),
		&sns.PublishInput{TopicArn: aws.String(news), Message: aws.String(strings.Repeat("x", 1<<20))})
	require.NoError(t, err)
	list, err := client.ListTopics(t.Context(), nil)
	require.NoError(t, err)
	assert.Len(t, list.Topics, 2)
	for range 2 {
		_, err = client.DeleteTopic(t.Context(), &sns.DeleteTopicInput{TopicArn: aws.String(news)})
		require.NoError(t, err, "deleting again is no error")
	}
	_, err = client.Publish(t.Context(), &sns.PublishInput{TopicArn: aws.String(news), Message: aws.String("x")})
	assert.Equal(t, "NotFound", codeOf(err))
	_, err = client.TagResource(t.Context(), &sns.TagResourceInput{ResourceArn: aws.String(news), Tags: []types.Tag{}})
	assert.Error(t, err)
}

func TestSubscriptions(t *testing.T) {
	queues := &fakesqs.Server{}
	fake := &fakesns.Server{Queues: queues}
	client := start(t, fake)
	subscribe := func(topic, to string, attributes map[string]string) (string, string) {
		out, err := client.Subscribe(t.Context(), &sns.SubscribeInput{TopicArn: &topic, Protocol: aws.String("sqs"),
			Endpoint: aws.String(queue + to), Attributes: attributes})
		if err != nil {
			return "", codeOf(err)
		}
		return *out.SubscriptionArn, ""
	}
	for _, name := range []string{"raw", "wrapped", "filtered", "orders.fifo"} {
		queues.CreateQueue("", name, nil)
	}
	raw := map[string]string{"RawMessageDelivery": "true"}
	first, _ := subscribe(news, "raw", raw)
	again, _ := subscribe(news, "raw", raw)
	assert.Equal(t, first, again, "a queue is subscribed once")
	wrapped, _ := subscribe(news, "wrapped", nil)
	subscribe(news, "filtered", map[string]string{"FilterPolicy": `{"kind":["a","b"]}`})
	subscribe(news, "gone", raw)
	subscribe(orders, "orders.fifo", raw)
	subscribe(orders, "raw", raw)
	for want, call := range map[string]func() (string, string){
		"InvalidParameter": func() (string, string) { return subscribe(news, "orders.fifo", nil) },
		"NotFound":         func() (string, string) { return subscribe(news+"x", "raw", nil) },
		"InvalidParameter ": func() (string, string) {
			return subscribe(news, "raw", map[string]string{"FilterPolicy": `{"a":[{"prefix":"b"}]}`})
		},
		"InvalidParameter  ": func() (string,
			string) {
			return subscribe(news, "raw", map[string]string{"Other": "x"})
		},
		"InvalidParameter    ": func() (string, string) { return subscribe(news, "a:b", nil) },
	} {
		_, code := call()
		assert.Equal(t, strings.TrimSpace(want), code)
	}
	list, err := client.ListSubscriptionsByTopic(t.Context(),
		&sns.ListSubscriptionsByTopicInput{TopicArn: aws.String(news)})
	require.NoError(t, err)
	assert.Len(t, list.Subscriptions, 4)

	for i, kind := range []string{"a", "c"} {
		out, err := client.Publish(t.Context(), &sns.PublishInput{TopicArn: aws.String(news), Subject: aws.String("S"),
			Message: aws.String(`"` + kind + `"`), MessageAttributes: attribute("kind", "String", kind)})
		require.NoError(t, err)
		assert.NotEmpty(t, *out.MessageId, "%d", i)
	}
	got := queues.Messages("", "raw")
	require.Len(t, got, 2)
	assert.Equal(t, fakesqs.Entry{MessageBody: `"a"`,
		MessageAttributes: map[string]fakesqs.Attribute{"kind": {DataType: "String", StringValue: "a"}}}, got[0])
	got = queues.Messages("", "wrapped")
	require.Len(t, got, 2)
	assert.Empty(t, got[0].MessageAttributes)
	for _, part := range []string{`"Type":"Notification"`, `"TopicArn":"` + news + `"`, `"Subject":"S"`,
		`"Message":"\"a\""`, `"MessageAttributes":{"kind":{"Type":"String","Value":"a"}}`} {
		assert.Contains(t, got[0].MessageBody, part)
	}
	assert.Len(t, queues.Messages("", "filtered"), 1)
	require.Len(t, fake.Discarded(), 2, "of the queue that is gone")
	assert.Equal(t, queue+"gone", fake.Discarded()[0].QueueARN)

	_, err = client.SetSubscriptionAttributes(t.Context(),
		&sns.SetSubscriptionAttributesInput{SubscriptionArn: &wrapped,
			AttributeName: aws.String("RawMessageDelivery"), AttributeValue: aws.String("true")})
	require.NoError(t, err)
	_, err = client.Unsubscribe(t.Context(), &sns.UnsubscribeInput{SubscriptionArn: &first})
	require.NoError(t, err)
	_, err = client.Unsubscribe(t.Context(), &sns.UnsubscribeInput{SubscriptionArn: &first})
	assert.Equal(t, "NotFound", codeOf(err))

	// To a FIFO queue goes the group, to a standard one none. Eleven attributes don't go raw.
	many := map[string]types.MessageAttributeValue{}
	for i := range 11 {
		many[fmt.Sprint("a", i)] = attribute("", "String", "v")[""]
	}
	for i, attributes := range []map[string]types.MessageAttributeValue{nil, many} {
		_, err = client.Publish(t.Context(), &sns.PublishInput{TopicArn: aws.String(orders), Message: aws.String("x"),
			MessageGroupId: aws.String("g"), MessageDeduplicationId: aws.String(fmt.Sprint(i)), MessageAttributes: attributes})
		require.NoError(t, err)
	}
	got = queues.Messages("", "orders.fifo")
	require.Len(t, got, 1)
	assert.Equal(t, "g", got[0].MessageGroupId)
	assert.Empty(t, queues.Messages("", "raw")[2].MessageGroupId)
	assert.Len(t, fake.Discarded(), 4)
}

func TestFIFODeduplicates(t *testing.T) {
	now := time.Now()
	fake := &fakesns.Server{Now: func() time.Time { return now }}
	client := start(t, fake)
	publish := func() *sns.PublishOutput {
		out, err := client.Publish(t.Context(),
			&sns.PublishInput{TopicArn: aws.String(orders), Message: aws.String("x"),
				MessageGroupId: aws.String("g"), MessageDeduplicationId: aws.String("d")})
		require.NoError(t, err)
		return out
	}
	first := publish()
	assert.Equal(t, *first.MessageId, *publish().MessageId)
	assert.Len(t, fake.Published(orders), 1)
	now = now.Add(5 * time.Minute)
	assert.NotEqual(t, *first.SequenceNumber, *publish().SequenceNumber)
	assert.Len(t, fake.Published(orders), 2)
}

func TestFaults(t *testing.T) {
	fake := &fakesns.Server{}
	client := start(t, fake)
	publish := func() error {
		_, err := client.Publish(t.Context(), &sns.PublishInput{TopicArn: aws.String(news), Message: aws.String("x")})
		return err
	}
	fake.Inject(fakesns.Fault{Topic: news, Times: 1, Error: &fakesns.Error{Status: 503, Code: "ServiceUnavailable"}})
	assert.Equal(t, "ServiceUnavailable", codeOf(publish()))
	assert.NoError(t, publish(), "once only")
	fake.Inject(fakesns.Fault{Topic: news, CutAfter: true})
	assert.Error(t, publish())
	assert.Len(t, fake.Published(news), 2, "it was accepted")
	fake.Heal(news)
	fake.Inject(fakesns.Fault{Action: "Publish", CutBefore: true})
	assert.Error(t, publish())
	fake.Heal("")
	assert.NoError(t, publish())
	assert.Len(t, fake.Requests("Publish"), 5)
}

func TestForgets(t *testing.T) {
	fake := &fakesns.Server{Forgets: true, Queues: &fakesqs.Server{}}
	client := start(t, fake)
	_, err := client.Subscribe(t.Context(), &sns.SubscribeInput{TopicArn: aws.String(news), Protocol: aws.String("sqs"),
		Endpoint: aws.String(queue + "missing")})
	require.NoError(t, err)
	_, err = client.Publish(t.Context(), &sns.PublishInput{TopicArn: aws.String(news), Message: aws.String("x")})
	require.NoError(t, err)
	assert.Empty(t, fake.Requests())
	assert.Empty(t, fake.Published(news))
	assert.Empty(t, fake.Discarded())
}

func TestIdentity(t *testing.T) {
	fake := &fakesns.Server{Account: "123456789012"}
	server := httptest.NewServer(fake)
	t.Cleanup(server.Close)
	out, err := sts.New(sts.Options{BaseEndpoint: &server.URL, Region: "eu-west-1",
		Credentials: credentials.NewStaticCredentialsProvider("fake", "fake", "")}).
		GetCallerIdentity(t.Context(), &sts.GetCallerIdentityInput{})
	require.NoError(t, err)
	assert.Equal(t, "123456789012", *out.Account)
}

package awssns_test

import (
	"context"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/service/sns"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/publish/awssns"
	"github.com/outflowhq/outflow/publish/publishtest/fakesns"
)

func guilty(e fakesns.Entry) bool { return e.Message == "guilty" }

// tenWithOneGuilty is published with the guilty one in the middle of ten.
func tenWithOneGuilty(t *testing.T, b *broker) (others []error, of error) {
	b.CreateTopic(arnOf("news"), nil)
	messages := several(10, "sns://news")
	messages[4].Payload = []byte("guilty")
	errs := publishAll(t, b.publisher(untilFull), messages...)
	return append(errs[:4:4], errs[5:]...), errs[4]
}

func TestBadEntryHurtsNoOther(t *testing.T) {
	for name, tc := range map[string]struct {
		fault fakesns.Error
		class outflow.Class
		says  string
	}{
		"content": {fakesns.Error{Code: "InvalidParameter", SenderFault: true,
			Message: "Invalid parameter: Message guilty"},
			outflow.ClassPermanent, "InvalidParameter: it names Message"},
		"KMS throttle": {fakesns.Error{Code: "KMSThrottling", SenderFault: true}, outflow.ClassUnavailable,
			"KMSThrottling"},
		"KMS refusal": {fakesns.Error{Code: "KMSAccessDenied", SenderFault: true}, outflow.ClassUnavailable,
			"KMSAccessDenied (allow kms:GenerateDataKey and kms:Decrypt on the topic's key"},
		"internal": {fakesns.Error{Code: "InternalError"}, outflow.ClassRetryable, "InternalError"},
		"unknown, our fault": {fakesns.Error{Code: "SomethingNew", SenderFault: true, Message: "guilty"},
			outflow.ClassRetryable, "SomethingNew (sender's fault)"},
		"without any details": {fakesns.Error{}, outflow.ClassRetryable, "no code"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBroker(t)
			b.Inject(fakesns.Fault{Action: batch, EntryError: func(e fakesns.Entry) *fakesns.Error {
				if !guilty(e) {
					return nil
				}
				return &tc.fault
			}})
			others, of := tenWithOneGuilty(t, b)
			noErrors(t, others)
			assert.Equal(t, tc.class, outflow.ClassOf(of), "%v", of)
			assert.ErrorContains(t, of, "sending to sns://news: "+tc.says)
			assert.NotContains(t, of.Error(), "guilty", "AWS's text may quote the payload")
			assert.Len(t, b.Published(arnOf("news")), 9)
			assert.Equal(t, []int{10}, b.sizes())
		})
	}
}

func TestEntryLeftOutOfTheAnswerIsRetryable(t *testing.T) {
	b := newBroker(t)
	b.Inject(fakesns.Fault{Action: batch, Omit: guilty})
	others, of := tenWithOneGuilty(t, b)
	noErrors(t, others)
	assert.Equal(t, outflow.ClassRetryable, outflow.ClassOf(of))
	assert.ErrorContains(t, of, "leaves this message out")
}

// A topic whose endpoint is another region's, or that does not exist, is no fault of a message.
func TestWrongRegionIsUnavailable(t *testing.T) {
	b := newBroker(t)
	b.CreateTopic("arn:aws:sns:us-east-1:"+account+":news", nil)
	b.Inject(fakesns.Fault{Action: batch,
		Error: &fakesns.Error{Code: "InvalidParameter", Message: "Invalid parameter: TopicArn"}})
	err := publishAll(t, b.publisher(), message("sns://news", "a"))[0]
	assert.Equal(t, outflow.ClassUnavailable, outflow.ClassOf(err))
	assert.ErrorContains(t, err, "InvalidParameter: Invalid parameter: TopicArn (check the region, the account and the endpoint)")
}

func TestDeletedTopicAndMadeAgain(t *testing.T) {
	b := newBroker(t)
	b.topic(t, "news", true, nil)
	p := b.publisher(untilFull)
	noErrors(t, publishAll(t, p, several(10, "sns://news")...))
	b.DeleteTopic(arnOf("news"))
	for _, err := range publishAll(t, p, several(10, "sns://news")...) {
		assert.True(t, outflow.IsPermanent(err), "%v", err)
		assert.ErrorIs(t, err, outflow.ErrNoDestination)
		assert.ErrorContains(t, err, "sending to sns://news: NotFound: Topic does not exist (create the topic, or check "+
			"name, region, account and the permission to see it; then retry or redirect the message)")
	}
	b.topic(t, "news", true, nil)
	noErrors(t, publishAll(t, p, several(10, "sns://news")...))
	assert.Len(t, b.receive(t, "news"), 20)
}

// Whatever the endpoint answers, a message is acknowledged only where an entry of its own says so.
func TestHostileAnswers(t *testing.T) {
	t.Parallel()
	success := func(members string) string {
		return `<PublishBatchResponse xmlns="http://sns.amazonaws.com/doc/2010-03-31/"><PublishBatchResult><Successful>` +
			members + `</Successful></PublishBatchResult></PublishBatchResponse>`
	}
	member := func(id string) string { return "<member><Id>" + id + "</Id><MessageId>m</MessageId></member>" }
	for name, tc := range map[string]struct {
		body  string
		class outflow.Class
	}{
		"nothing":                 {"", outflow.ClassRetryable},
		"HTML":                    {"<html><body>Welcome</body></html>", outflow.ClassUnavailable},
		"text":                    {"OK", outflow.ClassRetryable}, // the SDK's decoder finds no element, and no error
		"JSON":                    {`{"Successful":[{"Id":"0"}]}`, outflow.ClassRetryable},
		"no entries":              {success(""), outflow.ClassRetryable},
		"a foreign entry":         {success(member("7")), outflow.ClassRetryable},
		"a negative entry":        {success(member("-1")), outflow.ClassRetryable},
		"an entry with an odd ID": {success(member("zero")), outflow.ClassRetryable},
		"an entry without an ID":  {success("<member><MessageId>m</MessageId></member>"), outflow.ClassRetryable},
		"half an answer":          {success(member("0"))[:140], outflow.ClassUnavailable},
		"an answer cut in a tag": {strings.Split(success(member("0")), "ful></Publish")[0],
			outflow.ClassUnavailable},
		"entities without end":    {`<!DOCTYPE x [<!ENTITY a "&a;&a;">]>` + success("&a;"), outflow.ClassUnavailable},
		"another action's answer": {"<GetTopicAttributesResponse><GetTopicAttributesResult/></GetTopicAttributesResponse>", outflow.ClassUnavailable},
		"accepted and refused both": {strings.Replace(success(member("0")), "</Successful>",
			"</Successful><Failed><member><Id>0</Id><Code>InternalError</Code></member></Failed>", 1), outflow.ClassRetryable},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBroker(t)
			b.CreateTopic(arnOf("news"), nil)
			b.Inject(fakesns.Fault{Action: batch, Body: &tc.body})
			id, err := b.publisher().Publish(t.Context(), message("sns://news", "a-secret"))
			require.Error(t, err)
			assert.Empty(t, id)
			assert.Equal(t, tc.class, outflow.ClassOf(err), "%v", err)
			assert.NotErrorIs(t, err, outflow.ErrNotAttempted)
			assert.ErrorContains(t, err, "sending to sns://news: ")
			assert.NotContains(t, err.Error(), "a-secret")
			assert.Less(t, len(err.Error()), 1000)
			assert.Len(t, b.sizes(), 1, "it is not sent again within the call")
		})
	}
}

// An error that is no XML, or that a proxy wrote, counts by its status.
func TestErrorsWithoutACode(t *testing.T) {
	for status, class := range map[int]outflow.Class{
		301: outflow.ClassRetryable, 400: outflow.ClassRetryable, 403: outflow.ClassRetryable,
		404: outflow.ClassRetryable, 413: outflow.ClassPermanent, 429: outflow.ClassUnavailable,
		502: outflow.ClassUnavailable, 503: outflow.ClassUnavailable,
	} {
		for _, body := range []string{"", "<html>", "no such page", "<ErrorResponse><Error/></ErrorResponse>"} {
			server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
				w.WriteHeader(status)
				_, _ = w.Write([]byte(body))
			}))
			p := awssns.New(newClient(t, server.URL, credentialsOf(of("a", account))),
				awssns.WithTimeout(300*time.Millisecond), awssns.WithLinger(0))
			err := publishAll(t, p, message("sns://news", "a"))[0]
			assert.Equal(t, class, outflow.ClassOf(err), "%d %q: %v", status, body, err)
			assert.NotErrorIs(t, err, outflow.ErrNoDestination, "%d %q", status, body)
			server.Close()
		}
	}
}

func TestLostAnswersAreNeverRetriedHere(t *testing.T) {
	t.Parallel()
	for name, fault := range map[string]fakesns.Fault{
		"cut after acceptance": {CutAfter: true}, "cut before": {CutBefore: true}, "late": {Delay: 2 * time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBroker(t)
			b.CreateTopic(arnOf("news"), nil)
			timeout := 2500 * time.Millisecond
			if fault.Delay > 0 {
				timeout = time.Second
			}
			p := b.publisher(awssns.WithTimeout(timeout))
			noErrors(t, publishAll(t, p, message("sns://news", "first")))
			fault.Action = batch
			b.Inject(fault)
			err := publishAll(t, p, message("sns://news", "second"))[0]
			assert.Equal(t, outflow.ClassUnavailable, outflow.ClassOf(err), "%v", err)
			assert.ErrorContains(t, err, "sent again with the same message ID")
			assert.Len(t, b.sizes(), 2, "one request for the second message")
		})
	}
}

func TestThrottled(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	b.CreateTopic(arnOf("news"), nil)
	p := b.publisher()
	b.Inject(fakesns.Fault{Times: 2, Action: batch,
		Error: &fakesns.Error{Code: "Throttling", Message: "Rate exceeded"}})
	noErrors(t, publishAll(t, p, message("sns://news", "a")))
	assert.Len(t, b.sizes(), 3, "it was tried until it passed")

	b.Inject(fakesns.Fault{Action: batch, Error: &fakesns.Error{Status: 429, Code: "New", RetryAfter: "60"}})
	err := publishAll(t, p, message("sns://news", "b"))[0]
	assert.Equal(t, outflow.ClassUnavailable, outflow.ClassOf(err), "%v", err)
	assert.Equal(t, time.Minute, outbox.RetryAfter(err))
	assert.Len(t, b.sizes(), 4, "there is no time for another try")
}

// Ten topics at once: one throttled, one denied, one slow, one missing, and none hurts another.
func TestTenTopicsAtOnce(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	var messages []outflow.Message
	for i := range 10 {
		name := fmt.Sprintf("topic-%d", i)
		if i != 3 {
			b.topic(t, name, i%2 == 0, nil)
		}
		messages = append(messages, several(25, "sns://"+name)...)
	}
	b.Inject(fakesns.Fault{Action: batch, Topic: arnOf("topic-0"), Error: &fakesns.Error{Code: "Throttled"}})
	b.Inject(fakesns.Fault{Action: batch, Topic: arnOf("topic-1"),
		Error: &fakesns.Error{Status: 403, Code: "AuthorizationError"}})
	b.Inject(fakesns.Fault{Action: batch, Topic: arnOf("topic-2"), Delay: time.Second})
	for i, err := range publishAll(t, b.publisher(), messages...) {
		switch topic := i / 25; topic {
		case 0, 1:
			assert.Equal(t, outflow.ClassUnavailable, outflow.ClassOf(err), "%v", err)
		case 3:
			assert.ErrorIs(t, err, outflow.ErrNoDestination)
		default:
			assert.NoError(t, err, "topic-%d", topic)
		}
	}
	for _, i := range []int{2, 4, 5, 6, 7, 8, 9} {
		assert.Len(t, b.receive(t, fmt.Sprintf("topic-%d", i)), 25)
	}
}

// Topics are deleted and made again while they are published to: what was acknowledged was
// accepted, and every failure is one of a missing topic.
func TestTopicsComeAndGoUnderLoad(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	b.topic(t, "news", true, nil)
	p := b.publisher(awssns.WithLinger(time.Millisecond))
	over := make(chan struct{})
	changed := make(chan struct{})
	go func() {
		defer close(changed)
		for {
			select {
			case <-over:
				return
			case <-time.After(5 * time.Millisecond):
				b.DeleteTopic(arnOf("news"))
				b.CreateTopic(arnOf("news"), nil)
				assert.NoError(t, b.Subscribe(arnOf("news"), queueARN("news"),
					map[string]string{"RawMessageDelivery": "true"}))
			}
		}
	}()
	var acknowledged atomic.Int64
	for range 40 {
		for _, err := range publishAll(t, p, several(25, "sns://news")...) {
			switch {
			case err == nil:
				acknowledged.Add(1)
			default:
				assert.ErrorIs(t, err, outflow.ErrNoDestination)
			}
		}
	}
	close(over)
	<-changed
	assert.Positive(t, acknowledged.Load())
	// Fewer where a topic was there and not yet subscribed: SNS's answer says nothing of subscribers.
	assert.LessOrEqual(t, len(b.receive(t, "news")), int(acknowledged.Load()))
}

// panicking panics for requests with the guilty message.
type panicking struct{ *sns.Client }

func (p panicking) PublishBatch(ctx context.Context, in *sns.PublishBatchInput,
	opts ...func(*sns.Options)) (*sns.PublishBatchOutput, error) {
	for _, e := range in.PublishBatchRequestEntries {
		if *e.Message == "guilty" {
			panic("a codec that quotes " + *e.Message)
		}
	}
	return p.Client.PublishBatch(ctx, in, opts...)
}

func TestPanicOfASharedRequestIsNoVerdictOnItsEntries(t *testing.T) {
	b := newBroker(t)
	b.CreateTopic(arnOf("news"), nil)
	messages := several(10, "sns://news")
	messages[4].Payload = []byte("guilty")
	errs := publishAll(t, awssns.New(panicking{b.client}, awssns.WithIdentity(b.sts), untilFull), messages...)
	noErrors(t, append(errs[:4:4], errs[5:]...))
	assert.True(t, outflow.IsPermanent(errs[4]), "%v", errs[4])
	assert.ErrorContains(t, errs[4], "sending to sns://news: the publisher panicked: a string, not shown")
	assert.NotContains(t, errs[4].Error(), "guilty")
}

package awssns_test

import (
	"context"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/sns"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/publish/awssns"
	"github.com/outflowhq/outflow/publish/publishtest/fakesns"
)

// withCredentials gives a client credentials that may change, and know their account or not.
type withCredentials struct {
	mu  sync.Mutex
	now aws.Credentials
	err error
}

func (c *withCredentials) Retrieve(context.Context) (aws.Credentials, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now, c.err
}

func (c *withCredentials) set(key, account string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = aws.Credentials{AccessKeyID: key, SecretAccessKey: "fake", AccountID: account}
}

func of(key, account string) *withCredentials {
	c := &withCredentials{}
	c.set(key, account)
	return c
}

// credentialsOf is an option of a client.
func credentialsOf(c aws.CredentialsProvider) func(*sns.Options) {
	return func(o *sns.Options) { o.Credentials = c }
}

// Credentials that know their account are asked first: no request is needed.
func TestTheAccountOfTheCredentials(t *testing.T) {
	b := newBroker(t)
	const topic = "arn:aws:sns:eu-west-1:123456789012:news"
	b.CreateTopic(topic, nil)
	b.client = newClient(t, b.http.URL, credentialsOf(of("a", "123456789012")))
	noErrors(t, publishAll(t, b.publisher(), message("sns://news", "a")))
	noErrors(t, publishAll(t, awssns.New(b.client), message("sns://news", "b")))
	assert.Len(t, b.Published(topic), 2)
	assert.Empty(t, b.Requests("GetCallerIdentity"))
}

// STS is asked once for all topics.
func TestTheAccountThatSTSNames(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	b.Inject(fakesns.Fault{Action: "GetCallerIdentity", Delay: 200 * time.Millisecond})
	var messages []outflow.Message
	for _, name := range []string{"a", "b", "c", "d", "e", "f", "g", "h", "i", "j"} {
		b.CreateTopic(arnOf(name), nil)
		messages = append(messages, message("sns://"+name, "x"))
	}
	p := b.publisher()
	noErrors(t, publishAll(t, p, messages...))
	noErrors(t, publishAll(t, p, messages...))
	requests := b.Requests("GetCallerIdentity")
	require.Len(t, requests, 1)
	assert.Equal(t, region, requests[0].Region)
}

// Where the client has no region, STS is asked in the topic's; in another partition likewise.
func TestTheRegionInWhichSTSIsAsked(t *testing.T) {
	for own, want := range map[string]string{"": "eu-west-1", "us-east-1": "us-east-1", "cn-north-1": "eu-west-1"} {
		b := newBroker(t)
		b.CreateTopic(arnOf("news"), nil)
		b.client = newClient(t, b.http.URL, func(o *sns.Options) { o.Region = own })
		noErrors(t, publishAll(t, b.publisher(), message("sns://news?region=eu-west-1", "a")))
		assert.Equal(t, want, b.Requests("GetCallerIdentity")[0].Region)
	}
}

func TestNoAccountIsUnavailable(t *testing.T) {
	const advice = "to need no look-up, set AWS_ACCOUNT_ID, or redirect the message to sns://news?account=…"
	for name, tc := range map[string]struct {
		prepare func(*testing.T, *broker) *awssns.Publisher
		says    string
	}{
		"nobody to ask": {func(_ *testing.T, b *broker) *awssns.Publisher { return awssns.New(b.client) },
			"they name none, and nobody can be asked (give the publisher WithIdentity): nothing was sent"},
		"an odd AWS_ACCOUNT_ID": {func(t *testing.T, b *broker) *awssns.Publisher {
			b.client = newClient(t, b.http.URL, credentialsOf(of("a", "acme")))
			return b.publisher()
		}, "AWS_ACCOUNT_ID, or the source of the credentials, names an account without the form of 12 digits"},
		"an odd answer": {func(_ *testing.T, b *broker) *awssns.Publisher {
			b.Account = "acme"
			return b.publisher()
		}, "STS's answer names an account without the form of 12 digits"},
		"unknown credentials": {func(_ *testing.T, b *broker) *awssns.Publisher {
			b.Inject(fakesns.Fault{Action: "GetCallerIdentity",
				Error: &fakesns.Error{Status: 403, Code: "InvalidClientTokenId",
					Message: "The security token is invalid"}})
			return b.publisher()
		}, "InvalidClientTokenId: The security token is invalid (check the AWS credentials"},
		"no credentials": {func(t *testing.T, b *broker) *awssns.Publisher {
			c := of("a", "")
			c.err = assert.AnError
			b.client = newClient(t, b.http.URL, credentialsOf(c))
			return b.publisher()
		}, "no credentials: get identity: " + assert.AnError.Error()},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBroker(t)
			b.CreateTopic(arnOf("news"), nil)
			err := publishAll(t, tc.prepare(t, b), message("sns://news", "a"))[0]
			assert.Equal(t, outflow.ClassUnavailable, outflow.ClassOf(err), "%v", err)
			assert.ErrorContains(t, err, "sending to sns://news: looking up the account of the AWS credentials: ")
			assert.ErrorContains(t, err, tc.says)
			assert.ErrorContains(t, err, advice)
			assert.Empty(t, b.Requests(batch))
		})
	}
}

// Whatever STS, or a proxy before it, says about the request says nothing about a message.
func TestNoAnswerOfSTSEndsAMessage(t *testing.T) {
	for name, refusal := range map[string]*fakesns.Error{
		"ValidationError":          {Status: 400, Code: "ValidationError"},
		"MissingParameter":         {Status: 400, Code: "MissingParameter"},
		"InvalidParameterValue":    {Status: 400, Code: "InvalidParameterValue"},
		"SerializationException":   {Status: 400, Code: "SerializationException"},
		"RegionDisabledException":  {Status: 403, Code: "RegionDisabledException", Message: "STS is not activated"},
		"too large for a proxy":    {Status: 413},
		"a proxy knows no such":    {Status: 404},
		"a code that nobody knows": {Status: 400, Code: "SomethingNew"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBroker(t)
			b.CreateTopic(arnOf("news"), nil)
			b.Inject(fakesns.Fault{Action: "GetCallerIdentity", Error: refusal})
			err := publishAll(t, b.publisher(), message("sns://news", "a"))[0]
			require.Equal(t, outflow.ClassUnavailable, outflow.ClassOf(err), "%v", err)
			require.ErrorContains(t, err, refusal.Message)
			require.ErrorContains(t, err, "check the region, the account and the endpoint")
			var f *outflow.Failure
			require.ErrorAs(t, err, &f)
			require.False(t, f.Answered, "the topic was not asked")
			b.Heal("")
			noErrors(t, publishAll(t, b.publisher(), message("sns://news", "a")))
		})
	}
}

// Credentials may change to another account's while the process runs.
func TestCredentialsOfAnotherAccount(t *testing.T) {
	for name, refusal := range map[string]*fakesns.Error{
		"the old topic is gone": nil,
		"the old topic is out of use": {Status: 403, Code: "AuthorizationError",
			Message: "no identity-based policy allows it"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBroker(t)
			const before, after = "arn:aws:sns:eu-west-1:111111111111:news", "arn:aws:sns:eu-west-1:222222222222:news"
			b.CreateTopic(before, nil)
			b.CreateTopic(after, nil)
			credentials := of("a", "111111111111")
			b.client = newClient(t, b.http.URL, credentialsOf(credentials))
			p := b.publisher()
			noErrors(t, publishAll(t, p, message("sns://news", "a")))
			credentials.set("b", "222222222222")
			if refusal == nil {
				b.DeleteTopic(before)
			} else {
				b.Inject(fakesns.Fault{Action: batch, Topic: before, Error: refusal})
			}
			noErrors(t, publishAll(t, p, message("sns://news", "b")))
			assert.Equal(t, "b", b.Published(after)[0].Message)
			noErrors(t, publishAll(t, p, message("sns://news", "c")))
			assert.Len(t, b.Requests(batch), 4, "and the new one is kept")
		})
	}
}

// An account is looked up beside an attempt that has no time for it, and only for topics whose
// destination names none.
func TestASlowLookUpOfTheAccount(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	b.CreateTopic(arnOf("news"), nil)
	b.Inject(fakesns.Fault{Action: "GetCallerIdentity", Delay: 1500 * time.Millisecond})
	p := b.publisher(awssns.WithTimeout(3*time.Second), awssns.WithLinger(0))
	short := func(destination string) error {
		ctx, cancel := context.WithTimeout(t.Context(), 3500*time.Millisecond)
		defer cancel()
		_, err := p.Publish(ctx, message(destination, "a"))
		return err
	}
	err := short("sns://news")
	assert.ErrorIs(t, err, outflow.ErrNotAttempted)
	assert.Equal(t, outflow.ClassRetryable, outflow.ClassOf(err))
	require.NoError(t, short("sns://news?account="+account))
	require.Eventually(t, func() bool { return short("sns://news") == nil }, 10*time.Second, 50*time.Millisecond)
	assert.Len(t, b.Requests("GetCallerIdentity"), 1)
}

// A topic that refuses has the account looked up again, which takes nothing from the others.
func TestADeniedTopicHurtsNoOther(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	b.CreateTopic(arnOf("denied"), nil)
	b.CreateTopic(arnOf("news"), nil)
	p := b.publisher(awssns.WithTimeout(2*time.Second), awssns.WithLinger(0))
	noErrors(t, publishAll(t, p, message("sns://news", "the account is known")))
	b.Inject(fakesns.Fault{Action: batch, Topic: arnOf("denied"),
		Error: &fakesns.Error{Status: 403, Code: "AuthorizationError"}})
	b.Inject(fakesns.Fault{Action: "GetCallerIdentity", CutBefore: true, Delay: time.Second})
	refused := make(chan error)
	go func() { refused <- publishAll(t, p, message("sns://denied", "a"))[0] }()
	require.Eventually(t, func() bool { return len(b.Requests("GetCallerIdentity")) == 2 }, 5*time.Second,
		time.Millisecond)
	noErrors(t, publishAll(t, p, several(5, "sns://news")...))
	err := <-refused
	assert.ErrorContains(t, err, "sending to sns://denied: AuthorizationError", "not what STS failed with")
	assert.Equal(t, outflow.ClassUnavailable, outflow.ClassOf(err))
	noErrors(t, publishAll(t, p, several(5, "sns://news")...))
	assert.Len(t, b.Requests("GetCallerIdentity"), 2)
}

func TestWithoutARegion(t *testing.T) {
	b := newBroker(t)
	b.CreateTopic(arnOf("news"), nil)
	b.client = newClient(t, b.http.URL, func(o *sns.Options) {
		o.Region = ""
		o.Credentials = credentials.StaticCredentialsProvider{Value: of("a", account).now}
	})
	p := b.publisher()
	for destination, advice := range map[string]string{
		"sns://news":                      "redirect the message to sns://news?region=…",
		"sns://news?account=000000000000": "redirect the message to sns://news?account=000000000000&region=…",
	} {
		err := publishAll(t, p, message(destination, "a"))[0]
		require.ErrorContains(t, err, "sending to "+destination+": no AWS region is configured, "+
			"and the destination names none (set AWS_REGION")
		require.ErrorContains(t, err, advice)
		assert.Equal(t, outflow.ClassUnavailable, outflow.ClassOf(err))
		require.ErrorContains(t, p.Check(t.Context(), destination), "set AWS_REGION")
		require.ErrorContains(t, p.Refusal(destination), "set AWS_REGION")
	}
	require.Empty(t, b.Requests())
	require.NoError(t, p.Refusal("sns://news?region=eu-west-1"))
	noErrors(t, publishAll(t, p, message("sns://news?region=eu-west-1", "a")))
}

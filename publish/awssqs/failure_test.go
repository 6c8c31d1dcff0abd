package awssqs_test

import (
	"context"
	"errors"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/testport"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/publish"
	"github.com/outflowhq/outflow/publish/awssqs"
	"github.com/outflowhq/outflow/publish/publishtest/fakesqs"
)

const batch = "SendMessageBatch"

func guilty(e fakesqs.Entry) bool { return e.MessageBody == "guilty" }

func hasGuilty(r fakesqs.Request) bool {
	for _, e := range r.Entries {
		if guilty(e) {
			return true
		}
	}
	return false
}

// tenWithOneGuilty is published with the guilty one in the middle of ten.
func tenWithOneGuilty(t *testing.T, b *broker, opts ...awssqs.Option) (of []error, others []error) {
	b.CreateQueue("", "orders", nil)
	messages := several(10, "sqs://orders")
	messages[4].Payload = []byte("guilty")
	errs := publishAll(t, awssqs.New(b.client, append(opts, untilFull)...), messages...)
	return errs[4:5], append(errs[:4:4], errs[5:]...)
}

func TestBadEntryHurtsNoOther(t *testing.T) {
	for name, tc := range map[string]struct {
		fault fakesqs.Error
		class outflow.Class
		says  string
	}{
		"content": {fakesqs.Error{Code: "InvalidMessageContents", SenderFault: true, Message: "guilty"},
			outflow.ClassPermanent, "InvalidMessageContents"},
		"KMS throttle": {fakesqs.Error{Code: "KMS.ThrottlingException", SenderFault: true},
			outflow.ClassUnavailable, "KMS.ThrottlingException"},
		"KMS refusal": {fakesqs.Error{Code: "KMS.AccessDeniedException", SenderFault: true},
			outflow.ClassUnavailable, "kms:GenerateDataKey"},
		"internal": {fakesqs.Error{Code: "InternalError"}, outflow.ClassRetryable, "InternalError"},
		"unknown, our fault": {fakesqs.Error{Code: "SomethingNew", SenderFault: true, Message: "guilty"},
			outflow.ClassRetryable, "SomethingNew (sender's fault)"},
		"without any details": {fakesqs.Error{}, outflow.ClassRetryable, "no code"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBroker(t)
			b.Inject(fakesqs.Fault{Action: batch, EntryError: func(e fakesqs.Entry) *fakesqs.Error {
				if !guilty(e) {
					return nil
				}
				return &tc.fault
			}})
			of, others := tenWithOneGuilty(t, b)
			noErrors(t, others)
			assert.Equal(t, tc.class, outflow.ClassOf(of[0]), "%v", of[0])
			assert.ErrorContains(t, of[0], "sending to sqs://orders: "+tc.fault.Code)
			assert.ErrorContains(t, of[0], tc.says)
			assert.NotContains(t, of[0].Error(), "guilty", "AWS's text may quote the payload")
			assert.Len(t, b.Messages("", "orders"), 9)
			assert.Equal(t, []int{10}, b.sizes())
		})
	}
}

func TestRequestRefusedForContentIsNoVerdictOnItsEntries(t *testing.T) {
	t.Parallel()
	for _, code := range []string{"BatchRequestTooLong", "InvalidMessageContents", "InvalidParameterValue"} {
		t.Run(code, func(t *testing.T) {
			b := newBroker(t)
			b.Inject(fakesqs.Fault{Action: batch, When: hasGuilty,
				Error: &fakesqs.Error{Code: code, Message: "Value guilty for parameter MessageBody is invalid"}})
			of, others := tenWithOneGuilty(t, b)
			noErrors(t, others)
			assert.True(t, outflow.IsPermanent(of[0]), "%v", of[0])
			assert.ErrorContains(t, of[0], code+": it names MessageBody")
			assert.NotContains(t, of[0].Error(), "guilty")
			assert.Len(t, b.Messages("", "orders"), 9)
			assert.Equal(t, []int{10, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}, b.sizes(), "all at once, then each alone")
		})
	}
	t.Run("not attempted where the time is over", func(t *testing.T) {
		t.Parallel()
		b := newBroker(t)
		b.Inject(fakesqs.Fault{Action: batch, When: hasGuilty, Delay: 1700 * time.Millisecond,
			Error: &fakesqs.Error{Code: "BatchRequestTooLong"}})
		of, others := tenWithOneGuilty(t, b, awssqs.WithTimeout(2*time.Second))
		for _, err := range append(of, others...) {
			assert.ErrorIs(t, err, outflow.ErrNotAttempted)
			assert.Equal(t, outflow.ClassRetryable, outflow.ClassOf(err))
		}
		assert.Equal(t, []int{10}, b.sizes())
	})
}

func TestEntryLeftOutOfTheAnswerIsRetryable(t *testing.T) {
	b := newBroker(t)
	b.Inject(fakesqs.Fault{Action: batch, Omit: guilty})
	of, others := tenWithOneGuilty(t, b)
	noErrors(t, others)
	assert.Equal(t, outflow.ClassRetryable, outflow.ClassOf(of[0]))
	assert.ErrorContains(t, of[0], "leaves this message out")
}

func TestWrongChecksumConcernsItsEntryOnly(t *testing.T) {
	b := newBroker(t)
	b.Inject(fakesqs.Fault{Action: batch, Corrupt: guilty})
	of, others := tenWithOneGuilty(t, b)
	noErrors(t, others)
	assert.Equal(t, outflow.ClassRetryable, outflow.ClassOf(of[0]))
	assert.ErrorContains(t, of[0], "MD5")
}

func TestLostAnswersAreNeverRetriedHere(t *testing.T) {
	t.Parallel()
	for name, tc := range map[string]struct {
		fault fakesqs.Fault
		class outflow.Class
	}{
		"cut after acceptance": {fakesqs.Fault{CutAfter: true}, outflow.ClassUnavailable},
		"cut before":           {fakesqs.Fault{CutBefore: true}, outflow.ClassUnavailable},
		"late":                 {fakesqs.Fault{Delay: 2 * time.Second}, outflow.ClassUnavailable},
		"not JSON":             {fakesqs.Fault{Body: "<html>"}, outflow.ClassUnavailable},
		// It answers, and says nothing of this message.
		"empty object": {fakesqs.Fault{Body: "{}"}, outflow.ClassRetryable},
		"foreign entries": {fakesqs.Fault{Body: `{"Successful":[{"Id":"7"},{"Id":"x"},{}],"Failed":[{"Id":"-1"}]}`},
			outflow.ClassRetryable},
	} {
		t.Run(name, func(t *testing.T) {
			b, fault := newBroker(t), tc.fault
			b.CreateQueue("", "orders", nil)
			timeout := 2500 * time.Millisecond
			if fault.Delay > 0 {
				timeout = time.Second
			}
			p := awssqs.New(b.client, awssqs.WithTimeout(timeout))
			noErrors(t, publishAll(t, p, message("sqs://orders", "first")))
			fault.Action = batch
			b.Inject(fault)
			err := publishAll(t, p, message("sqs://orders", "second"))[0]
			require.Error(t, err)
			assert.Equal(t, tc.class, outflow.ClassOf(err), "%v", err)
			assert.NotErrorIs(t, err, outflow.ErrNotAttempted)
			assert.ErrorContains(t, err, "sending to sqs://orders")
			assert.ErrorContains(t, err, "sent again with the same message ID")
			assert.Len(t, b.sizes(), 2, "one request for the second message")
		})
	}
}

func TestServerErrorsAreUnavailableAndNotRetriedHere(t *testing.T) {
	for name, e := range map[string]fakesqs.Error{
		"500": {Status: 500, Code: "InternalFailure"},
		"503": {Status: 503, Code: "ServiceUnavailable", RetryAfter: "7"},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBroker(t)
			b.CreateQueue("", "orders", nil)
			b.Inject(fakesqs.Fault{Action: batch, Error: &e})
			err := publishAll(t, awssqs.New(b.client), message("sqs://orders", "a"))[0]
			var f *outflow.Failure
			require.ErrorAs(t, err, &f)
			assert.Equal(t, outflow.ClassUnavailable, f.Class)
			if e.RetryAfter != "" {
				assert.Equal(t, 7*time.Second, f.RetryAfter)
			} else {
				assert.Zero(t, f.RetryAfter)
			}
			assert.Len(t, b.sizes(), 1)
		})
	}
}

func TestThrottleIsRetriedWithinTheDeadline(t *testing.T) {
	t.Parallel()
	rate := &fakesqs.Error{Code: "RequestThrottled", QueryCode: "RequestThrottled", Message: "Rate exceeded"}
	t.Run("until it passes", func(t *testing.T) {
		b := newBroker(t)
		b.CreateQueue("", "orders", nil)
		b.Inject(fakesqs.Fault{Times: 2, Action: batch, Error: rate})
		noErrors(t, publishAll(t, awssqs.New(b.client), message("sqs://orders", "a")))
		assert.Len(t, b.sizes(), 3)
		assert.Len(t, b.Messages("", "orders"), 1)
	})
	t.Run("until the attempts are used up", func(t *testing.T) {
		b := newBroker(t)
		b.CreateQueue("", "orders", nil)
		b.Inject(fakesqs.Fault{Action: batch, Error: rate})
		err := publishAll(t, awssqs.New(b.client), message("sqs://orders", "a"))[0]
		assert.Equal(t, outflow.ClassUnavailable, outflow.ClassOf(err))
		assert.ErrorContains(t, err, "sending to sqs://orders: RequestThrottled: Rate exceeded (")
		assert.Len(t, b.sizes(), 4)
	})
	t.Run("not without time", func(t *testing.T) {
		b := newBroker(t)
		b.CreateQueue("", "orders", nil)
		b.Inject(fakesqs.Fault{Action: batch, Error: &fakesqs.Error{Status: 429, Code: "New", RetryAfter: "60"}})
		start := time.Now()
		err := publishAll(t, awssqs.New(b.client), message("sqs://orders", "a"))[0]
		var f *outflow.Failure
		require.ErrorAs(t, err, &f)
		assert.Equal(t, outflow.ClassUnavailable, f.Class)
		assert.Equal(t, time.Minute, f.RetryAfter)
		assert.Len(t, b.sizes(), 1)
		assert.Less(t, time.Since(start), time.Minute)
	})
	t.Run("whatever the client's own retryer", func(t *testing.T) {
		b := newBroker(t)
		b.client = newClient(t, b.http.URL,
			func(o *sqs.Options) { o.Retryer = aws.NopRetryer{}; o.RetryMaxAttempts = 7 })
		b.CreateQueue("", "orders", nil)
		b.Inject(fakesqs.Fault{Times: 1, Action: batch, Error: rate})
		noErrors(t, publishAll(t, awssqs.New(b.client), message("sqs://orders", "a")))
		b.Inject(fakesqs.Fault{Action: batch, CutAfter: true})
		assert.Error(t, publishAll(t, awssqs.New(b.client), message("sqs://orders", "a"))[0])
		assert.Len(t, b.sizes(), 3)
	})
}

func TestRefusedConnectionIsRetriedAndThenUnavailable(t *testing.T) {
	t.Parallel()
	port := testport.Reserve(t)
	p := awssqs.New(newClient(t, "http://"+port.Address))
	err := publishAll(t, p, message("sqs://orders", "a"))[0]
	assert.Equal(t, outflow.ClassUnavailable, outflow.ClassOf(err), "%v", err)
	assert.ErrorContains(t, err, "connection refused")
	assert.ErrorContains(t, err, "nothing was sent; check the endpoint")

	// The server comes up between two attempts.
	b := newBroker(t)
	b.CreateQueue("", "orders", nil)
	up := httptest.NewUnstartedServer(b)
	defer up.Close()
	time.AfterFunc(60*time.Millisecond, func() {
		l, err := net.Listen("tcp", port.Address)
		if assert.NoError(t, err) {
			up.Listener.Close()
			up.Listener = l
			up.Start()
		}
	})
	noErrors(t, publishAll(t, p, message("sqs://orders", "a")))
	assert.Len(t, b.Messages("", "orders"), 1)
}

func TestMissingCredentialsAreUnavailable(t *testing.T) {
	for name, provider := range map[string]aws.CredentialsProvider{
		"empty": credentials.NewStaticCredentialsProvider("", "", ""),
		"cached": aws.NewCredentialsCache(aws.CredentialsProviderFunc(func(context.Context) (aws.Credentials, error) {
			return aws.Credentials{}, assert.AnError
		})),
	} {
		t.Run(name, func(t *testing.T) {
			b := newBroker(t)
			b.CreateQueue("", "orders", nil)
			client := newClient(t, b.http.URL, func(o *sqs.Options) { o.Credentials = provider })
			err := publishAll(t, awssqs.New(client), message("sqs://orders", "a"))[0]
			assert.Equal(t, outflow.ClassUnavailable, outflow.ClassOf(err), "%v", err)
			assert.ErrorContains(t, err, "no credentials")
			assert.Empty(t, b.Requests())
		})
	}
}

func TestRecreatedQueueIsLookedUpAgain(t *testing.T) {
	b := newBroker(t)
	b.CreateQueue("", "orders", nil)
	p := awssqs.New(b.client, untilFull)
	noErrors(t, publishAll(t, p, several(10, "sqs://orders")...))
	b.Recreate("", "orders")
	noErrors(t, publishAll(t, p, several(10, "sqs://orders")...))
	assert.Len(t, b.Messages("", "orders"), 10)
	assert.Equal(t, []int{10, 10, 10}, b.sizes())
	assert.Len(t, b.Requests("GetQueueUrl"), 2)

	b.DeleteQueue("", "orders")
	for _, err := range publishAll(t, p, several(10, "sqs://orders")...) {
		assert.True(t, outflow.IsPermanent(err), "%v", err)
		assert.ErrorContains(t, err, "looking up sqs://orders: NonExistentQueue")
		assert.ErrorContains(t, err, "create the queue")
		assert.ErrorIs(t, err, outflow.ErrNoDestination)
	}

	b.CreateQueue("", "orders", nil)
	noErrors(t, publishAll(t, p, several(10, "sqs://orders")...))
}

func TestQueueFoundButNotThereIsNotPermanent(t *testing.T) {
	b := newBroker(t)
	b.CreateQueue("", "orders", nil)
	b.Inject(fakesqs.Fault{Action: batch, Error: &fakesqs.Error{Code: "QueueDoesNotExist"}})
	err := publishAll(t, awssqs.New(b.client), message("sqs://orders", "a"))[0]
	assert.Equal(t, outflow.ClassRetryable, outflow.ClassOf(err), "%v", err)
	assert.NotErrorIs(t, err, outflow.ErrNoDestination)
	assert.Equal(t, 2, len(b.sizes()))
}

// A look-up carries no message, so only a missing queue is an answer about one.
func TestRefusedLookupEndsNoMessage(t *testing.T) {
	for _, refusal := range []*fakesqs.Error{
		{Code: "InvalidParameterValue"}, {Code: "ValidationError"}, {Code: "SomethingNew"},
		{Status: 413}, {Status: 404},
	} {
		b := newBroker(t)
		b.CreateQueue("", "orders", nil)
		b.Inject(fakesqs.Fault{Action: "GetQueueUrl", Error: refusal})
		err := publishAll(t, awssqs.New(b.client), message("sqs://orders", "a"))[0]
		assert.Equal(t, outflow.ClassUnavailable, outflow.ClassOf(err), "%v", err)
		assert.ErrorContains(t, err, "check the region, the account and the endpoint")
	}
}

func TestLookupHasItsOwnDeadlineAndIsShared(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	b.CreateQueue("", "orders", nil)
	b.Inject(fakesqs.Fault{Action: "GetQueueUrl", Delay: time.Minute, Times: 1})
	p := awssqs.New(b.client, awssqs.WithTimeout(time.Second), awssqs.WithLinger(0))
	for _, err := range publishAll(t, p, several(8, "sqs://orders")...) {
		assert.Equal(t, outflow.ClassUnavailable, outflow.ClassOf(err), "%v", err)
		assert.ErrorContains(t, err, "looking up sqs://orders: no answer")
	}
	assert.Len(t, b.Requests("GetQueueUrl"), 1)
	noErrors(t, publishAll(t, p, message("sqs://orders", "a")))
}

// brokerWithSlowLookup has the look-up of a queue take that long.
func brokerWithSlowLookup(t *testing.T, d time.Duration) *broker {
	b := newBroker(t)
	b.CreateQueue("", "orders", nil)
	b.Inject(fakesqs.Fault{Action: "GetQueueUrl", Delay: d})
	return b
}

// publishWithin publishes one message with that much time.
func publishWithin(t *testing.T, p *awssqs.Publisher, d time.Duration) error {
	ctx, cancel := context.WithTimeout(t.Context(), d)
	defer cancel()
	_, err := p.Publish(ctx, message("sqs://orders", "a"))
	return err
}

// A queue is looked up beside an attempt that has no time for it. That attempt does not count as
// a failure of the slow queue: the next attempt knows the queue.
func TestASlowQueueIsLookedUpBesideTheAttempts(t *testing.T) {
	t.Parallel()
	b := brokerWithSlowLookup(t, 1500*time.Millisecond)
	p := awssqs.New(b.client, awssqs.WithTimeout(3*time.Second), awssqs.WithLinger(0))
	short := func() error { return publishWithin(t, p, 3500*time.Millisecond) }
	err := short()
	assert.ErrorIs(t, err, outflow.ErrNotAttempted)
	assert.Equal(t, outflow.ClassRetryable, outflow.ClassOf(err))
	assert.EqualError(t, err, "looking up sqs://orders: not attempted: nothing was sent: "+
		"the look-up goes on beside this attempt")
	require.Eventually(t, func() bool { return short() == nil }, 10*time.Second, 50*time.Millisecond)
	assert.Len(t, b.Requests("GetQueueUrl"), 1)
	assert.Len(t, b.sizes(), 1)
}

// The send has all of its time, however long the lookup took.
func TestASlowLookupTakesNoTimeOfTheSend(t *testing.T) {
	t.Parallel()
	b := brokerWithSlowLookup(t, 1500*time.Millisecond)
	b.Inject(fakesqs.Fault{Action: batch, Delay: 1500 * time.Millisecond})
	p := awssqs.New(b.client, awssqs.WithTimeout(2500*time.Millisecond), awssqs.WithLinger(0))
	noErrors(t, publishAll(t, p, message("sqs://orders", "a")))
	assert.Len(t, b.sizes(), 1)
}

// An SQS that answers after three seconds: the fast path has no time for that, and a durable
// attempt has. Neither gets the other's deadline, though they publish at the same time.
func TestSQSThatAnswersAfterThreeSeconds(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	b.CreateQueue("", "orders", nil)
	p := awssqs.New(b.client)
	noErrors(t, publishAll(t, p, message("sqs://orders", "the queue is known")))
	b.Inject(fakesqs.Fault{Action: batch, Delay: 3 * time.Second})
	publish := func(d time.Duration) error { return publishWithin(t, p, d) }
	var fast error
	var both sync.WaitGroup
	both.Go(func() { fast = publish(4 * time.Second) })
	both.Go(func() { assert.NoError(t, publish(30*time.Second)) })
	both.Wait()
	assert.ErrorContains(t, fast, "no answer")
	assert.Equal(t, outflow.ClassUnavailable, outflow.ClassOf(fast))
	assert.True(t, outbox.WasCutShort(fast), "it was about to answer")

	// Where the publisher's own timeout is over, the queue fails.
	impatient := awssqs.New(b.client, awssqs.WithTimeout(2*time.Second))
	for _, d := range []time.Duration{4 * time.Second, 30 * time.Second} {
		err := publishWithin(t, impatient, d)
		assert.ErrorContains(t, err, "no answer")
		assert.False(t, outbox.WasCutShort(err))
	}
}

// SQS, or a proxy before it, names a time beside its refusal.
func TestAThrottleThatNamesATime(t *testing.T) {
	for value, want := range map[string]time.Duration{
		"600": 10 * time.Minute, "86400": time.Hour, "99999999999999999999": time.Hour, "soon": 0, "-1": 0,
	} {
		b := newBroker(t)
		b.CreateQueue("", "orders", nil)
		b.Inject(fakesqs.Fault{Action: batch,
			Error: &fakesqs.Error{Status: 429, Code: "RequestThrottled", RetryAfter: value}})
		err := publishAll(t, awssqs.New(b.client, awssqs.WithTimeout(time.Second)), message("sqs://orders", "a"))[0]
		assert.Equal(t, outflow.ClassUnavailable, outflow.ClassOf(err), "%v", err)
		assert.Equal(t, want, outbox.RetryAfter(err), value)
	}
}

// A look-up without an answer is a failure where the look-up before failed. Otherwise attempts with
// little time, the probes of an open breaker among them, would never say that the queue fails.
func TestSilenceAfterAFailedLookupIsUnavailable(t *testing.T) {
	t.Parallel()
	b := brokerWithSlowLookup(t, time.Minute)
	p := awssqs.New(b.client, awssqs.WithTimeout(time.Second), awssqs.WithLinger(0))
	short := func() error { return publishWithin(t, p, 1300*time.Millisecond) }
	require.ErrorIs(t, short(), outflow.ErrNotAttempted)
	require.Eventually(t, func() bool { return !errors.Is(short(), outflow.ErrNotAttempted) }, 5*time.Second,
		time.Millisecond)
	for range 3 {
		err := short()
		assert.Equal(t, outflow.ClassUnavailable, outflow.ClassOf(err), "%v", err)
		assert.NotErrorIs(t, err, outflow.ErrNotAttempted)
		assert.ErrorContains(t, err, "looking up sqs://orders: no answer")
	}
	assert.Greater(t, len(b.Requests("GetQueueUrl")), 1)
}

// A panic of a look-up says nothing about any message: none is part of it.
func TestPanicInTheLookupIsUnavailable(t *testing.T) {
	p := awssqs.New(struct{ awssqs.API }{}, awssqs.WithLinger(0)) // a nil API: every call panics
	err := publishAll(t, p, message("sqs://orders", "a"))[0]
	assert.Equal(t, outflow.ClassUnavailable, outflow.ClassOf(err), "%v", err)
	assert.ErrorContains(t, err, "looking up sqs://orders: the publisher panicked: "+
		"runtime error: invalid memory address")
}

// panicking panics for requests with the guilty message: before the request is sent, or when SQS
// has it.
type panicking struct {
	*sqs.Client
	after bool
}

func (p panicking) SendMessageBatch(ctx context.Context, in *sqs.SendMessageBatchInput,
	opts ...func(*sqs.Options)) (*sqs.SendMessageBatchOutput, error) {
	var out *sqs.SendMessageBatchOutput
	var err error
	if p.after {
		out, err = p.Client.SendMessageBatch(ctx, in, opts...)
	}
	for _, e := range in.Entries {
		if *e.MessageBody == "guilty" {
			panic("a codec that quotes " + *e.MessageBody)
		}
	}
	if !p.after {
		out, err = p.Client.SendMessageBatch(ctx, in, opts...)
	}
	return out, err
}

func TestPanicOfASharedRequestIsNoVerdictOnItsEntries(t *testing.T) {
	for name, tc := range map[string]struct {
		after bool
		sizes []int
		there int
	}{
		"before it is sent": {false, []int{1, 1, 1, 1, 1, 1, 1, 1, 1}, 9},
		// The nine arrive twice, under the same message IDs.
		"when SQS has it": {true, []int{10, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}, 20},
	} {
		t.Run(name, func(t *testing.T) {
			b := newBroker(t)
			b.CreateQueue("", "orders", nil)
			messages := several(10, "sqs://orders")
			messages[4].Payload = []byte("guilty")
			errs := publishAll(t, awssqs.New(panicking{b.client, tc.after}, untilFull), messages...)
			of := errs[4]
			noErrors(t, append(errs[:4:4], errs[5:]...))
			assert.True(t, outflow.IsPermanent(of), "%v", of)
			assert.ErrorContains(t, of, "sending to sqs://orders: the publisher panicked: a string, not shown")
			assert.NotContains(t, of.Error(), "guilty", "a panic may quote the payload")
			var panicked *publish.PanicError
			require.ErrorAs(t, of, &panicked)
			assert.Contains(t, string(panicked.Stack), "panicking.SendMessageBatch")
			assert.Equal(t, tc.sizes, b.sizes())
			assert.Len(t, b.Messages("", "orders"), tc.there)
		})
	}
}

func TestPanicOfALoneRequestIsPermanent(t *testing.T) {
	b := newBroker(t)
	b.CreateQueue("", "orders", nil)
	err := publishAll(t, awssqs.New(panicking{b.client, false}), message("sqs://orders", "guilty"))[0]
	assert.True(t, outflow.IsPermanent(err), "%v", err)
	assert.Empty(t, b.sizes(), "and is not tried again")
}

func TestErrorTextsStayShort(t *testing.T) {
	b := newBroker(t)
	b.CreateQueue("", "orders", nil)
	b.Inject(fakesqs.Fault{Action: batch, Error: &fakesqs.Error{Code: "AccessDenied",
		Message: strings.Repeat("é", 5000)}})
	err := publishAll(t, awssqs.New(b.client), message("sqs://orders", "a"))[0]
	require.Error(t, err)
	assert.Less(t, len(err.Error()), 1000)
}

func TestNoConnectionInTimeIsUnavailable(t *testing.T) {
	t.Parallel()
	b := newBroker(t)
	b.CreateQueue("", "orders", nil)
	var dead atomic.Bool
	over := make(chan struct{}) // net/http dials with a context of its own
	defer close(over)
	transport := &http.Transport{DisableKeepAlives: true,
		DialContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			if dead.Load() {
				<-over // a host that answers nothing
				return nil, net.ErrClosed
			}
			return (&net.Dialer{}).DialContext(ctx, network, address)
		}}
	client := newClient(t, b.http.URL, func(o *sqs.Options) { o.HTTPClient = &http.Client{Transport: transport} })
	p := awssqs.New(client, awssqs.WithTimeout(time.Second))
	noErrors(t, publishAll(t, p, message("sqs://orders", "a")))
	dead.Store(true)
	err := publishAll(t, p, message("sqs://orders", "b"))[0]
	assert.Equal(t, outflow.ClassUnavailable, outflow.ClassOf(err), "%v", err)
	assert.ErrorContains(t, err, "sending to sqs://orders: not sent")
}

func TestUnusableClientIsUnavailable(t *testing.T) {
	client := newClient(t, "http://127.0.0.1:1", func(o *sqs.Options) { o.Region, o.BaseEndpoint = "eu west 1", nil })
	err := publishAll(t, awssqs.New(client), message("sqs://orders", "a"))[0]
	assert.Equal(t, outflow.ClassUnavailable, outflow.ClassOf(err), "%v", err)
	assert.ErrorContains(t, err, "nothing was sent; check the endpoint, the region")
}

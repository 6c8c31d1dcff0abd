package awssqs

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/httptrace"
	"regexp"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/outflowhq/outflow"
)

// attempt is one request to SQS on its way, with what its failure will say.
type attempt struct {
	doing string // with the destination
	sends bool   // the request carries messages
	size  int    // that of its only message, 0 for several or none
	// connected: a connection was used. Without one, nothing was sent.
	connected atomic.Bool
}

func (a *attempt) trace(ctx context.Context) context.Context {
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(httptrace.GotConnInfo) { a.connected.Store(true) },
	})
}

// failure is the failure of every message of a request that failed as a whole.
func (a *attempt) failure(err error) *outflow.Failure {
	v, code := verdictOf(err, a.connected.Load())
	if v == unanswered && !a.sends {
		v = down
	}
	detail := err.Error()
	var api smithy.APIError
	var op *net.OpError
	switch {
	case v == noCredentials:
	case errors.As(err, &api):
		detail = api.ErrorMessage()
	case errors.As(err, &op):
		detail = op.Error() // without the SDK's story around it
	}
	return failure(a.doing, v, code, detail, a.size, retryAfter(err))
}

// verdictOf returns the verdict on an error of the client, and the code it
// carried.
func verdictOf(err error, connected bool) (verdict, string) {
	if noIdentity(err) {
		return noCredentials, "no credentials"
	}
	status := 0
	var answer *smithyhttp.ResponseError
	if errors.As(err, &answer) {
		status = answer.HTTPStatusCode()
	}
	var api smithy.APIError
	switch {
	case errors.As(err, &api):
		return judge(api.ErrorCode(), status), cmp.Or(plainCode(api.ErrorCode()), "HTTP status "+strconv.Itoa(status))
	case status >= 300:
		return judge("", status), "HTTP status " + strconv.Itoa(status)
	case neverSent(err), !connected:
		return unreachable, "not sent"
	}
	return unanswered, "no answer"
}

// neverSent reports whether err shows that no byte of the request left: the
// name did not resolve or the connection was not made.
func neverSent(err error) bool {
	var op *net.OpError
	var dns *net.DNSError
	return errors.As(err, &op) && op.Op == "dial" || errors.As(err, &dns)
}

// noIdentity reports whether the client found no usable credentials. The SDK
// has no type for it, and wraps errors of other services (STS, SSO, the
// instance's metadata) whose codes must not be read as SQS's.
func noIdentity(err error) bool {
	var op *smithy.OperationError
	if errors.As(err, &op) && op.ServiceID == sqs.ServiceID {
		err = op.Err
	}
	text := err.Error()
	return strings.HasPrefix(text, "get identity: ") || strings.HasPrefix(text, "sign request: ")
}

// entryFailure is the failure of one message in a batch whose others may have
// been accepted. SQS says it did not accept this one, of size bytes.
func entryFailure(doing string, e types.BatchResultErrorEntry, size int) error {
	v := judge(aws.ToString(e.Code), 0)
	code := plainCode(aws.ToString(e.Code))
	if code == "" {
		code = "no code"
	}
	if v == unknown && e.SenderFault {
		code += " (sender's fault)"
	}
	return failure(doing, v, code, aws.ToString(e.Message), size, 0)
}

// failure writes the text. AWS's own words stay out where they may quote the
// message; what is left of them is the name of the parameter they are about, and the
// queue's size limit. size is the message's, 0 where it says nothing.
func failure(doing string, v verdict, code, detail string, size int, after time.Duration) *outflow.Failure {
	limit := sizeLimit.FindStringSubmatch(detail)
	switch {
	case v.content && size > 0 && limit != nil:
		detail = fmt.Sprintf("the message has %d bytes with its attributes and encoding, and the queue takes %s", size, limit[1])
		v.next = fmt.Sprintf("raise the queue's MaximumMessageSize, at most %d, and retry the message; or enqueue a reference to the content instead", maxBytes)
	case v.quotes:
		detail = parametersIn(detail)
	}
	text := doing + ": " + code
	if detail != "" {
		text += ": " + strings.TrimSuffix(brief(detail), ".")
	}
	text += " (" + v.next + ")"
	f := &outflow.Failure{Class: v.class, RetryAfter: after, Answered: v.class != outflow.ClassUnavailable, Err: errors.New(text)}
	if v.gone {
		f.Err = noQueue(text)
	}
	return f
}

// sizeLimit is how SQS says that a message exceeds its queue's MaximumMessageSize.
var sizeLimit = regexp.MustCompile(`Message must be shorter than (\d{1,9}) bytes`)

// noQueue is the text about a queue that does not exist.
type noQueue string

func (e noQueue) Error() string { return string(e) }

// Is has errors.Is find outflow.ErrNoDestination, whose words the text needs not.
func (noQueue) Is(target error) bool { return target == outflow.ErrNoDestination }

func parametersIn(detail string) string {
	var found []string
	for _, name := range []string{
		"MessageBody", "MessageAttributes", "MessageAttribute", "MessageGroupId", "MessageDeduplicationId",
		"MaximumMessageSize", "QueueUrl", "attribute",
	} {
		if strings.Contains(detail, name) {
			found = append(found, name)
		}
	}
	if len(found) == 0 {
		return ""
	}
	return "it names " + strings.Join(found, ", ")
}

// brief bounds what is quoted of others' texts.
func brief(s string) string {
	const limit = 300
	s = strings.ToValidUTF8(s, "\uFFFD")
	if runes := []rune(s); len(runes) > limit {
		return string(runes[:limit]) + "…"
	}
	return s
}

// retryAfter is the time that an answer asked for, where it named one: seconds
// or a date (RFC 9110, section 10.2.3). A date is counted from the answer's own.
func retryAfter(err error) time.Duration {
	var answer *smithyhttp.ResponseError
	if !errors.As(err, &answer) || answer.Response == nil || answer.Response.Response == nil {
		return 0
	}
	value := answer.Response.Header.Get("Retry-After")
	seconds, err := strconv.ParseUint(value, 10, 64)
	if err == nil || errors.Is(err, strconv.ErrRange) {
		return time.Duration(min(seconds, uint64(outflow.MaxRetryAfter/time.Second))) * time.Second
	}
	until, err := http.ParseTime(value)
	if err != nil {
		return 0
	}
	now, err := http.ParseTime(answer.Response.Header.Get("Date"))
	if err != nil {
		return 0
	}
	return min(max(until.Sub(now), 0), outflow.MaxRetryAfter)
}

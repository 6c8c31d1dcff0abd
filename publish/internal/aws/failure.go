package aws

import (
	"cmp"
	"errors"
	"net"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/aws/smithy-go"
	smithyhttp "github.com/aws/smithy-go/transport/http"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/text"
	"github.com/outflowhq/outflow/publish/internal/retryafter"
)

// Refusal is a failure in parts.
type Refusal struct {
	Doing string // what was being done, with the destination
	Kind  Kind
	Code  string
	Said  string // the service's or the client's own words
	Size  int    // bytes of the only message; 0 for several or none
	// SenderFault says that an entry's error is the sender's fault.
	SenderFault bool
	RetryAfter  time.Duration
}

// Failure writes the text. The service's own words stay out where they may quote the message:
// what is left of them is the names of the parameters they are about, and a size limit.
func (s *Service) Failure(r Refusal) *outflow.Failure {
	said, advice := r.Said, s.Advice(r.Kind)
	if r.Kind.mayQuote() {
		said = s.parametersIn(r.Said)
	}
	if r.Kind == Content && r.Size > 0 && s.TooLarge != nil {
		if detail, own, ok := s.TooLarge(r.Said, r.Size); ok {
			said, advice = detail, own
		}
	}
	message := r.Doing + ": " + r.Code
	if said != "" {
		message += ": " + strings.TrimSuffix(text.Limit(said, 300), ".")
	}
	message += " (" + advice + ")"
	f := &outflow.Failure{
		Class: r.Kind.Class(), RetryAfter: r.RetryAfter,
		Answered: r.Kind.Class() != outflow.ClassUnavailable, Err: errors.New(message),
	}
	if r.Kind == Missing {
		f.Err = noDestination(message)
	}
	return f
}

// EntryFailure is the failure of one message in a batch whose others may have been accepted.
// The service says that it did not accept this one. r.Code is its code as it came.
func (s *Service) EntryFailure(r Refusal) *outflow.Failure {
	r.Kind = s.refine(s.KindOf(r.Code, 0), r.Said)
	r.Code = cmp.Or(s.plainCode(r.Code), "no code")
	if r.Kind == Unknown && r.SenderFault {
		r.Code += " (sender's fault)"
	}
	return s.Failure(r)
}

// noDestination is the text about a destination that does not exist.
type noDestination string

func (e noDestination) Error() string { return string(e) }

// Is has errors.Is find outflow.ErrNoDestination, whose words the text does not need.
func (noDestination) Is(target error) bool { return target == outflow.ErrNoDestination }

func (s *Service) parametersIn(said string) string {
	var found []string
	for _, name := range s.Parameters {
		if strings.Contains(said, name) {
			found = append(found, name)
		}
	}
	if len(found) == 0 {
		return ""
	}
	return "it names " + strings.Join(found, ", ")
}

// kindOf returns the kind of a client's error, and the code that it carried.
func (s *Service) kindOf(err error, connected bool) (Kind, string) {
	if s.noIdentity(err) {
		return NoCredentials, "no credentials"
	}
	status := 0
	var answer *smithyhttp.ResponseError
	if errors.As(err, &answer) {
		status = answer.HTTPStatusCode()
	}
	byStatus := "HTTP status " + strconv.Itoa(status)
	var api smithy.APIError
	switch {
	case errors.As(err, &api):
		code := s.plainCode(api.ErrorCode())
		if code == "UnknownError" { // the SDK's word for none
			code = byStatus
		}
		return s.refine(s.KindOf(code, status), api.ErrorMessage()), cmp.Or(code, byStatus)
	case status >= http.StatusMultipleChoices:
		return s.KindOf("", status), byStatus
	case neverSent(err), !connected:
		return Unreachable, "not sent"
	}
	return Unanswered, "no answer"
}

func (s *Service) refine(k Kind, said string) Kind {
	if s.Refine == nil {
		return k
	}
	return s.Refine(k, said)
}

// neverSent reports whether err shows that no byte of the request left: the name did not
// resolve or the connection was not made.
func neverSent(err error) bool {
	var op *net.OpError
	var dns *net.DNSError
	return errors.As(err, &op) && op.Op == "dial" || errors.As(err, &dns)
}

// noIdentity reports whether the client found no usable credentials. The SDK has no type for
// it, and wraps errors of other services (STS, SSO, the instance's metadata) whose codes must
// not be read as this service's.
func (s *Service) noIdentity(err error) bool {
	var op *smithy.OperationError
	if errors.As(err, &op) && op.ServiceID == s.ID {
		err = op.Err
	}
	said := err.Error()
	return strings.HasPrefix(said, "get identity: ") || strings.HasPrefix(said, "sign request: ")
}

// retryAfter is the wait that the answer asked for, or zero.
func retryAfter(err error) time.Duration {
	var answer *smithyhttp.ResponseError
	if !errors.As(err, &answer) || answer.Response == nil || answer.Response.Response == nil {
		return 0
	}
	return retryafter.From(answer.Response.Header)
}

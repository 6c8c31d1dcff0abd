package temporalwf

import (
	"errors"
	"fmt"
	"strings"

	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"google.golang.org/grpc/codes"

	"github.com/outflowhq/outflow"
	shown "github.com/outflowhq/outflow/internal/text"
)

const (
	tooLarge  = "Temporal takes 2 MiB by default: enqueue a reference to the content instead"
	correctIt = "correct the message and enqueue it again, or redirect it"
	again     = "it is sent again with the same request ID, which starts nothing twice"
	// maxWords bounds what is quoted of Temporal's own words, in characters. They have names and
	// limits, and no payload.
	maxWords = 300
)

// failureOf classifies an error of Temporal's API. sent says that the request got a connection.
func failureOf(doing string, err error, sent, cutShort bool) *outflow.Failure {
	answer := serviceerror.ToStatus(err)
	code, words := answer.Code(), shown.Limit(shown.Visible(answer.Message()), maxWords)
	f := &outflow.Failure{Class: outflow.ClassUnavailable, Answered: true}
	next := again
	var (
		missing   *serviceerror.NamespaceNotFound
		gone      *serviceerror.NamespaceInvalidState
		exhausted *serviceerror.ResourceExhausted
	)
	switch {
	case errors.As(err, &missing), errors.As(err, &gone):
		f.Class = outflow.ClassPermanent
		f.Err = fmt.Errorf("%s: %w: %s: %s (create the namespace, or check its name and the permission to see it; "+
			"then retry or redirect the message)", doing, outflow.ErrNoDestination, code, words)
		return f
	case code == codes.ResourceExhausted && !errors.As(err, &exhausted):
		// The SDK leaves this error alone: gRPC's own limit of a request, 4 MiB on the server.
		f.Class, next = outflow.ClassPermanent, tooLarge
	case code == codes.ResourceExhausted && exhausted.Cause == enumspb.RESOURCE_EXHAUSTED_CAUSE_BUSY_WORKFLOW:
		f.Class = outflow.ClassRetryable // one workflow gets too many signals at once
	case code == codes.InvalidArgument:
		f.Class, next = outflow.ClassPermanent, adviceFor(words)
	case code == codes.PermissionDenied, code == codes.Unauthenticated:
		next = "check the API key or certificate and its rights in the namespace; " + again
	case code == codes.Unavailable, code == codes.DeadlineExceeded, code == codes.Canceled:
		f.Answered = false
		f.CutShort = cutShort && sent && code == codes.DeadlineExceeded
		if sent {
			next = "Temporal may have it; " + again
		} else {
			next = "nothing was sent; it is tried again"
		}
	}
	f.Err = fmt.Errorf("%s: %s: %s (%s)", doing, code, words, next)
	return f
}

// adviceFor is what to do about a request that Temporal finds invalid.
func adviceFor(words string) string {
	switch {
	case strings.Contains(words, "size exceeds limit"):
		return tooLarge
	case strings.Contains(words, "limit for signal"):
		return "the run has as many signals as Temporal takes: have it continue as new, then retry the message"
	}
	return correctIt
}

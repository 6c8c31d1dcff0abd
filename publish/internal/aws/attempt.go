package aws

import (
	"context"
	"errors"
	"net"
	"net/http/httptrace"
	"sync/atomic"

	"github.com/aws/smithy-go"

	"github.com/outflowhq/outflow"
)

// Attempt is one request under way, with what its failure will say.
type Attempt struct {
	Service *Service
	Doing   string // what is being done, with the destination
	// Sends says that the request carries messages: without an answer, the service may have
	// accepted them.
	Sends bool
	Size  int // bytes of its only message; 0 for several or none

	connected atomic.Bool // a connection was used; without one, nothing was sent
}

// Trace returns a context for the request, which watches whether there is a connection.
func (a *Attempt) Trace(ctx context.Context) context.Context {
	return httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		GotConn: func(httptrace.GotConnInfo) { a.connected.Store(true) },
	})
}

// ofLookup is what an error of a request says that carries no message. No such error but a missing
// destination is about a message: each waits until somebody corrects what is wrong.
func ofLookup(k Kind) Kind {
	switch k {
	case Unanswered:
		return Down
	case Content, Unknown:
		return WrongEndpoint
	}
	return k
}

// Failure is the failure of every message of a request that failed as a whole.
func (a *Attempt) Failure(err error) (Kind, *outflow.Failure) {
	kind, code := a.Service.kindOf(err, a.connected.Load())
	if !a.Sends {
		kind = ofLookup(kind)
	}
	said := err.Error()
	var api smithy.APIError
	var op *net.OpError
	switch {
	case kind == NoCredentials:
	case errors.As(err, &api):
		said = api.ErrorMessage()
	case errors.As(err, &op):
		said = op.Error() // without the SDK's words around it
	}
	return kind, a.Service.Failure(Refusal{
		Doing: a.Doing, Kind: kind, Code: code, Said: said, Size: a.Size, RetryAfter: retryAfter(err),
	})
}

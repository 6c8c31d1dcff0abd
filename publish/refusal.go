package publish

import (
	"context"
	"strings"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/panics"
)

// Refuser is a Publisher that can say, without sending anything, that its settings keep it from
// sending to a destination.
type Refuser interface {
	// Refusal is why nothing is sent to a destination until an operator changes a setting of
	// this process, or nil. Its class is unavailable. It makes no request and is quick: a
	// scanner calls it before it starts a run.
	Refusal(destination string) error
}

// Refusal is why the publisher of a destination's scheme refuses the destination, or nil; a
// scanner's Options.Refuse. Where the scheme has no publisher, the error wraps
// outflow.ErrNoPublisher. Publish reports every other reason.
func (r *Router) Refusal(destination string) error {
	p, ok := r.publisherOf(destination)
	if !ok {
		return outflow.Unavailable(r.noPublisher(destination))
	}
	if refuser, ok := p.(Refuser); ok {
		return refuser.Refusal(destination)
	}
	return nil
}

// Check looks a destination up with the publisher of its scheme; a scanner's Options.Check. It
// returns nil where that publisher is no Checker: then only a message can find out.
func (r *Router) Check(ctx context.Context, destination string) (err error) {
	p, ok := r.publisherOf(destination)
	if !ok {
		return outflow.Permanent(r.noPublisher(destination))
	}
	defer panics.Catch(func(p *PanicError) {
		err = outflow.Unavailable(panics.OfPublisher("looking up "+outflow.DisplayDestination(destination), p))
	})
	if checker, ok := p.(Checker); ok {
		return checker.Check(ctx, destination)
	}
	return nil
}

// publisherOf returns the publisher of a destination's scheme, where there is one.
func (r *Router) publisherOf(destination string) (Publisher, bool) {
	scheme, _, _ := strings.Cut(destination, "://")
	p, ok := r.publishers[publisherScheme(scheme)]
	return p, ok
}

// publisherScheme is the scheme of the publisher for destinations of a scheme: that of https
// also gets http, and decides whether http is allowed.
func publisherScheme(scheme string) string {
	if scheme == outflow.SchemeHTTP {
		return outflow.SchemeHTTPS
	}
	return scheme
}

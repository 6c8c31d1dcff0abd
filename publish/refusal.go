package publish

import (
	"strings"

	"github.com/outflowhq/outflow"
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
// scanner's Options.Refuse. Publish reports every other reason.
func (r *Router) Refusal(destination string) error {
	scheme, _, _ := strings.Cut(destination, "://")
	if refuser, ok := r.publishers[publisherScheme(scheme)].(Refuser); ok {
		return refuser.Refusal(destination)
	}
	return nil
}

// publisherScheme is the scheme of the publisher for destinations of a scheme: that of https
// also gets http, and decides whether http is allowed.
func publisherScheme(scheme string) string {
	if scheme == outflow.SchemeHTTP {
		return outflow.SchemeHTTPS
	}
	return scheme
}

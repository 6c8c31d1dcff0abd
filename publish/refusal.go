package publish

import (
	"strings"

	"github.com/outflowhq/outflow"
)

// Refuser is a Publisher that can say, without sending anything, that its settings keep it
// from sending to a destination.
type Refuser interface {
	// Refusal is why nothing is sent to a destination until an operator changes a setting
	// of this process, or nil. Its class is unavailable. It asks nobody and is quick: a
	// scanner asks before it starts a run.
	Refusal(destination string) error
}

// Refusal is why the publisher of a destination's scheme refuses it, or nil; a scanner's
// Options.Refuse. What can't be published for another reason is left to Publish.
func (r *Router) Refusal(destination string) error {
	scheme, _, _ := strings.Cut(destination, "://")
	if scheme == outflow.SchemeHTTP {
		scheme = outflow.SchemeHTTPS
	}
	if refuser, ok := r.publishers[scheme].(Refuser); ok {
		return refuser.Refusal(destination)
	}
	return nil
}

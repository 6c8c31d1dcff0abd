// Package callbacks sends callbacks in the form that their destinations accept.
//
// The invariant: an https URL gets a signed request whose webhook-id is the callback's ID; every
// other destination gets a message.
package callbacks

import (
	"context"
	"strings"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/activities"
	"github.com/outflowhq/outflow/internal/tracing"
	"github.com/outflowhq/outflow/publish"
	"github.com/outflowhq/outflow/publish/webhook"
)

// Sender sends callbacks: to https and http URLs with HTTPS, which signs them, and to any other
// destination with Others, as messages. It is safe for concurrent use.
type Sender struct {
	HTTPS  activities.CallbackSender // nil where none is configured
	Others activities.CallbackSender
}

var _ activities.CallbackSender = Sender{}

// New returns a Sender that uses the publishers of messages.
func New(brokers []publish.Publisher, others activities.Publisher) Sender {
	c := Sender{Others: activities.PublishCallbacks(others)}
	for _, b := range brokers {
		if w, ok := b.(*webhook.Publisher); ok {
			c.HTTPS = webhooks{w}
		}
	}
	return c
}

// webhooks sends callbacks as webhooks, whose webhook-id is the callback's ID, with the headers of
// its trace.
type webhooks struct{ *webhook.Publisher }

func (p webhooks) SendCallback(ctx context.Context, destination, id, contentType string, body []byte) error {
	_, err := p.Send(ctx, destination, id, contentType, body, tracing.Headers(ctx))
	return err
}

// ErrNoHTTPS is outflow.ErrNoPublisher: no publisher here sends to an https or http URL.
var ErrNoHTTPS error = noHTTPS{}

type noHTTPS struct{}

func (noHTTPS) Error() string {
	return "no https publisher is configured: nothing was sent " +
		`(give the dispatcher a webhook.Publisher, then "outflow callback retry" sends it)`
}

// Is has errors.Is find outflow.ErrNoPublisher.
func (noHTTPS) Is(target error) bool { return target == outflow.ErrNoPublisher }

// SendCallback sends a callback; see activities.CallbackSender.
func (c Sender) SendCallback(ctx context.Context, destination, id, contentType string, body []byte) error {
	switch {
	case !strings.HasPrefix(destination, outflow.SchemeHTTP+"://") &&
		!strings.HasPrefix(destination, outflow.SchemeHTTPS+"://"):
		return c.Others.SendCallback(ctx, destination, id, contentType, body)
	case c.HTTPS == nil:
		return outflow.Permanent(ErrNoHTTPS)
	}
	return c.HTTPS.SendCallback(ctx, destination, id, contentType, body)
}

// Package callbacks sends callbacks the way that their destinations take them.
//
// The invariant: an https URL gets a signed request whose webhook-id is the
// callback's ID; every other destination gets a message.
package callbacks

import (
	"context"
	"errors"
	"strings"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/activities"
	"github.com/outflowhq/outflow/internal/tracing"
	"github.com/outflowhq/outflow/publish"
	"github.com/outflowhq/outflow/publish/webhook"
)

// Sender sends callbacks: to https and http URLs by a sender of their own, which
// signs them, and to any other destination as messages. It is safe for concurrent
// use.
type Sender struct {
	HTTPS  activities.CallbackSender // nil where none is configured
	Others activities.CallbackSender
}

var _ activities.CallbackSender = Sender{}

// New sends over what messages are published with.
func New(brokers []publish.Publisher, others activities.Publisher) Sender {
	c := Sender{Others: activities.PublishCallbacks(others)}
	for _, b := range brokers {
		if w, ok := b.(*webhook.Publisher); ok {
			c.HTTPS = posted{w}
		}
	}
	return c
}

// posted sends callbacks as webhooks, whose webhook-id is the callback's, with the
// headers of its trace.
type posted struct{ *webhook.Publisher }

func (p posted) SendCallback(ctx context.Context, destination, id, contentType string, body []byte) error {
	_, err := p.Send(ctx, destination, id, contentType, body, tracing.Headers(ctx))
	return err
}

// ErrNoHTTPS is permanent: nobody here sends to an https or http URL.
var ErrNoHTTPS = errors.New("no https publisher is configured: nothing was sent (give the dispatcher a webhook.Publisher, then \"outflow callback retry\" sends it)")

// SendCallback sends one callback; see activities.CallbackSender.
func (c Sender) SendCallback(ctx context.Context, destination, id, contentType string, body []byte) error {
	switch {
	case !strings.HasPrefix(destination, outflow.SchemeHTTP+"://") && !strings.HasPrefix(destination, outflow.SchemeHTTPS+"://"):
		return c.Others.SendCallback(ctx, destination, id, contentType, body)
	case c.HTTPS == nil:
		return outflow.Permanent(ErrNoHTTPS)
	}
	return c.HTTPS.SendCallback(ctx, destination, id, contentType, body)
}

package service

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

// callbacks sends callbacks: to https and http URLs by a sender of their own, which
// signs them, and to any other destination as messages.
type callbacks struct {
	https  activities.CallbackSender // nil where none is configured
	others activities.CallbackSender
}

var _ activities.CallbackSender = callbacks{}

// newCallbacks sends over what messages are published with.
func newCallbacks(brokers []publish.Publisher, others activities.Publisher) callbacks {
	c := callbacks{others: activities.PublishCallbacks(others)}
	for _, b := range brokers {
		if w, ok := b.(*webhook.Publisher); ok {
			c.https = posted{w}
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

var errNoHTTP = errors.New("no https publisher is configured, which takes http to this machine in development: nothing was sent (set OUTFLOW_WEBHOOK_INSECURE_LOOPBACK=on, and OUTFLOW_WEBHOOK_HOSTS; then \"outflow callback retry\" sends it)")

var errNoHTTPS = errors.New("no https publisher is configured: nothing was sent (allow its host with OUTFLOW_WEBHOOK_HOSTS, then \"outflow callback retry\" sends it)")

func (c callbacks) SendCallback(ctx context.Context, destination, id, contentType string, body []byte) error {
	plain := strings.HasPrefix(destination, outflow.SchemeHTTP+"://")
	switch {
	case !plain && !strings.HasPrefix(destination, outflow.SchemeHTTPS+"://"):
		return c.others.SendCallback(ctx, destination, id, contentType, body)
	case c.https == nil && plain:
		return outflow.Permanent(errNoHTTP)
	case c.https == nil:
		return outflow.Permanent(errNoHTTPS)
	}
	return c.https.SendCallback(ctx, destination, id, contentType, body)
}

package service

import (
	"context"
	"errors"
	"strings"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/activities"
)

// callbacks sends callbacks: to https URLs by a sender of their own, which signs
// them, and to any other destination as messages.
type callbacks struct {
	https  activities.CallbackSender // nil where none is configured
	others activities.CallbackSender
}

var _ activities.CallbackSender = callbacks{}

var errNoHTTPS = errors.New("no https publisher is configured: nothing was sent (set it up, then \"outflow callback retry\" sends it)")

func (c callbacks) SendCallback(ctx context.Context, destination, id, contentType string, body []byte) error {
	switch {
	case !strings.HasPrefix(destination, "https://"):
		return c.others.SendCallback(ctx, destination, id, contentType, body)
	case c.https == nil:
		return outflow.Permanent(errNoHTTPS)
	}
	return c.https.SendCallback(ctx, destination, id, contentType, body)
}

package awssqs

import (
	"context"
	"fmt"

	"github.com/outflowhq/outflow"
)

// Check looks a queue up and sends nothing. A nil error says that the queue exists and that these
// credentials may look it up; whether they may send shows only when a message is sent. Errors carry
// an outflow.Class, as Publish's do.
func (p *Publisher) Check(ctx context.Context, destination string) error {
	d, err := outflow.ParseDestination(destination)
	if err != nil {
		return outflow.Permanent(fmt.Errorf("reading the destination: %w", err))
	}
	if d.Scheme != outflow.SchemeSQS {
		return outflow.Permanent(fmt.Errorf("looking up %s: only sqs:// is published here", d))
	}
	uncached := lookup{calls: &caller{api: p.api, destination: d, timeout: p.timeout}}
	_, err = uncached.address(ctx, 0, nil)
	return err
}

package awssqs

import "context"

// Check looks a queue up and sends nothing. A nil error says that the queue exists and that these
// credentials may look it up; whether they may send shows only when a message is sent. Errors carry
// an outflow.Class, as Publish's do.
func (p *Publisher) Check(ctx context.Context, destination string) error {
	return p.batches.Check(ctx, destination)
}

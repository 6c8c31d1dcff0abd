package publish

import "context"

// Checker is a Publisher that can look a destination up.
type Checker interface {
	// Check reports whether messages can be sent to a destination, as far as that shows without
	// sending a message. Errors carry an outflow.Class, as Publish's do: permanent where the
	// destination does not exist. It is safe for concurrent use.
	Check(ctx context.Context, destination string) error
}

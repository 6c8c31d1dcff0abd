package publish

import "context"

// Checker is a Publisher that can look a destination up.
type Checker interface {
	// Check reports whether messages can be sent to a destination, as far as that shows without
	// sending a message. Errors carry an outflow.Class, as Publish's do: permanent where the
	// destination does not exist, and then they wrap outflow.ErrNoDestination. It is safe for
	// concurrent use. While messages wait for a missing destination, a scanner asks it every few
	// seconds instead of sending one of them.
	Check(ctx context.Context, destination string) error
}

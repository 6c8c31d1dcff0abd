package outflow

import (
	"crypto/sha256"

	"github.com/google/uuid"
)

const (
	// ByRoute as a message's Destination writes one message for each route of its type. Operators
	// set the routes ("outflow route set"). Message.ID is then the group's ID: Enqueue returns it,
	// and wait.Waiter.WaitAll waits for all messages of the group. Each of them has the ID
	// RoutedID(group, its destination).
	ByRoute = "routes"
	// RouteToNowhere is the destination of a route that makes no message. A type that has no other
	// route can be enqueued, and nothing is written.
	RouteToNowhere = "none"
)

// RoutedID returns the ID of the message to a destination, in canonical form, in the group of an
// enqueue by route. It is a name-based UUIDv8: the first 128 bits of SHA-256 over the group's 16
// bytes and the destination, with version and variant set.
// https://www.rfc-editor.org/rfc/rfc9562#name-example-of-a-uuidv8-value-n
func RoutedID(group uuid.UUID, destination string) uuid.UUID {
	return uuid.NewHash(sha256.New(), group, []byte(destination), 8)
}

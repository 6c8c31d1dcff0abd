// Package recipes shows how to enqueue in the transaction of a library that is not pgx itself.
// README.md has the same code.
//
// The invariant: in each recipe a user exists if and only if its message does.
package recipes

import (
	"fmt"

	"github.com/outflowhq/outflow"
)

// registered is the message of a new user.
func registered(id int64, name string) outflow.Message {
	return outflow.Message{
		Destination: "sqs://welcome-email",
		Type:        "user-registered",
		Payload:     fmt.Appendf(nil, `{"id": %d, "name": %q}`, id, name),
	}
}

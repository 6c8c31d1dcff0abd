package outflow

import (
	"errors"
	"fmt"
	"strings"

	"github.com/google/uuid"
)

// ErrNotFound says that no row has this message ID.
var ErrNotFound = errors.New("message not found")

// InvalidMessageError says which message of an enqueue was refused, and why. No message of the
// call was written.
type InvalidMessageError struct {
	// Index is the message's place in the call, from 0.
	Index int
	// Field is the message's field as the SQL function names it, such as "destination" or
	// "expires_at".
	Field string
	// Wants says what the field accepts and what was given.
	Wants string
}

func (e *InvalidMessageError) Error() string {
	return fmt.Sprintf("message %d: %s: %s", e.Index, e.Field, e.Wants)
}

// DuplicateIDError names the message IDs that exist already. No message of the call was
// written, and the caller's transaction can go on.
type DuplicateIDError struct {
	IDs []uuid.UUID
}

func (e *DuplicateIDError) Error() string {
	ids := make([]string, 0, len(e.IDs))
	for _, id := range e.IDs {
		ids = append(ids, id.String())
	}
	return fmt.Sprintf("message id: enqueued before, or twice in this call: %s", strings.Join(ids, ", "))
}

package outflow

import (
	"encoding/json"
	"fmt"
)

// JSON returns a message whose payload is value in JSON, as encoding/json writes
// it. Its fields may be changed before it is enqueued. The error is of a value that
// JSON can't carry; the other rules are the enqueue's, which names what it refuses.
func JSON(destination, messageType string, value any) (Message, error) {
	payload, err := json.Marshal(value)
	if err != nil {
		return Message{}, fmt.Errorf("encoding the payload of a message of type %q to %q: %w", messageType, destination, err)
	}
	return Message{Destination: destination, Type: messageType, Payload: payload, ContentType: "application/json"}, nil
}

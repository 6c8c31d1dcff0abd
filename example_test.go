package outflow_test

import (
	"fmt"

	"github.com/outflowhq/outflow"
)

func ExampleJSON() {
	type userRegistered struct {
		User int `json:"user"`
	}
	m, err := outflow.JSON("sqs://welcome-email", "user-registered", userRegistered{User: 42})
	if err != nil {
		fmt.Println(err)
		return
	}
	m.OrderingKey = "user-42"
	fmt.Printf("%s\n", m.Payload)
	// Output: {"user":42}
}

func ExampleDecodeCallback() {
	// The body of a signed request, after the signature was verified, or the payload
	// of a message of type outflow.CallbackType.
	e, err := outflow.DecodeCallback([]byte(`{
		"messageId": "018f6a3e-7c1b-7d5e-9b1a-2f6f0c9d4e11", "type": "order-placed", "destination": "sqs://orders",
		"state": "dead", "generation": 1, "attempts": 1, "lastError": "no such queue",
		"enqueuedAt": "2026-01-31T08:00:00Z", "finishedAt": "2026-01-31T08:00:01Z"}`))
	if err != nil {
		fmt.Println(err) // the same body never decodes later
		return
	}
	fmt.Println(e.ID(), e.State, e.LastError)
	// Output: 018f6a3e-7c1b-7d5e-9b1a-2f6f0c9d4e11_1_dead dead no such queue
}

package outflow_test

import (
	"errors"
	"fmt"
	"time"

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

// A reminder that is delivered in an hour, or not at all a day later. The database's clock
// counts both. The callback reports how it ended.
func ExampleMessage() {
	m := outflow.Message{
		Destination: "https://hooks.example.com/reminders",
		Type:        "reminder",
		Payload:     []byte(`{"order":7}`),
		DueIn:       time.Hour,
		ExpiresIn:   24 * time.Hour,
		Callback:    "sqs://replies",
	}
	fmt.Println(m.Type, "of", m.Bytes(), "bytes in", m.DueIn)
	// Output: reminder of 11 bytes in 1h0m0s
}

// Equal destinations have equal canonical forms, whatever form was pasted.
func ExampleParseDestination() {
	for _, pasted := range []string{
		"sqs://orders",
		"arn:aws:sqs:eu-west-1:123456789012:orders",
		"https://sqs.eu-west-1.amazonaws.com/123456789012/orders",
		"https://Hooks.example.com:443",
	} {
		d, err := outflow.ParseDestination(pasted)
		if err != nil {
			fmt.Println(err)
			return
		}
		fmt.Println(d)
	}
	// Output:
	// sqs://orders
	// sqs://orders?account=123456789012&region=eu-west-1
	// sqs://orders?account=123456789012&region=eu-west-1
	// https://hooks.example.com/
}

// A publisher says of each failure what it means for the next attempt. An error without a
// class is retryable.
func ExampleClassOf() {
	tooLarge := outflow.Permanent(errors.New("the broker takes 1 MiB at most"))
	throttled := &outflow.Failure{
		Class: outflow.ClassUnavailable, RetryAfter: 30 * time.Second, Err: errors.New("too many requests"),
	}
	for _, err := range []error{tooLarge, throttled, errors.New("connection reset")} {
		fmt.Println(outflow.ClassOf(err), outflow.IsPermanent(err))
	}
	// Output:
	// permanent true
	// unavailable false
	// retryable false
}

func ExampleRetention() {
	r := outflow.DefaultRetention()
	if err := r.Dead.UnmarshalText([]byte("90d")); err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println("delivered:", r.Delivered, "dead:", r.Dead)
	// Output: delivered: 7d dead: 90d
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

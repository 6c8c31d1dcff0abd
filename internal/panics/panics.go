// Package panics turns panics into errors.
//
// The invariant: an error's text never quotes a message. It has the panic's own words only
// where they are Go's, such as "index out of range": any others may quote the payload, and an
// error's text ends in a row and in Temporal.
package panics

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

// Error is a panic that was recovered.
type Error struct {
	// Value is what the code panicked with, and Stack where. Both are for logs alone.
	Value any
	Stack []byte
}

// New returns the Error of a value that recover returned. Call it in the deferred function, so
// that Stack is that of the panic.
func New(value any) *Error { return &Error{Value: value, Stack: debug.Stack()} }

// Catch ends a panic of the function that defers it, and calls handle with the panic. It does
// nothing where there is none. Defer Catch itself: recover works in no function that it calls.
func Catch(handle func(*Error)) {
	if value := recover(); value != nil {
		handle(New(value))
	}
}

func (e *Error) Error() string {
	if err, ok := e.Value.(runtime.Error); ok {
		return "panicked: " + err.Error()
	}
	return fmt.Sprintf("panicked: a %T, not shown because it may quote the message", e.Value)
}

// Unwrap returns the panic's value where it is an error, such as a runtime.Error.
func (e *Error) Unwrap() error {
	err, _ := e.Value.(error)
	return err
}

// OfPublisher returns the error of a publish that panicked, with the advice for an operator.
// doing says what was being done, such as "sending to sqs://orders".
func OfPublisher(doing string, e *Error) error {
	return fmt.Errorf("%s: the publisher %w (the log has the stack; "+
		"fix the publisher and retry the message, or correct the message and enqueue it again)", doing, e)
}

package publish

import (
	"fmt"
	"runtime"
	"runtime/debug"
)

// PanicError is what a publisher's panic becomes. It is permanent wherever one
// message alone was being published: what made the publisher panic once would
// do it again, and again take others' time with it.
//
// Its text has the panic's own words only where they are Go's, such as "index
// out of range": any other may quote the payload, and ends in a row and in
// Temporal. Value and Stack are for logs; Watch writes them there.
type PanicError struct {
	Value any
	Stack []byte
}

// Recovered returns the PanicError of what recover returned. Call it in the
// deferred function, so that Stack is that of the panic.
func Recovered(value any) *PanicError {
	return &PanicError{Value: value, Stack: debug.Stack()}
}

func (e *PanicError) Error() string {
	said := fmt.Sprintf("a %T, not shown because it may quote the message", e.Value)
	if err, ok := e.Value.(runtime.Error); ok {
		said = err.Error()
	}
	return "the publisher panicked: " + said + " (the log has the stack; mend the publisher and retry the message, or correct the message and enqueue it again)"
}

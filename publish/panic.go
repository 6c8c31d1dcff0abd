package publish

import "github.com/outflowhq/outflow/internal/panics"

// PanicError is a publisher's panic as an error. It has two fields, both for logs: Value, of
// type any, and Stack, of type []byte. Its text has the panic's own words only where they are
// Go's, such as "index out of range": any others may quote the payload.
//
// It is permanent wherever one message alone was being published: the same message would have the
// publisher panic again, and take others' time with it. The activities write Value and Stack into
// the log.
type PanicError = panics.Error

// Recovered returns the PanicError of a value that recover returned. Call it in the deferred
// function, so that Stack is that of the panic. A Router recovers in the goroutine that calls
// Publish; a publisher that starts goroutines recovers in those.
func Recovered(value any) *PanicError { return panics.New(value) }

// Package ports finds free TCP ports on the loopback address.
//
// The invariant: a port it returns lies outside the ranges from which Linux and macOS take ports
// for outgoing connections, so that none of those can take it between the choice and its use.
package ports

import (
	"fmt"
	"math/rand/v2"
	"net"
	"strconv"
)

// first and count span ports below Linux's default ip_local_port_range (32768 and up).
const (
	first = 20000
	count = 10000
	tries = 1000
)

// Loopback is the only address that devstack listens on.
const Loopback = "127.0.0.1"

// Address is the loopback address with the given port.
func Address(port int) string { return net.JoinHostPort(Loopback, strconv.Itoa(port)) }

// TakenError says that a port which somebody asked for can't be had.
type TakenError struct {
	Port int
	Err  error
}

func (e *TakenError) Error() string { return fmt.Sprintf("taking port %d: %v", e.Port, e.Err) }

// Unwrap gives the reason.
func (e *TakenError) Unwrap() error { return e.Err }

// Or returns port, or a free one where it is 0. A given port that is taken is a *TakenError.
func Or(port int) (int, error) {
	if port == 0 {
		return Free()
	}
	l, err := net.Listen("tcp", Address(port))
	if err != nil {
		return 0, &TakenError{port, err}
	}
	return port, l.Close()
}

// Free returns a port that nothing listens on now.
func Free() (int, error) {
	var err error
	for range tries {
		port := first + rand.IntN(count)
		var l net.Listener
		if l, err = net.Listen("tcp", Address(port)); err == nil {
			return port, l.Close()
		}
	}
	return 0, fmt.Errorf("finding a free port in %d tries: %w", tries, err)
}

// Package ports finds free TCP ports on the loopback address.
//
// The invariants: a port that Free returns lies outside the ranges from which Linux and macOS take
// ports for outgoing connections; and while this process runs, no other call of Free returns it,
// in this process or in another of the same user. So nobody takes the port between the choice and
// its use, nor while the server behind it is down for a moment.
package ports

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
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

// Or returns port, or a free one where it is 0. A given port that is taken is a *TakenError. Free leaves a
// given port alone, too, from then on.
func Or(port int) (int, error) {
	if port == 0 {
		return Free()
	}
	l, err := net.Listen("tcp", Address(port))
	if err != nil {
		return 0, &TakenError{port, err}
	}
	_, err = keep(port) // who has chosen it may have given it to this process
	return port, errors.Join(err, l.Close())
}

// Free returns a port that nothing listens on now, and keeps it for this process.
func Free() (int, error) {
	var err error
	for range tries {
		port := first + rand.IntN(count)
		var kept bool
		if kept, err = keep(port); err != nil {
			return 0, err
		}
		if !kept {
			err = errors.New("other processes have chosen them")
			continue
		}
		var l net.Listener
		if l, err = net.Listen("tcp", Address(port)); err == nil {
			return port, l.Close()
		}
	}
	return 0, fmt.Errorf("finding a free port in %d tries: %w", tries, err)
}

// locks hold the ports that this process has chosen: the system drops them when the process ends.
var locks struct {
	sync.Mutex
	files map[int]*os.File
}

// keep locks the file of a port. It reports false where the port is kept already.
func keep(port int) (bool, error) {
	locks.Lock()
	defer locks.Unlock()
	if locks.files[port] != nil {
		return false, nil
	}
	dir := filepath.Join(os.TempDir(), fmt.Sprintf("outflow-ports-%d", os.Getuid()))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return false, fmt.Errorf("making the folder of chosen ports: %w", err)
	}
	file, err := os.OpenFile(filepath.Join(dir, strconv.Itoa(port)), os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return false, fmt.Errorf("noting a chosen port: %w", err)
	}
	if err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		_ = file.Close()
		if errors.Is(err, syscall.EWOULDBLOCK) {
			return false, nil
		}
		return false, fmt.Errorf("noting a chosen port: %w", err)
	}
	if locks.files == nil {
		locks.files = map[int]*os.File{}
	}
	locks.files[port] = file
	return true, nil
}

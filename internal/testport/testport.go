// Package testport reserves TCP ports for tests: connections are refused until the test listens.
//
// The invariant: no other socket of this machine gets a reserved port, so that what a test finds
// there is its own. A port that is chosen, closed and listened to later may be somebody else's by
// then.
package testport

import (
	"net"
	"strconv"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"
)

// Port is a reserved port of 127.0.0.1.
type Port struct{ Address string }

// Reserve returns a port that is reserved until the test ends. A socket holds it that is bound and
// does not listen.
func Reserve(t testing.TB) Port {
	t.Helper()
	socket, err := syscall.Socket(syscall.AF_INET, syscall.SOCK_STREAM, 0)
	require.NoError(t, err)
	syscall.CloseOnExec(socket)
	t.Cleanup(func() { _ = syscall.Close(socket) })
	// Sockets that all have this option may share a port while none of them listens.
	require.NoError(t, syscall.SetsockoptInt(socket, syscall.SOL_SOCKET, syscall.SO_REUSEADDR, 1))
	require.NoError(t, syscall.Bind(socket, &syscall.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}))
	name, err := syscall.Getsockname(socket)
	require.NoError(t, err)
	port := name.(*syscall.SockaddrInet4).Port
	return Port{net.JoinHostPort("127.0.0.1", strconv.Itoa(port))}
}

// Listen takes connections until the listener is closed. It may be called again after that.
func (p Port) Listen(t testing.TB) net.Listener {
	t.Helper()
	listener, err := net.Listen("tcp", p.Address) // net sets the option, too
	require.NoError(t, err)
	return listener
}

package testport_test

import (
	"net"
	"syscall"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow/internal/testport"
)

func TestReserved(t *testing.T) {
	p := testport.Reserve(t)
	for range 2 {
		_, err := net.Dial("tcp", p.Address)
		require.ErrorIs(t, err, syscall.ECONNREFUSED)
		listener := p.Listen(t)
		conn, err := net.Dial("tcp", p.Address)
		require.NoError(t, err)
		require.NoError(t, conn.Close())
		require.NoError(t, listener.Close())
	}
}

// Others get every port but this one.
func TestNobodyElseGetsIt(t *testing.T) {
	p := testport.Reserve(t)
	for range 2000 {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		require.NotEqual(t, p.Address, l.Addr().String())
		t.Cleanup(func() { _ = l.Close() })
	}
}

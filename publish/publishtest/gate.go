package publishtest

import (
	"io"
	"net"
	"sync"
	"testing"

	"github.com/outflowhq/outflow/internal/testport"
)

// Gate relays connections to a broker, and can refuse them. It makes the fault Unreachable.
type Gate struct {
	port   testport.Port
	broker string

	mu       sync.Mutex
	listener net.Listener // nil while the gate is shut
	open     map[net.Conn]bool
	relays   sync.WaitGroup
}

// NewGate returns an open Gate to a broker's address, host and port. It ends with the test.
func NewGate(t testing.TB, broker string) *Gate {
	t.Helper()
	g := &Gate{broker: broker, port: testport.Reserve(t), open: map[net.Conn]bool{}}
	g.Open(t)
	t.Cleanup(func() {
		g.Shut()
		g.relays.Wait()
	})
	return g
}

// Address is the address that clients connect to; it stays the same.
func (g *Gate) Address() string { return g.port.Address }

// Open takes connections; an open gate stays so.
func (g *Gate) Open(t testing.TB) {
	t.Helper()
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.listener != nil {
		return
	}
	listener := g.port.Listen(t)
	g.listener = listener
	g.relays.Go(func() { g.accept(listener) })
}

// Shut refuses connections and closes the open ones.
func (g *Gate) Shut() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.listener != nil {
		_ = g.listener.Close()
		g.listener = nil
	}
	for conn := range g.open {
		_ = conn.Close()
	}
}

func (g *Gate) accept(listener net.Listener) {
	for {
		client, err := listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", g.broker)
		if err != nil || !g.keep(listener, client, server) {
			_ = client.Close()
			if err == nil {
				_ = server.Close()
			}
			continue
		}
		g.relays.Go(func() { g.relay(server, client) })
		g.relays.Go(func() { g.relay(client, server) })
	}
}

// keep notes the two ends of a connection, unless the gate was shut meanwhile.
func (g *Gate) keep(listener net.Listener, ends ...net.Conn) bool {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.listener != listener {
		return false
	}
	for _, conn := range ends {
		g.open[conn] = true
	}
	return true
}

// relay copies one direction, and then closes both ends.
func (g *Gate) relay(to, from net.Conn) {
	_, _ = io.Copy(to, from)
	_ = to.Close()
	_ = from.Close()
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.open, to)
	delete(g.open, from)
}

package teststack

import (
	"encoding/binary"
	"io"
	"net"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
)

// Relay stands between a client and Postgres, and can drop what the server sends:
// notifications, as a transaction pooler does, or everything, as a dead link does. Cut cuts it.
type Relay struct {
	// DropNotifications is for all connections, DropAll for those that were opened before
	// it was set.
	DropNotifications, DropAll atomic.Bool

	listener net.Listener
	server   string
	mu       sync.Mutex
	open     []net.Conn
	cut      bool
	copies   sync.WaitGroup
}

// NewRelay returns a Relay before pool's server, and the settings of a connection through
// it.
func NewRelay(t testing.TB, pool *pgxpool.Pool) (*Relay, *pgx.ConnConfig) {
	t.Helper()
	config := pool.Config().ConnConfig
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	r := &Relay{listener: listener, server: net.JoinHostPort(config.Host, strconv.Itoa(int(config.Port)))}
	r.copies.Go(r.accept)
	t.Cleanup(func() {
		_ = listener.Close()
		r.mu.Lock()
		for _, conn := range r.open {
			_ = conn.Close()
		}
		r.mu.Unlock()
		r.copies.Wait()
	})
	config.Host, config.Port = "127.0.0.1", uint16(listener.Addr().(*net.TCPAddr).Port)
	return r, config
}

func (r *Relay) accept() {
	for {
		client, err := r.listener.Accept()
		if err != nil {
			return
		}
		server, err := net.Dial("tcp", r.server)
		if err != nil {
			_ = client.Close()
			continue
		}
		r.mu.Lock()
		cut := r.cut
		if !cut {
			r.open = append(r.open, client, server)
		}
		r.mu.Unlock()
		if cut {
			_, _ = client.Close(), server.Close()
			continue
		}
		afterwards := r.DropAll.Load()
		r.copies.Go(func() {
			_, _ = io.Copy(server, client)
			_ = server.Close()
		})
		r.copies.Go(func() {
			r.answers(client, server, afterwards)
			_ = client.Close()
		})
	}
}

// Cut closes all connections, and new ones at once, until the link is mended.
func (r *Relay) Cut() (mend func()) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.cut = true
	for _, conn := range r.open {
		_ = conn.Close()
	}
	r.open = nil
	return func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.cut = false
	}
}

// answers passes the server's messages on: a type, a length, a body. openedAfterwards says
// that DropAll was set before the connection was opened.
func (r *Relay) answers(client io.Writer, server io.Reader, openedAfterwards bool) {
	for {
		head := make([]byte, 5)
		if _, err := io.ReadFull(server, head); err != nil {
			return
		}
		body := make([]byte, binary.BigEndian.Uint32(head[1:])-4)
		if _, err := io.ReadFull(server, body); err != nil {
			return
		}
		const notification = 'A'
		if r.DropNotifications.Load() && head[0] == notification || r.DropAll.Load() && !openedAfterwards {
			continue
		}
		if _, err := client.Write(append(head, body...)); err != nil {
			return
		}
	}
}

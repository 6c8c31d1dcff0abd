package rabbitmq

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// writeTimeout bounds one write, of 128 KiB at most where a broker has its default frame_max. A
// broker that takes nothing for so long keeps its connection no longer.
const writeTimeout = 10 * time.Second

// socket is a connection each of whose writes has a deadline. The client library has none: a
// broker that stops reading would hold a write, and whoever waits for it, for good.
type socket struct {
	net.Conn
	deadline atomic.Pointer[time.Time] // one that was set; nil or zero for none
}

// Write writes until the nearer of its own deadline and the one that was set.
func (s *socket) Write(b []byte) (int, error) {
	end := time.Now().Add(writeTimeout)
	if set := s.deadline.Load(); set != nil && !set.IsZero() && set.Before(end) {
		end = *set
	}
	if err := s.Conn.SetWriteDeadline(end); err != nil {
		return 0, err
	}
	return s.Conn.Write(b)
}

// SetDeadline sets a deadline for reads and writes, those under way too.
func (s *socket) SetDeadline(t time.Time) error {
	s.deadline.Store(&t)
	return s.Conn.SetDeadline(t)
}

// lastWords is how long a write that fails waits for what the broker has said.
const lastWords = time.Second

// wire is what the client library reads and writes: a socket, or TLS over one. It keeps why reading
// ended. A broker that refuses a client says so at a time of its own, such as in TLS 1.3 after the
// client's handshake, and the library reports what it notices first.
type wire struct {
	net.Conn
	raw *socket

	once  sync.Once
	ended chan struct{} // closed once err is set
	err   error         // why reading ended
	ready atomic.Bool   // the broker has accepted the client
}

func newWire(raw *socket) *wire { return &wire{Conn: raw, raw: raw, ended: make(chan struct{})} }

// secure makes TLS of it.
func (w *wire) secure(ctx context.Context, config *tls.Config) error {
	client := tls.Client(w.raw, config)
	w.Conn = client
	return client.HandshakeContext(ctx)
}

func (w *wire) Read(b []byte) (int, error) {
	n, err := w.Conn.Read(b)
	if err != nil {
		w.once.Do(func() { w.err = err; close(w.ended) })
	}
	return n, err
}

// Write writes. The library closes the connection after a write that fails: until the broker has
// accepted the client, its answer is read before that.
func (w *wire) Write(b []byte) (int, error) {
	n, err := w.Conn.Write(b)
	if err != nil && !w.ready.Load() {
		select {
		case <-w.ended:
		case <-time.After(lastWords):
		}
	}
	return n, err
}

// reason is why the broker did not accept the client. err is what the library says: it knows the
// broker's own answer, and takes any other end for a wrong password or virtual host.
func (w *wire) reason(err error) error {
	var e *amqp.Error
	if errors.As(err, &e) && (e.Server || e == amqp.ErrSASL) {
		return err
	}
	select {
	case <-w.ended:
	default:
		return err
	}
	isGuess := errors.Is(err, amqp.ErrCredentials) || errors.Is(err, amqp.ErrVhost)
	switch {
	case errors.Is(w.err, net.ErrClosed): // by this side, which knows why
		return err
	case isGuess && hungUp(w.err): // so RabbitMQ answers a wrong password
		return err
	}
	return w.err
}

// hungUp reports whether the other side ended the connection without a word.
func hungUp(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, syscall.ECONNRESET)
}

package rabbitmq

import (
	"net"
	"sync/atomic"
	"time"
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

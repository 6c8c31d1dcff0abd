package service

import (
	"net"
	"net/http"
	"slices"
	"sync"
)

// mostCallers bounds the connections to the health port: a process has a limit of
// descriptors, which deliveries need.
const mostCallers = 64

// callers are the open connections to the health port, the oldest first. Beyond the
// bound the oldest goes that has asked nothing yet, so that probes get through beside
// connections that only stay; if all have asked, the oldest of all.
type callers struct {
	mu   sync.Mutex
	open []caller
}

type caller struct {
	conn  net.Conn
	asked bool
}

// changed is an http.Server's ConnState.
func (c *callers) changed(conn net.Conn, state http.ConnState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	i := slices.IndexFunc(c.open, func(o caller) bool { return o.conn == conn })
	switch {
	case state == http.StateNew:
		c.open = append(c.open, caller{conn: conn})
		c.bound()
	case i < 0: // it had to go
	case state == http.StateActive:
		c.open[i].asked = true
	case state == http.StateClosed, state == http.StateHijacked:
		c.open = slices.Delete(c.open, i, i+1)
	}
}

// bound closes the connection that has to go. The newest does not: it may be a probe.
func (c *callers) bound() {
	if len(c.open) <= mostCallers {
		return
	}
	i := max(slices.IndexFunc(c.open[:mostCallers], func(o caller) bool { return !o.asked }), 0)
	_ = c.open[i].conn.Close()
	c.open = slices.Delete(c.open, i, i+1)
}

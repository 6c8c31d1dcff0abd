package service

import (
	"net"
	"net/http"
	"slices"
	"sync"
)

// maxCallers bounds the connections to the health port: a process has a limit of descriptors, which
// deliveries need.
const maxCallers = 64

// callers are the open connections to the health port, the oldest first. Beyond maxCallers the
// oldest connection without a request is closed, so that probes get through beside idle
// connections. Where all have sent a request, the oldest of all is closed.
type callers struct {
	mu   sync.Mutex
	open []caller
}

type caller struct {
	conn      net.Conn
	requested bool
}

// changed is the ConnState of an http.Server.
func (c *callers) changed(conn net.Conn, state http.ConnState) {
	c.mu.Lock()
	defer c.mu.Unlock()
	i := slices.IndexFunc(c.open, func(o caller) bool { return o.conn == conn })
	switch {
	case state == http.StateNew:
		c.open = append(c.open, caller{conn: conn})
		c.bound()
	case i < 0: // bound closed it
	case state == http.StateActive:
		c.open[i].requested = true
	case state == http.StateClosed, state == http.StateHijacked:
		c.open = slices.Delete(c.open, i, i+1)
	}
}

// bound closes one connection beyond maxCallers. It keeps the newest, which may be a probe.
func (c *callers) bound() {
	if len(c.open) <= maxCallers {
		return
	}
	i := max(slices.IndexFunc(c.open[:maxCallers], func(o caller) bool { return !o.requested }), 0)
	_ = c.open[i].conn.Close()
	c.open = slices.Delete(c.open, i, i+1)
}

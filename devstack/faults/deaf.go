package faults

import (
	"sync"
	"sync/atomic"

	"github.com/Shopify/toxiproxy/v2/toxics"
)

// toxiproxy's own toxics befall all connections alike and end with a close,
// which a client notices at once. A half-open connection is the opposite: it is
// one connection, nothing ever ends it, and the next one works. So this toxic is
// ours. Every link carries it from the start, passing everything on, because a
// toxic learns of a connection when that is made.

func init() { toxics.Register("deaf", new(deafToxic)) }

// deafnesses leads from the name that a toxic is configured with to its link:
// toxiproxy makes toxics out of JSON.
var (
	deafnesses   sync.Map // int64 → *deafness
	lastDeafness atomic.Int64
)

// deafness is what the toxics of one link share.
type deafness struct {
	id    int64
	ended chan struct{}

	mu   sync.Mutex
	live []*atomic.Bool // one for each direction of each connection
}

func newDeafness() *deafness {
	d := &deafness{id: lastDeafness.Add(1), ended: make(chan struct{})}
	deafnesses.Store(d.id, d)
	return d
}

// begin makes the connections of now deaf.
func (d *deafness) begin() {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, deaf := range d.live {
		deaf.Store(true)
	}
	d.live = nil
}

func (d *deafness) end() {
	deafnesses.Delete(d.id)
	close(d.ended)
}

// deafToxic passes chunks on until its connection is deaf, and then nothing,
// not even the end.
type deafToxic struct {
	ID int64 `json:"id"`
}

func (t *deafToxic) link() *deafness {
	d, _ := deafnesses.Load(t.ID)
	found, _ := d.(*deafness)
	return found
}

// connection is toxiproxy's per-connection state.
type connection struct {
	link *deafness
	deaf atomic.Bool
}

func (t *deafToxic) NewState() any {
	c := &connection{link: t.link()}
	if c.link == nil { // a connection that came while the link was closed
		return c
	}
	c.link.mu.Lock()
	defer c.link.mu.Unlock()
	c.link.live = append(c.link.live, &c.deaf)
	return c
}

func (t *deafToxic) Pipe(stub *toxics.ToxicStub) {
	c := stub.State.(*connection)
	if c.link == nil {
		stub.Close()
		return
	}
	for {
		select {
		case <-stub.Interrupt:
			return
		case chunk := <-stub.Input:
			switch {
			case chunk != nil && !c.deaf.Load():
				stub.Output <- chunk
			case chunk == nil && c.deaf.Load():
				select {
				case <-stub.Interrupt:
					return
				case <-c.link.ended:
				}
				fallthrough
			case chunk == nil:
				stub.Close()
				return
			}
		}
	}
}

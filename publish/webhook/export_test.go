package webhook

import (
	"net"
	"net/netip"
)

// NewResolving returns a Publisher that uses resolver, and treats the address public as a public
// one.
func NewResolving(o Options, resolver *net.Resolver, public netip.Addr) *Publisher {
	p := New(o)
	p.resolver = resolver
	p.refused = func(a netip.Addr) string {
		if a == public {
			return ""
		}
		return refused(a)
	}
	return p
}

// Refused is the real function.
func Refused(a netip.Addr) string { return refused(a) }

// MayConnect is the check of an address that is about to be connected to.
func (p *Publisher) MayConnect(host, at string) error { return p.mayConnect(host, at) }

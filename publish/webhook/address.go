package webhook

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"syscall"
)

// refusedPrefixes are the IPv4 networks without public addresses of receivers.
// https://www.iana.org/assignments/iana-ipv4-special-registry
var refusedPrefixes = prefixes(map[string]string{
	"0.0.0.0/8":        "of this network",
	"10.0.0.0/8":       "private",
	"100.64.0.0/10":    "shared (carrier-grade NAT)",
	"127.0.0.0/8":      "loopback",
	"168.63.129.16/32": "a cloud's own service",
	"169.254.0.0/16":   "link-local",
	"172.16.0.0/12":    "private",
	"192.0.0.0/24":     "reserved",
	"192.0.2.0/24":     "for documentation",
	"192.88.99.0/24":   "a relay",
	"192.168.0.0/16":   "private",
	"198.18.0.0/15":    "for benchmarks",
	"198.51.100.0/24":  "for documentation",
	"203.0.113.0/24":   "for documentation",
	"224.0.0.0/4":      "multicast",
	"240.0.0.0/4":      "reserved",

	// Within IPv6's global unicast, which is 2000::/3; all other addresses are refused.
	// https://www.iana.org/assignments/iana-ipv6-special-registry
	"2001::/23":     "reserved",
	"2001:db8::/32": "for documentation",
	"2002::/16":     "a tunnel into IPv4",
	"3fff::/20":     "for documentation",
})

var globalUnicast = netip.MustParsePrefix("2000::/3")

func prefixes(texts map[string]string) map[netip.Prefix]string {
	parsed := map[netip.Prefix]string{}
	for text, use := range texts {
		parsed[netip.MustParsePrefix(text)] = use
	}
	return parsed
}

// metadata are services of a cloud that give a machine its credentials: no list of networks lets
// a request through to them. fd00:ec2::/32 is AWS's, fd20:ce::/32 is Google's, 100.100.100.200
// Alibaba's, 168.63.129.16 Azure's; the others are link-local.
var metadata = []netip.Prefix{
	netip.MustParsePrefix("169.254.0.0/16"), netip.MustParsePrefix("fe80::/10"),
	netip.MustParsePrefix("168.63.129.16/32"), netip.MustParsePrefix("100.100.100.200/32"),
	netip.MustParsePrefix("fd00:ec2::/32"), netip.MustParsePrefix("fd20:ce::/32"),
	netip.MustParsePrefix("fd00:c1::/32"), netip.MustParsePrefix("fd00:42::/32"),
}

// refused returns why an address may not be connected to, or "". An IPv6 address must be global
// unicast, which excludes loopback, link-local, unique local, multicast, NAT64 and IPv4 in IPv6.
func refused(a netip.Addr) string {
	if !a.IsValid() {
		return "no address"
	}
	if a.Is6() && (!globalUnicast.Contains(a) || a.Zone() != "") {
		return "not a public IPv6 address"
	}
	for prefix, use := range refusedPrefixes {
		if prefix.Contains(a) {
			return use
		}
	}
	return ""
}

// alwaysRefused returns why an address may not be connected to, whatever list of networks there
// is, or "".
func alwaysRefused(a netip.Addr) string {
	for _, prefix := range metadata {
		if prefix.Contains(a.Unmap().WithZone("")) {
			return "link-local or a cloud's metadata service, which are always refused"
		}
	}
	return ""
}

// refusedError says that the address of a host may not be connected to.
type refusedError struct {
	address netip.Addr
	reason  string
}

func (e *refusedError) Error() string {
	return fmt.Sprintf("its address %s is %s", e.address, e.reason)
}

// dial connects to a host at an address that may be connected to. It checks the address of the
// connection itself: the result of an earlier look-up of the name does not count.
func (p *Publisher) dial(ctx context.Context, network, address string) (net.Conn, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("reading the address to connect to: %w", err)
	}
	d := net.Dialer{
		// net/http goes on connecting after the request has ended.
		Timeout:  p.timeout,
		Resolver: p.resolver,
		ControlContext: func(_ context.Context, _, at string, _ syscall.RawConn) error {
			return p.mayConnect(host, at)
		},
	}
	return d.DialContext(ctx, network, address)
}

func (p *Publisher) mayConnect(host, at string) error {
	to, err := netip.ParseAddrPort(at)
	if err != nil {
		return &refusedError{reason: "not an IP address"}
	}
	if p.loopback && namesThisMachine(host) {
		if to.Addr().IsLoopback() {
			return nil
		}
		// It may be about to go out in plain http.
		return &refusedError{address: to.Addr(), reason: "not loopback, as its name says"}
	}
	if reason := alwaysRefused(to.Addr()); reason != "" {
		return &refusedError{address: to.Addr(), reason: reason}
	}
	if p.networks.Contain(to.Addr()) {
		return nil
	}
	if use := p.refused(to.Addr()); use != "" {
		also := "the networks of OUTFLOW_WEBHOOK_NETWORKS"
		if to.Addr().IsLoopback() { // no list of networks has it
			also = "localhost where OUTFLOW_WEBHOOK_INSECURE_LOOPBACK=on, for development"
		}
		return &refusedError{
			address: to.Addr(), reason: use + "; allowed are public addresses and " + also,
		}
	}
	return nil
}

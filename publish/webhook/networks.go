package webhook

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
)

// Networks is a set of private networks. The zero value has none.
type Networks struct{ prefixes []netip.Prefix }

// private are the networks of private addresses: RFC 1918, RFC 6598 (shared address space, which
// clusters use) and RFC 4193.
var private = []netip.Prefix{
	netip.MustParsePrefix("10.0.0.0/8"), netip.MustParsePrefix("172.16.0.0/12"),
	netip.MustParsePrefix("192.168.0.0/16"),
	netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("fc00::/7"),
}

// ParseNetworks reads a list of private networks, separated by commas, such as
// 10.1.0.0/16,fd00:1::/32. Each lies in 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16, 100.64.0.0/10 or
// fc00::/7. Addresses of metadata services within them are refused all the same.
func ParseNetworks(list string) (Networks, error) {
	var n Networks
	for i, entry := range strings.Split(list, ",") {
		prefix, err := parseNetwork(strings.TrimSpace(entry))
		if err != nil {
			return Networks{}, fmt.Errorf(
				"wants private networks such as 10.1.0.0/16 or fd00:1::/32, separated by commas: number %d %w",
				i+1, err)
		}
		n.prefixes = append(n.prefixes, prefix)
	}
	return n, nil
}

// parseNetwork reads one network. Its errors follow a subject.
func parseNetwork(entry string) (netip.Prefix, error) {
	prefix, err := netip.ParsePrefix(entry)
	switch {
	case err != nil:
		return netip.Prefix{}, errors.New("is no network: wants an address, a slash and the number of its bits")
	case prefix != prefix.Masked():
		return netip.Prefix{}, fmt.Errorf("has bits beyond its length (did you mean %s?)", prefix.Masked())
	case prefix.Addr().IsLoopback():
		return netip.Prefix{}, errors.New("is loopback, which OUTFLOW_WEBHOOK_INSECURE_LOOPBACK lets through")
	case alwaysRefused(prefix.Addr()) != "" && prefix.Bits() >= 10:
		return netip.Prefix{}, errors.New("is link-local or a cloud's metadata service, which are always refused")
	}
	inside := func(p netip.Prefix) bool { return p.Bits() <= prefix.Bits() && p.Contains(prefix.Addr()) }
	if !slices.ContainsFunc(private, inside) {
		return netip.Prefix{}, errors.New("is not private: " +
			"wants a part of 10.0.0.0/8, 172.16.0.0/12, 192.168.0.0/16, 100.64.0.0/10 or fc00::/7")
	}
	return prefix, nil
}

// Any reports whether there is a network.
func (n Networks) Any() bool { return len(n.prefixes) > 0 }

// Contain reports whether an address is in one of the networks.
func (n Networks) Contain(a netip.Addr) bool {
	return slices.ContainsFunc(n.prefixes, func(p netip.Prefix) bool { return p.Contains(a) })
}

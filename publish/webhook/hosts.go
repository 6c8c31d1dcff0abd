package webhook

import (
	"errors"
	"fmt"
	"net/netip"
	"regexp"
	"strings"

	"github.com/outflowhq/outflow"
)

// Hosts is a set of host names and patterns. The zero value has none.
type Hosts struct{ patterns map[string]bool }

// ParseHosts reads a list of hosts, separated by commas: names, addresses, and
// patterns such as *.example.com, which matches every name below example.com and
// not example.com itself.
func ParseHosts(list string) (Hosts, error) {
	h := Hosts{patterns: map[string]bool{}}
	for i, entry := range strings.Split(list, ",") {
		pattern, err := parsePattern(strings.TrimSpace(entry))
		if err != nil {
			return Hosts{}, fmt.Errorf("wants host names such as hooks.example.com or *.example.com, "+
				"separated by commas: number %d %w", i+1, err)
		}
		h.patterns[pattern] = true
	}
	return h, nil
}

// Any reports whether any host is allowed.
func (h Hosts) Any() bool { return len(h.patterns) > 0 }

// Allow reports whether host, a name or an address without a port, matches.
func (h Hosts) Allow(host string) bool {
	for _, pattern := range patternsOf(host) {
		if h.patterns[pattern] {
			return true
		}
	}
	return false
}

var hostName = regexp.MustCompile(`^[a-z0-9_.-]+$`)

// parsePattern returns the canonical form of a host or a pattern. Its errors
// follow a subject.
func parsePattern(entry string) (string, error) {
	name, wild := strings.CutPrefix(canonicalHost(entry), "*.")
	_, notAddress := netip.ParseAddr(name)
	// A host that no destination can name is no host here either.
	_, notHost := outflow.ParseDestination("https://" + name + "/")
	switch {
	case notAddress == nil && !wild:
		return name, nil
	case !hostName.MatchString(name) || notHost != nil:
		return "", errors.New("is no host name (no scheme, port or path; other alphabets as xn--…)")
	case wild && (notAddress == nil || !strings.Contains(name, ".")):
		return "", errors.New("is too wide: a pattern wants at least two labels after the star")
	case wild:
		return "*." + name, nil
	}
	return name, nil
}

// canonicalHost returns the form in which hosts are compared.
func canonicalHost(host string) string {
	host = strings.TrimSuffix(strings.ToLower(host), ".")
	bare := strings.TrimSuffix(strings.TrimPrefix(host, "["), "]")
	if a, err := netip.ParseAddr(bare); err == nil {
		return a.String()
	}
	return host
}

// patternsOf returns all patterns that could match a host, the most specific first.
func patternsOf(host string) []string {
	host = canonicalHost(host)
	patterns := []string{host}
	if _, err := netip.ParseAddr(host); err == nil {
		return patterns
	}
	for _, rest, found := strings.Cut(host, "."); found; _, rest, found = strings.Cut(rest, ".") {
		patterns = append(patterns, "*."+rest)
	}
	return patterns
}

// namesThisMachine reports whether a host is loopback by its name, whatever it resolves to.
func namesThisMachine(host string) bool {
	host = canonicalHost(host)
	a, err := netip.ParseAddr(host)
	return host == "localhost" || strings.HasSuffix(host, ".localhost") || err == nil && a.IsLoopback()
}

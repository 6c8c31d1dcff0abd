package outflow

import (
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// address is an https or http URL in its parts: the host in lower case, no port where it is the
// scheme's own, and the path with the query.
type address struct{ scheme, host, port, path string }

// The same expressions stand in outbox.is_destination and its neighbours.
var (
	notPrintable = regexp.MustCompile(`[^!-~]`)
	authority    = regexp.MustCompile(`^(\[[^\]]*\]|[^:]*)(?::(.*))?$`)
	portNumber   = regexp.MustCompile(
		`^(?:[1-9][0-9]{0,3}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5])$`)
	hostName  = regexp.MustCompile(`^[a-z0-9_]+(?:(?:\.|-+)[a-z0-9_]+)*$`)
	longLabel = regexp.MustCompile(`[^.]{64}`)
	// No host name ends in a number, so a host that does is an IPv4 address in some spelling.
	// Programs differ in how they read 127.1 or 0x7f.1.
	endsInNumber = regexp.MustCompile(`(?:^|\.)(?:[0-9]+|0x[0-9a-f]*)$`)
	ipv4         = regexp.MustCompile(`^` + octet + `(?:\.` + octet + `){3}$`)
	thisMachine  = regexp.MustCompile(`^(?:localhost|127(?:\.` + octet + `){3}|\[::1\])$`)
	pathAndQuery = regexp.MustCompile(`^(?:[A-Za-z0-9._~:/?@!$&'()*+,;=\[\]-]|%[0-9A-Fa-f][0-9A-Fa-f])*$`)
)

const octet = `(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])`

var (
	errPort = errors.New("a port wants a number from 1 to 65535, without zeros before it")
	errHost = errors.New("a host wants labels of 1 to 63 letters, digits, _ and inner hyphens, " +
		"253 characters in all, and no dot at its end")
	errIPv4 = errors.New("a host that ends in a number wants to be an IPv4 address: four " +
		"numbers from 0 to 255, without zeros before them")
	errIPv6     = errors.New("of IPv6 addresses only [::1] can be a host; give the others a name")
	errPlain    = errors.New("plain http is for localhost, 127.0.0.0/8 and [::1] alone; others want https")
	errFragment = errors.New("an address wants no fragment")
	errUser     = errors.New("an address wants no user name or password")
	errNoHost   = errors.New("an address wants a host")
	errPath     = errors.New("path and query want each character that RFC 3986 does not allow there percent-encoded")
)

// parseAddress reads the part of an https or http URL behind the scheme. The URL may be that of a
// queue.
func parseAddress(scheme, rest string) (Destination, error) {
	a, err := splitAddress(scheme, rest)
	if err != nil {
		return Destination{}, err
	}
	if d, is, err := a.queue(); is {
		return d, err
	}
	switch canonical := a.String(); {
	case scheme == SchemeHTTP && !thisMachine.MatchString(a.host):
		return Destination{}, errPlain
	case scheme == SchemeHTTPS && a.host[0] == '[' && a.host != "[::1]":
		return Destination{}, errIPv6
	case !pathAndQuery.MatchString(a.path):
		return Destination{}, errPath
	case len(canonical) > maxDestination:
		return Destination{}, errTooLong
	default:
		return Destination{Scheme: scheme, URL: canonical}, nil
	}
}

func splitAddress(scheme, rest string) (address, error) {
	at := strings.IndexAny(rest, "/?#")
	if at < 0 {
		at = len(rest)
	}
	part := authority.FindStringSubmatch(rest[:at])
	switch {
	case notPrintable.MatchString(rest):
		return address{}, fmt.Errorf("an %s address has printable ASCII characters only; percent-encode the others",
			scheme)
	case strings.Contains(rest, "#"):
		return address{}, errFragment
	case strings.Contains(rest[:at], "@"):
		return address{}, errUser
	case part[1] == "":
		return address{}, errNoHost
	case len(part[0]) > len(part[1]) && !portNumber.MatchString(part[2]):
		return address{}, errPort
	}
	a := address{scheme: scheme, host: strings.ToLower(part[1]), port: part[2], path: rest[at:]}
	if scheme == SchemeHTTPS && a.port == "443" || scheme == SchemeHTTP && a.port == "80" {
		a.port = ""
	}
	if !strings.HasPrefix(a.path, "/") {
		a.path = "/" + a.path
	}
	switch {
	case a.host[0] == '[':
	case len(a.host) > 253 || !hostName.MatchString(a.host) || longLabel.MatchString(a.host):
		return address{}, errHost
	case endsInNumber.MatchString(a.host) && !ipv4.MatchString(a.host):
		return address{}, errIPv4
	}
	return a, nil
}

// String returns the canonical form.
func (a address) String() string {
	port := ""
	if a.port != "" {
		port = ":" + a.port
	}
	return a.scheme + "://" + a.host + port + a.path
}

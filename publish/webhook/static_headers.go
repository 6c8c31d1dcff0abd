package webhook

import (
	"errors"
	"fmt"
	"io"
	"strings"
)

// Header is a header that goes with every request to a host, such as an API key.
// Nothing prints its value.
type Header struct {
	name string
	// A function, as in Secret.
	value func() string
}

// ParseHeader reads "name: value". The name has letters, digits and inner hyphens, and is not the
// name of a header that HTTP, the signature or the message sets. The value is printable ASCII. The
// error repeats neither.
func ParseHeader(text string) (Header, error) {
	name, value, found := strings.Cut(text, ":")
	name, value = strings.ToLower(strings.TrimSpace(name)), strings.TrimSpace(value)
	switch {
	case !found || !ownName.MatchString(name):
		return Header{}, errors.New("wants header-name: value, the name of letters, digits and inner hyphens")
	case !plainValue(value):
		return Header{}, errors.New("wants a value of printable ASCII characters")
	case isSetElsewhere(name):
		return Header{}, errors.New("wants a header that neither HTTP nor the message sets")
	}
	return Header{name: name, value: func() string { return value }}, nil
}

// isSetElsewhere reports whether HTTP, the signature or the message sets a header of this name, or
// the connection would mean something else with it.
func isSetElsewhere(name string) bool {
	switch name {
	case "connection", "date", "expect", "host", "http2-settings", "keep-alive", "te", "trailer",
		"transfer-encoding", "upgrade",
		"idempotency-key", "x-idempotency-key", "traceparent", "tracestate":
		return true
	}
	for _, prefix := range []string{"outflow", "webhook-", "content-", "accept-encoding", "proxy"} {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return false
}

func (h Header) String() string { return h.name + ": (a secret)" }

// GoString is String.
func (h Header) GoString() string { return h.String() }

// Headers are the headers of hosts, by host or pattern, as ParseHosts takes them.
type Headers map[string][]Header

// For returns the headers of a host: its own, else those of the narrowest pattern
// that matches.
func (h Headers) For(host string) []Header {
	for _, pattern := range patternsOf(host) {
		if own := h[pattern]; len(own) > 0 {
			return own
		}
	}
	return nil
}

// ReadHeaders reads lines of the form "host header-name: value"; a host may have several. It skips
// empty lines and lines that begin with #. Errors name the line and repeat nothing of it.
func ReadHeaders(r io.Reader) (Headers, error) {
	headers := Headers{}
	err := eachLine(r, func(line string) error {
		first, rest, _ := strings.Cut(strings.ReplaceAll(line, "\t", " "), " ")
		host, err := parsePattern(first)
		if err != nil {
			return fmt.Errorf("wants host header-name: value: the first word %w", err)
		}
		h, err := ParseHeader(rest)
		if err != nil {
			return fmt.Errorf("after the host: %w", err)
		}
		for _, other := range headers[host] {
			if other.name == h.name {
				return errors.New("this host has this header already")
			}
		}
		headers[host] = append(headers[host], h)
		return nil
	})
	if err != nil {
		return nil, err
	}
	return headers, nil
}

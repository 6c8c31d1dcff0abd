package webhook

import (
	"regexp"
	"strings"
)

// The wire contract: how a message looks to its receiver. Names are never
// changed once released. The signature covers webhook-id, webhook-timestamp and
// the body, and nothing else.
const (
	// HeaderID is the message ID; receivers deduplicate by it. This header and the
	// next two are Standard Webhooks'.
	HeaderID = "webhook-id"
	// HeaderTimestamp is when this attempt was made, in seconds since 1970.
	HeaderTimestamp = "webhook-timestamp"
	// HeaderSignature has a signature for each secret, separated by a space:
	// "v1," and the base64 of the HMAC-SHA256 of "<id>.<timestamp>.<body>".
	HeaderSignature = "webhook-signature"

	// HeaderType is the message's type, such as "user-registered".
	HeaderType = "outflow-type"
	// HeaderOrderingKey is the message's ordering key; absent where it has none.
	// Nothing is promised of the order.
	HeaderOrderingKey = "outflow-ordering-key"
	// HeaderHeaders is a JSON object, in ASCII, of those headers of the message
	// that are no HTTP headers of their own. See ownHeader.
	HeaderHeaders = "outflow-headers"

	headerContentType = "Content-Type"
	headerRequestID   = "X-Request-Id"

	// defaultContentType is what an empty outflow.Message.ContentType means.
	defaultContentType = "application/json"
	userAgent          = "Outflow"
)

// Others than these are dropped by nginx, underscores and dots included, or
// confused with each other behind CGI.
// https://nginx.org/en/docs/http/ngx_http_core_module.html#ignore_invalid_headers
var ownName = regexp.MustCompile(`^[A-Za-z0-9]+(-[A-Za-z0-9]+)*$`)

// A header whose name is one of these or starts so has a meaning for HTTP, for
// proxies, or here; a message's header of that name is never one of its own.
var (
	takenPrefixes = []string{"outflow", "webhook-", "content-", "accept", "access-control-", "proxy-", "sec-", "if-", "x-forwarded-"}
	takenNames    = map[string]bool{
		"authorization": true, "connection": true, "cookie": true, "date": true, "early-data": true, "expect": true, "forwarded": true,
		"host": true, "http2-settings": true, "keep-alive": true, "max-forwards": true, "origin": true, "range": true, "referer": true,
		"set-cookie": true, "te": true, "trailer": true, "transfer-encoding": true, "upgrade": true, "user-agent": true, "via": true,
		"x-http-method": true, "x-http-method-override": true, "x-method-override": true, "x-original-url": true, "x-real-ip": true,
		"x-rewrite-url": true,
		// With one of these net/http repeats a request whose answer was lost.
		"idempotency-key": true, "x-idempotency-key": true,
	}
)

func taken(name string) bool {
	name = strings.ToLower(name)
	for _, prefix := range takenPrefixes {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return takenNames[name]
}

// plainValue reports whether s arrives unchanged as the value of a header.
func plainValue(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return s != "" && strings.TrimSpace(s) == s
}

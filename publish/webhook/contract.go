package webhook

import "strings"

// The wire contract: how a message looks to its receiver. Names are never changed once released.
// The signature covers webhook-id, webhook-timestamp and the body, and nothing else.
const (
	// HeaderID is the message ID; receivers deduplicate by it. Standard Webhooks defines this
	// header and the next two.
	HeaderID = "webhook-id"
	// HeaderTimestamp is when this attempt was made, in seconds since 1970.
	HeaderTimestamp = "webhook-timestamp"
	// HeaderSignature has a signature for each secret, separated by a space:
	// "v1," and the base64 of the HMAC-SHA256 of "<id>.<timestamp>.<body>".
	HeaderSignature = "webhook-signature"

	// HeaderType is the message's type, such as "user-registered".
	HeaderType = "outflow-type"
	// HeaderOrderingKey is the message's ordering key; absent where it has none.
	// Messages may arrive in any order.
	HeaderOrderingKey = "outflow-ordering-key"
	// HeaderHeaders is a JSON object, in ASCII, of the message's headers that can't be HTTP
	// headers of their own.
	HeaderHeaders = "outflow-headers"

	headerContentType = "Content-Type"
	headerRequestID   = "X-Request-Id"

	// defaultContentType is what an empty outflow.Message.ContentType means.
	defaultContentType = "application/json"
	userAgent          = "Outflow"
)

// plainValue reports whether s arrives unchanged as the value of a header.
func plainValue(s string) bool {
	for i := range len(s) {
		if s[i] < ' ' || s[i] > '~' {
			return false
		}
	}
	return s != "" && strings.TrimSpace(s) == s
}

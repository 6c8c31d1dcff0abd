package outflow

import "strings"

// TargetOf returns the target of a canonical destination: what shares slots, turns of the
// claim, and what a connection says. A host of webhooks (with its scheme and port) and an
// exchange are targets of many destinations; a queue and a topic are their own.
func TargetOf(destination string) string {
	scheme, rest, _ := strings.Cut(destination, "://")
	switch scheme {
	case SchemeHTTPS, SchemeHTTP, SchemeRabbitMQ:
		name, _, _ := strings.Cut(rest, "/")
		return scheme + "://" + name
	}
	return destination
}

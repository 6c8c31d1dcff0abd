package webhook

import (
	"regexp"
	"strings"
)

// nginx drops other names than these, with an underscore or a dot for example; behind CGI they are
// confused with each other.
// https://nginx.org/en/docs/http/ngx_http_core_module.html#ignore_invalid_headers
var ownName = regexp.MustCompile(`^[A-Za-z0-9]+(-[A-Za-z0-9]+)*$`)

// A header whose name is one of these or starts so has a meaning for HTTP, for proxies and
// gateways, or here: a message's header of that name never becomes an HTTP header. Receivers behind
// a proxy trust such headers, since the proxy removes them from strangers' requests. A receiver
// that Outflow reaches past the proxy would trust a producer.
// https://www.rfc-editor.org/rfc/rfc9110#section-16.3.2.2
var reservedPrefixes = []string{
	// Here, and HTTP.
	"outflow", "webhook-", "content-", "accept", "access-control-", "proxy", "sec-", "if-", "cookie",
	"set-cookie",
	// The caller: credentials, and users that a gateway has checked.
	"authorization", "authentication", "x-authorization", "x-auth-", "x-authenticated", "x-authentik-",
	"x-api-key", "x-access-token", "x-id-token", "x-jwt",
	"x-csrf", "x-xsrf", "x-user", "x-remote-", "remote-", "x-webauth-", "x-oidc-", "oidc-", "x-pomerium-",
	"x-consumer-", "x-credential-",
	"x-anonymous-consumer", "x-ms-", "x-amzn-", "x-amz-", "x-goog-", "x-google-", "x-tyk-", "impersonate-",
	"l5d-", "x-spiffe-", "x-vault-", "dapr-",
	"client-cert", "x-client-cert", "ssl-", "x-ssl-", "x-tls-", "tls-", "x-mtls-",
	// Its origin: addresses, hosts and schemes.
	"forwarded", "x-forward", "x-envoy-", "x-istio-", "x-real-", "client-ip", "x-client-", "x-cluster-",
	"x-proxy", "x-host", "x-scheme", "x-url-scheme",
	"front-end-https", "cf-", "cdn-", "cloudfront-", "fastly-", "fly-", "true-client-", "x-true-", "akamai-",
	"x-akamai-", "incap-", "x-sucuri-",
	"x-appengine-", "x-cloud-", "x-azure-", "x-arr-", "x-vercel-", "x-nf-", "x-render-", "x-heroku-",
	"wl-proxy-",
	// The request: another path, method or file.
	"x-original", "x-rewrite-", "x-http-", "x-method-", "x-override-", "x-accel-", "x-sendfile",
	"x-middleware-", "x-nextjs-", "x-invoke-", "x-backend",
}

var reservedNames = map[string]bool{
	"api-key": true, "apikey": true, "ocp-apim-subscription-key": true, "x-functions-key": true,
	"connection": true, "date": true, "early-data": true, "expect": true, "host": true, "http2-settings": true,
	"keep-alive":   true,
	"max-forwards": true, "origin": true, "range": true, "referer": true, "te": true, "trailer": true,
	"transfer-encoding": true,
	"upgrade":           true, "user-agent": true, "via": true, "www-authenticate": true,
	// With either of these net/http repeats a request whose answer was lost.
	"idempotency-key": true, "x-idempotency-key": true,
}

func reserved(name string) bool {
	name = strings.ToLower(name)
	for _, prefix := range reservedPrefixes {
		if strings.HasPrefix(name, prefix) {
			return true
		}
	}
	return reservedNames[name]
}

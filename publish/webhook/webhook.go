// Package webhook posts messages to https destinations, signed as the Standard Webhooks
// specification says.
// https://github.com/standard-webhooks/standard-webhooks/blob/main/spec/standard-webhooks.md
//
// The invariant:
//
//   - A message is reported as published only where its receiver answered with a status from 200
//     to 299.
//   - Every request is signed, and goes over verified TLS to a host that an operator has allowed.
//   - At the moment of connecting, the address is public, or in a network that an operator has
//     allowed.
//   - No redirect is followed, no proxy is used, and nothing is sent twice within one call.
//   - No error carries a secret, a signature, a payload, or more of an address than host and path.
//
// The address check runs on each address of a connection, after name resolution, so a name that
// becomes private later is refused too. It can't tell a network's own NAT64 prefix from public
// addresses, and does not refuse it.
//
//	hosts, err := webhook.ParseHosts("hooks.example.com, *.example.org")
//	secrets, err := webhook.ParseSecrets("whsec_…")
//	publisher := webhook.New(webhook.Options{
//		Hosts:   hosts,
//		Secrets: webhook.Secrets{Default: secrets}.For,
//	})
//	router := publish.NewRouter(publisher)
//
// Publish is for messages; Send is the same for any other request, such as a callback. Receivers
// verify with a library of the specification; Decode reads the message from the headers.
package webhook

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"time"

	"github.com/google/uuid"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/publish"
)

// DefaultTimeout bounds a call: name, connection, TLS, request and answer. The specification finds
// 15 to 30 s enough for a receiver; the shorter time costs less where a receiver does not answer.
const DefaultTimeout = 15 * time.Second

const (
	// maxAnswerHeader and maxAnswerBody are the most bytes that are read of an answer. A body is
	// read only so that the connection can be used again, for drainTime at most.
	maxAnswerHeader = 64 << 10
	maxAnswerBody   = 64 << 10
	drainTime       = 250 * time.Millisecond

	idlePerHost = 16
	idleTime    = 30 * time.Second
)

// Options are the settings of a Publisher. The zero value allows no host.
type Options struct {
	// Hosts are those that may be sent to.
	Hosts Hosts
	// Secrets returns the secrets with which requests to a host are signed, with a signature
	// for each: during a rotation the new secret and the old. host is in lower case and has no
	// port. A host without a secret gets no request.
	Secrets func(host string) []Secret
	// Headers returns the headers that go with every request to a host beside the signature,
	// such as an API key; host is as for Secrets. nil means none.
	Headers func(host string) []Header
	// Networks are the private networks that may be connected to; the zero value has none.
	// Addresses of metadata services are refused in any case.
	Networks Networks
	// Timeout bounds a Publish and a Send, connecting included, unless the caller's deadline is
	// earlier. 0 means DefaultTimeout, and outflow.MaxCallTime is the most. A Publish whose
	// caller has no time for it, as on the fast path, has outflow.FastPathCallTime.
	Timeout time.Duration
	// InsecureLoopback allows destinations that name this machine itself (localhost, 127.0.0.1,
	// [::1]), in plain http too. For development. They must be among Hosts all the same.
	InsecureLoopback bool
	// RootCAs are trusted instead of the system's; nil means the system's.
	RootCAs *x509.CertPool
}

// Publisher posts to https destinations. It is safe for concurrent use, and makes as many
// connections to a host as there are calls under way: its callers bound them. Idle connections are
// closed after half a minute, or by Close.
type Publisher struct {
	hosts     Hosts
	secrets   func(host string) []Secret
	headers   func(host string) []Header
	networks  Networks
	timeout   time.Duration
	loopback  bool
	transport *http.Transport
	// resolver is the system's, and refused the function of that name, except in tests.
	resolver *net.Resolver
	refused  func(netip.Addr) string
}

var _ publish.Publisher = (*Publisher)(nil)

// New returns a Publisher.
func New(o Options) *Publisher {
	p := &Publisher{
		hosts: o.Hosts, secrets: o.Secrets, headers: o.Headers, networks: o.Networks,
		timeout: o.Timeout, loopback: o.InsecureLoopback, refused: refused,
	}
	if p.secrets == nil {
		p.secrets = Secrets{}.For
	}
	if p.headers == nil {
		p.headers = Headers{}.For
	}
	if p.timeout <= 0 {
		p.timeout = DefaultTimeout
	}
	p.timeout = min(p.timeout, outflow.MaxCallTime)
	// HTTP/1, so one request at a time per connection: a dead connection takes one request with
	// it. HTTP/2 would repeat requests by itself, some of them after they were sent.
	protocols := new(http.Protocols)
	protocols.SetHTTP1(true)
	p.transport = &http.Transport{
		Proxy:       nil,
		DialContext: p.dial,
		Protocols:   protocols,
		TLSClientConfig: &tls.Config{
			MinVersion: tls.VersionTLS12, RootCAs: o.RootCAs,
			ClientSessionCache: tls.NewLRUClientSessionCache(0), // cheaper repeated handshakes
		},
		TLSHandshakeTimeout:    p.timeout,
		DisableCompression:     true, // an answer is never unpacked
		MaxResponseHeaderBytes: maxAnswerHeader,
		MaxIdleConnsPerHost:    idlePerHost,
		IdleConnTimeout:        idleTime,
	}
	return p
}

// Close closes idle connections. Calls under way go on.
func (p *Publisher) Close() { p.transport.CloseIdleConnections() }

// Scheme is "https". A publish.Router passes destinations in plain http, too, which are refused
// without Options.InsecureLoopback.
func (*Publisher) Scheme() string { return outflow.SchemeHTTPS }

// Publish posts m to its destination, with the message ID as webhook-id, and returns the receiver's
// ID for the request (its X-Request-Id), often none. See publish.Publisher for what it promises.
func (p *Publisher) Publish(ctx context.Context, m outflow.Message) (brokerMessageID string, err error) {
	d, err := outflow.ParseDestination(m.Destination)
	switch {
	case err != nil && (strings.HasPrefix(m.Destination, outflow.SchemeHTTPS+"://") ||
		strings.HasPrefix(m.Destination, outflow.SchemeHTTP+"://")):
		return "", unreadable(errAddress) // the error's own words would quote the address
	case err != nil:
		return "", unreadable(err)
	case d.Scheme != outflow.SchemeHTTPS && d.Scheme != outflow.SchemeHTTP:
		return "", outflow.Permanent(fmt.Errorf("posting to %s: only https:// is published here; redirect the message",
			d))
	}
	to, err := parseTarget(d.URL)
	if err != nil {
		return "", unreadable(err)
	}
	header, err := encode(m, p.headers(canonicalHost(to.Hostname())))
	if err != nil {
		return "", outflow.Permanent(fmt.Errorf(
			"encoding message %s for %s: %w (enqueue a corrected one)", m.ID, to, err))
	}
	callTime := publish.CallTime(ctx, p.timeout)
	deadline, err := p.deadline(ctx, to, callTime)
	if err != nil {
		return "", err
	}
	// From here on the call goes on without its caller: the receiver may have the message.
	posting, cancel := context.WithDeadline(context.WithoutCancel(ctx), deadline)
	defer cancel()
	answer, err := p.post(posting, to, m.ID.String(), header, m.Payload, callTime < p.timeout)
	return answer.RequestID, err
}

func unreadable(err error) error {
	return outflow.Permanent(fmt.Errorf("reading the destination: %w; redirect the message to a valid one", err))
}

func encode(m outflow.Message, always []Header) (http.Header, error) {
	if m.ID == uuid.Nil {
		return nil, fmt.Errorf("the message has no ID")
	}
	header, err := headersOf(m.ContentType, m.Headers, always)
	if err != nil {
		return nil, err
	}
	for name, value := range map[string]string{HeaderType: m.Type, HeaderOrderingKey: m.OrderingKey} {
		switch {
		case value == "":
		case !plainValue(value):
			return nil, fmt.Errorf("%s has characters that HTTP does not allow in a header", name)
		default:
			header.Set(name, value)
		}
	}
	return header, nil
}

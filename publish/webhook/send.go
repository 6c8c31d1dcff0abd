package webhook

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptrace"
	"net/url"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"time"

	"github.com/outflowhq/outflow"
)

// Answer is a receiver's answer.
type Answer struct {
	// Status is the HTTP status, or 0 where no answer came.
	Status int
	// RequestID is the receiver's own name for the request, from its header
	// X-Request-Id: up to 200 printable ASCII characters, often none.
	RequestID string
}

var requestID = regexp.MustCompile(`^[A-Za-z0-9_=@,.:;+/-]{1,200}$`)

// The specification allows no dot in an ID: dots separate the ID from the timestamp in the signed
// text.
var sendID = regexp.MustCompile(`^[A-Za-z0-9_-]{1,200}$`)

// Send posts a body to an address, signed with the secrets of its host; see Publish for messages.
// id becomes the webhook-id: the same for every attempt of one request, of letters, digits, "_" and
// "-". An empty contentType means "application/json". headers, which may be nil, travel as those of
// a message do.
//
// A nil error says that the receiver answered with a status from 200 to 299; an error about the
// status comes with the answer, too. Errors have a class, as those of publish.Publisher. The end of
// ctx ends the call; where nothing was sent by then, the error wraps outflow.ErrNotAttempted.
// Options.Timeout ends it at the latest.
func (p *Publisher) Send(
	ctx context.Context, address, id, contentType string, body []byte, headers map[string]string,
) (Answer, error) {
	to, err := parseTarget(address)
	if err != nil {
		return Answer{}, outflow.Permanent(fmt.Errorf("reading the address: %w", err))
	}
	if !sendID.MatchString(id) {
		return Answer{}, outflow.Permanent(fmt.Errorf(
			`posting to %s: the ID wants 1 to 200 letters, digits, "_" or "-"`, to))
	}
	header, err := headersOf(contentType, headers, p.headers(canonicalHost(to.Hostname())))
	if err != nil {
		return Answer{}, outflow.Permanent(fmt.Errorf("posting to %s: %w", to, err))
	}
	deadline, err := p.deadline(ctx, to, p.timeout)
	if err != nil {
		return Answer{}, err
	}
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	return p.post(ctx, to, id, header, body, false)
}

// target is where a request goes.
type target struct{ *url.URL }

var errAddress = errors.New("wants https://host/path, without user name, password or fragment")

func parseTarget(address string) (target, error) {
	u, err := url.Parse(address)
	// url.Parse's error quotes the address, which may hold a secret.
	if err != nil || u.Host == "" || u.Hostname() == "" || u.User != nil || u.Fragment != "" || u.Opaque != "" ||
		u.Scheme != "https" && u.Scheme != "http" {
		return target{}, errAddress
	}
	return target{u}, nil
}

// String is the form for errors: without the query, and with the beginning of a long path.
func (t target) String() string {
	const limit = 300 // bytes
	shown := t.Scheme + "://" + t.Host + t.EscapedPath()
	if len(shown) > limit {
		return shown[:limit] + "…"
	}
	return shown
}

// deadline is when a call ends: after limit, or at the caller's own deadline. The error says that
// there is no time to begin.
func (p *Publisher) deadline(ctx context.Context, to target, limit time.Duration) (time.Time, error) {
	deadline := time.Now().Add(limit)
	if callers, ok := ctx.Deadline(); ok && callers.Before(deadline) {
		deadline = callers
	}
	switch {
	case ctx.Err() != nil:
		return deadline, outflow.Retryable(fmt.Errorf(
			"posting to %s: %w: %w", to, outflow.ErrNotAttempted, context.Cause(ctx)))
	// The receiver may have got a request that is cut off.
	case time.Until(deadline) < min(limit, outflow.FastPathCallTime)/4:
		return deadline, outflow.Retryable(fmt.Errorf(
			"posting to %s: %w: too little time was left", to, outflow.ErrNotAttempted))
	}
	return deadline, nil
}

// secretsFor returns the secrets for a target that may be sent to. Where a setting of the operator
// is missing, the message waits for it.
func (p *Publisher) secretsFor(to target) ([]Secret, error) {
	host := canonicalHost(to.Hostname())
	switch {
	case to.Scheme == "https":
	case !namesThisMachine(host):
		return nil, outflow.Permanent(fmt.Errorf(
			"posting to %s: only https:// is sent to (redirect it to an https address)", to))
	case !p.loopback:
		return nil, outflow.Permanent(fmt.Errorf("posting to %s: only https:// is sent to "+
			"(OUTFLOW_WEBHOOK_INSECURE_LOOPBACK=on lets http:// to this machine through, for development; "+
			"else redirect it)", to))
	}
	if !p.hosts.Allow(host) {
		return nil, outflow.Unavailable(fmt.Errorf("posting to %s: the host is not allowed "+
			"(add it to OUTFLOW_WEBHOOK_HOSTS, and a secret for it to OUTFLOW_WEBHOOK_SECRETS_FILE)", to))
	}
	secrets := p.secrets(host)
	unset := func(s Secret) bool { return s.key == nil }
	if len(secrets) == 0 || slices.ContainsFunc(secrets, unset) {
		return nil, outflow.Unavailable(fmt.Errorf(
			"posting to %s: there is no secret for the host (add one to OUTFLOW_WEBHOOK_SECRETS_FILE)", to))
	}
	return secrets, nil
}

// post makes one request. It uses the transport without an http.Client, which would follow
// redirects. cutShort says that ctx ends before the publisher's own timeout.
func (p *Publisher) post(
	ctx context.Context, to target, id string, header http.Header, body []byte, cutShort bool,
) (Answer, error) {
	secrets, err := p.secretsFor(to)
	if err != nil {
		return Answer{}, err
	}
	timestamp := strconv.FormatInt(time.Now().Unix(), 10)
	signatures := make([]string, 0, len(secrets))
	for _, s := range secrets {
		signatures = append(signatures, s.sign(id, timestamp, body))
	}
	header.Set(HeaderID, id)
	header.Set(HeaderTimestamp, timestamp)
	header.Set(HeaderSignature, strings.Join(signatures, " "))

	var connected atomic.Bool
	ctx, cancel := context.WithCancel(httptrace.WithClientTrace(ctx, &httptrace.ClientTrace{
		// Called again where the first connection died before a byte was written.
		GetConn: func(string) { connected.Store(false) },
		GotConn: func(httptrace.GotConnInfo) { connected.Store(true) },
	}))
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodPost, to.URL.String(), bytes.NewReader(body))
	if err != nil {
		return Answer{}, outflow.Permanent(errAddress)
	}
	req.Header = header
	resp, err := p.transport.RoundTrip(req)
	if err != nil {
		return Answer{}, noAnswer(to, err, ctx.Err(), connected.Load(), cutShort)
	}
	defer drain(resp.Body, cancel)
	answer := Answer{Status: resp.StatusCode}
	if given := resp.Header.Get(headerRequestID); requestID.MatchString(given) {
		answer.RequestID = given
	}
	return answer, failureOf(to, resp)
}

// drain reads the rest of a short answer, so that its connection can be used again. The status
// counts, whatever the body is.
func drain(body io.ReadCloser, cancel func()) {
	stop := time.AfterFunc(drainTime, cancel)
	defer stop.Stop()
	_, _ = io.CopyN(io.Discard, body, maxAnswerBody)
	_ = body.Close()
}

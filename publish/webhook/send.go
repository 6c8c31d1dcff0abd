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

// Answer is what a receiver said.
type Answer struct {
	// Status is the HTTP status, or 0 where no answer came.
	Status int
	// RequestID is the receiver's own name for the request, from its header
	// X-Request-Id: up to 200 printable ASCII characters, often none.
	RequestID string
}

var requestID = regexp.MustCompile(`^[A-Za-z0-9_=@,.:;+/-]{1,200}$`)

// The specification wants no character in an ID that moves the border to the
// timestamp: no dot.
var sendID = regexp.MustCompile(`^[A-Za-z0-9_-]{1,200}$`)

// Send posts a body to an address, signed with the secrets of its host; see
// Publish for messages. id becomes the webhook-id: the same for every attempt of
// one request, of letters, digits, "_" and "-". An empty contentType means
// "application/json". headers, which may be nil, travel as those of a message do.
//
// A nil error says that the receiver answered with a status from 200 to 299; the
// answer is also returned with an error that came of its status. Errors have a
// class, as those of publish.Publisher. The end of ctx ends the call; where nothing
// was sent by then, the error wraps outflow.ErrNotAttempted. Options.Timeout ends it
// at the latest.
func (p *Publisher) Send(ctx context.Context, address, id, contentType string, body []byte, headers map[string]string) (Answer, error) {
	to, err := parseTarget(address)
	if err != nil {
		return Answer{}, outflow.Permanent(fmt.Errorf("reading the address: %w", err))
	}
	if !sendID.MatchString(id) {
		return Answer{}, outflow.Permanent(fmt.Errorf("posting to %s: the ID wants 1 to 200 letters, digits, \"_\" or \"-\"", to))
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

// String is what errors show: no query, and of a long path the beginning.
func (t target) String() string {
	const most = 300
	shown := t.Scheme + "://" + t.Host + t.EscapedPath()
	if len(shown) > most {
		return shown[:most] + "…"
	}
	return shown
}

// deadline is when a call ends, after limit or when the caller says; the error says
// that it is not worth beginning.
func (p *Publisher) deadline(ctx context.Context, to target, limit time.Duration) (time.Time, error) {
	deadline := time.Now().Add(limit)
	if callers, ok := ctx.Deadline(); ok && callers.Before(deadline) {
		deadline = callers
	}
	switch {
	case ctx.Err() != nil:
		return deadline, outflow.Retryable(fmt.Errorf("posting to %s: %w: %w", to, outflow.ErrNotAttempted, context.Cause(ctx)))
	// One that is cut off may have been received.
	case time.Until(deadline) < min(limit, outflow.FastPathCallTime)/4:
		return deadline, outflow.Retryable(fmt.Errorf("posting to %s: %w: too little time was left", to, outflow.ErrNotAttempted))
	}
	return deadline, nil
}

// allowed returns the secrets for a target that may be sent to. What an operator
// can set right is no fault of the message: it waits.
func (p *Publisher) allowed(to target) ([]Secret, error) {
	host := canonicalHost(to.Hostname())
	switch {
	case to.Scheme == "https":
	case !namesThisMachine(host):
		return nil, outflow.Permanent(fmt.Errorf("posting to %s: only https:// is sent to (redirect it to an https address)", to))
	case !p.loopback:
		return nil, outflow.Permanent(fmt.Errorf("posting to %s: only https:// is sent to (OUTFLOW_WEBHOOK_INSECURE_LOOPBACK=on lets http:// to this machine through, for development; else redirect it)", to))
	}
	if !p.hosts.Allow(host) {
		return nil, outflow.Unavailable(fmt.Errorf("posting to %s: the host is not allowed (add it to OUTFLOW_WEBHOOK_HOSTS, and a secret for it to OUTFLOW_WEBHOOK_SECRETS_FILE)", to))
	}
	secrets := p.secrets(host)
	unset := func(s Secret) bool { return s.key == nil }
	if len(secrets) == 0 || slices.ContainsFunc(secrets, unset) {
		return nil, outflow.Unavailable(fmt.Errorf("posting to %s: there is no secret for the host (add one to OUTFLOW_WEBHOOK_SECRETS_FILE)", to))
	}
	return secrets, nil
}

// post makes one request. A round trip of the transport, no client: redirects are
// not followed, and no cookie is kept. quick says that ctx ends before the publisher's own
// timeout.
func (p *Publisher) post(ctx context.Context, to target, id string, header http.Header, body []byte, quick bool) (Answer, error) {
	secrets, err := p.allowed(to)
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
		// Once more where the first connection died before a byte was written.
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
		return Answer{}, noAnswer(to, err, ctx.Err(), connected.Load(), quick)
	}
	defer drain(resp.Body, cancel)
	answer := Answer{Status: resp.StatusCode}
	if given := resp.Header.Get(headerRequestID); requestID.MatchString(given) {
		answer.RequestID = given
	}
	return answer, judge(to, resp)
}

// drain reads the rest of a short answer, so that its connection can be used
// again. However an answer goes on, its status counts.
func drain(body io.ReadCloser, cancel func()) {
	stop := time.AfterFunc(drainTime, cancel)
	defer stop.Stop()
	_, _ = io.CopyN(io.Discard, body, maxAnswerBody)
	_ = body.Close()
}

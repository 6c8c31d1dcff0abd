package webhook

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"strings"
	"syscall"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/text"
	"github.com/outflowhq/outflow/publish/internal/retryafter"
)

// failureOf returns the failure that an answer means; nil is an acknowledgement. A body is never
// quoted: it may repeat the payload. docs/webhooks.md has the reasons.
func failureOf(to target, resp *http.Response) error {
	status := resp.StatusCode
	class, next := outflow.ClassRetryable, "it is sent again with the same "+HeaderID
	switch {
	case status >= 200 && status <= 299:
		return nil
	case status >= 300 && status <= 399:
		next = "redirects are never followed; redirect the message to the address that it names"
	case status == http.StatusGone:
		class, next = outflow.ClassPermanent, "the receiver accepts no more messages; "+
			"redirect this one, or retry it when the receiver is back"
	case status == http.StatusRequestEntityTooLarge, status == http.StatusUnsupportedMediaType,
		status == http.StatusUnprocessableEntity, status == http.StatusRequestHeaderFieldsTooLarge:
		class, next = outflow.ClassPermanent, "the receiver rejects this message; "+
			"enqueue a corrected one, or fix the receiver and retry this one"
	case status == http.StatusUnauthorized, status == http.StatusForbidden:
		class, next = outflow.ClassUnavailable, "compare the receiver's secret and clock with the sender's; "+next
	case status == http.StatusNotFound, status == http.StatusMethodNotAllowed:
		class, next = outflow.ClassUnavailable, "nothing there accepts messages now; "+next
	case status == http.StatusRequestTimeout, status == http.StatusTooEarly,
		status == http.StatusTooManyRequests, status >= 500 && status <= 599:
		class = outflow.ClassUnavailable
	case status == http.StatusBadRequest:
		next = "receivers also answer so to a wrong signature; " + next
	}
	answer := strings.TrimSpace(strconv.Itoa(status) + " " + http.StatusText(status))
	f := &outflow.Failure{
		Class: class, Answered: true, Err: fmt.Errorf("posting to %s: HTTP status %s (%s)", to, answer, next),
	}
	if class != outflow.ClassPermanent {
		f.RetryAfter = retryafter.From(resp.Header)
	}
	return f
}

const (
	nothingSent = "nothing was sent; it is tried again"
	maybeSent   = "it may have been received, and is sent again with the same " + HeaderID
)

// noAnswer is the failure of a request without an answer. ended is why its context ended, if it
// did; cutShort says that it ended before the publisher's own timeout. The transport's own words
// stay out where they may quote what the other side sent.
func noAnswer(to target, err, ended error, connected, cutShort bool) error {
	doing := "posting to " + to.String()
	if errors.Is(ended, context.Canceled) {
		if !connected {
			return outflow.Retryable(fmt.Errorf("%s: %w: %w", doing, outflow.ErrNotAttempted, ended))
		}
		return outflow.Retryable(fmt.Errorf("%s: the caller left (%s): %w", doing, maybeSent, ended))
	}
	if connected {
		return &outflow.Failure{
			Class: outflow.ClassUnavailable, CutShort: cutShort && errors.Is(ended, context.DeadlineExceeded),
			Err: fmt.Errorf("%s: %s (%s)", doing, lostAnswer(err), maybeSent),
		}
	}
	return outflow.Unavailable(fmt.Errorf("%s: %s", doing, noConnection(err)))
}

// lostAnswer says how a connection ended without an answer.
func lostAnswer(err error) string {
	var errno syscall.Errno
	switch {
	case timedOut(err):
		return "no answer in time"
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, net.ErrClosed):
		return "the connection was closed without an answer"
	case errors.As(err, &errno):
		return errno.Error()
	case strings.Contains(err.Error(), "server response headers exceeded"): // net/http has no type for it
		return fmt.Sprintf("the answer has more than %d bytes of headers", maxAnswerHeader)
	case strings.Contains(err.Error(), "server closed idle connection"):
		return "the connection was closed without an answer"
	}
	return "the answer is not HTTP"
}

// noConnection says why there was no connection, and what to do.
func noConnection(err error) string {
	var address *refusedError
	var dns *net.DNSError
	var certificate *tls.CertificateVerificationError
	var errno syscall.Errno
	switch {
	case errors.As(err, &address):
		return address.Error() + " (" + nothingSent + ", for a name may change)"
	case errors.As(err, &dns) && dns.IsNotFound:
		return "the host name does not resolve (" + nothingSent + ")"
	case errors.As(err, &dns):
		return "looking up the host name ended with an error (" + nothingSent + ")"
	case errors.As(err, &certificate):
		own := ""
		if errors.As(err, new(x509.UnknownAuthorityError)) {
			own = "SSL_CERT_FILE names authorities of your own; "
		}
		return "its certificate is not trusted: " + text.Limit(certificate.Err.Error(), 200) + " (" + own +
			nothingSent + ")"
	case noTLS(err):
		return "TLS 1.2 or later can't be agreed upon (" + nothingSent + ")"
	case timedOut(err):
		return "no connection in time (" + nothingSent + ")"
	case errors.As(err, &errno):
		return errno.Error() + " (" + nothingSent + ")"
	}
	return "no connection (" + nothingSent + ")"
}

// noTLS reports whether the other side speaks no TLS, or no version of it that is accepted here.
// crypto/tls has no type that covers all such errors.
func noTLS(err error) bool {
	var record tls.RecordHeaderError
	var alert *net.OpError
	return errors.As(err, &record) || strings.HasPrefix(err.Error(), "tls: ") ||
		errors.As(err, &alert) && (alert.Op == "remote error" || alert.Op == "local error")
}

func timedOut(err error) bool {
	var timeout net.Error
	return errors.Is(err, context.DeadlineExceeded) || errors.As(err, &timeout) && timeout.Timeout()
}

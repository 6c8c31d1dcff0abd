package service

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"go.temporal.io/api/serviceerror"
	"google.golang.org/grpc/codes"
)

// A start waits for parts that are away. It ends at an error that waiting does not fix: the
// settings are wrong. This file tells the two apart.

// databaseRefuses reports whether the settings are wrong: for every server that they name, with and
// without TLS as they allow. A failed handshake says nothing where a connection without TLS was
// tried, too.
func databaseRefuses(err error) bool {
	plain, refused := triedPlain(err), false
	for _, try := range triesOf(err) {
		switch {
		case answerRefuses(try) || !plain && handshakeRefuses(try):
			refused = true
		case !handshakeRefuses(try):
			return false
		}
	}
	return refused
}

// triesOf returns the errors that err joins: pgconn joins one for each server and each way to
// connect.
func triesOf(err error) (tries []error) {
	for inner := err; inner != nil; inner = errors.Unwrap(inner) {
		if joined, ok := inner.(interface{ Unwrap() []error }); ok {
			for _, each := range joined.Unwrap() {
				tries = append(tries, triesOf(each)...)
			}
			return tries
		}
	}
	return []error{err}
}

// triedPlain reports whether a connection without TLS was tried. The default, sslmode=prefer, tries
// TLS first.
func triedPlain(err error) bool {
	var connect *pgconn.ConnectError
	return errors.As(err, &connect) && (connect.Config.TLSConfig == nil ||
		slices.ContainsFunc(connect.Config.Fallbacks,
			func(f *pgconn.FallbackConfig) bool { return f.TLSConfig == nil }))
}

// answerRefuses reports whether a server's answer says that the settings are wrong: a wrong
// password, an unknown role or database. A server that starts, is full or has no schema yet answers
// otherwise. https://www.postgresql.org/docs/current/errcodes-appendix.html
func answerRefuses(err error) bool {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return false
	}
	switch pg.Code {
	case "28000", "28P01", "3D000": // role or host, password, database
		return true
	case "0A000", "22023", "42704": // runtime parameters that this server does not accept
		// Severity is in the server's language. PgBouncer sends Severity alone.
		return cmp.Or(pg.SeverityUnlocalized, pg.Severity) == "FATAL"
	}
	return false
}

// handshakeRefuses reports whether the server has no TLS, can't prove its identity, or does not
// accept this client.
func handshakeRefuses(err error) bool {
	// pgconn has no type for the first error. The second one comes from a server without TLS.
	var record tls.RecordHeaderError
	return strings.Contains(err.Error(), "server refused TLS connection") || errors.As(err, &record) ||
		certificateRefused(err)
}

func certificateRefused(err error) bool {
	var verification *tls.CertificateVerificationError
	var authority x509.UnknownAuthorityError
	var host x509.HostnameError
	var invalid x509.CertificateInvalidError
	return errors.As(err, &verification) || errors.As(err, &authority) || errors.As(err, &host) ||
		errors.As(err, &invalid) || alerted(err)
}

// alerted reports whether the server ended the handshake with an alert, such as "certificate
// required". "internal error" may come from a proxy whose server is away.
func alerted(err error) bool {
	return strings.Contains(err.Error(), "remote error: tls: ") &&
		!strings.Contains(err.Error(), "tls: internal error")
}

// namespaceGrace is how long a Temporal that came up after the daemon may be without its namespace.
// Installers register the namespace seconds after the server answers.
const namespaceGrace = time.Minute

// namespaceWait is a start's wait for Temporal's namespace. It allows namespaceGrace only where
// Temporal itself had to be waited for.
type namespaceWait struct {
	serverWaited bool
	missingSince time.Time // zero while the namespace is not known to be missing
}

// isOver reports whether err ends the start.
func (w *namespaceWait) isOver(err error) bool {
	var missing *serviceerror.NamespaceNotFound
	if !errors.As(err, &missing) {
		w.serverWaited, w.missingSince = true, time.Time{}
		return temporalRefuses(err)
	}
	if w.missingSince.IsZero() {
		w.missingSince = time.Now()
	}
	return !w.serverWaited || time.Since(w.missingSince) > namespaceGrace
}

// temporalRefuses reports whether the settings are wrong: an API key or a certificate that is
// refused, no permission for the namespace, TLS with a server that has none.
func temporalRefuses(err error) bool {
	var denied *serviceerror.PermissionDenied
	var invalid *serviceerror.InvalidArgument
	if errors.As(err, &denied) || errors.As(err, &invalid) {
		return true
	}
	if serviceerror.ToStatus(err).Code() == codes.Unauthenticated {
		return true
	}
	// gRPC has one code for all errors of a handshake. The text tells them apart.
	for _, text := range []string{
		"authentication handshake failed: tls: failed to verify certificate",
		"authentication handshake failed: x509: ",
		"tls: first record does not look like a TLS handshake",
	} {
		if strings.Contains(err.Error(), text) {
			return true
		}
	}
	return alerted(err)
}

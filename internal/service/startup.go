package service

import (
	"cmp"
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"google.golang.org/grpc/codes"

	"github.com/outflowhq/outflow/internal/telemetry"
)

const (
	// tryAgain is the pause between two tries to reach a part at the start.
	tryAgain = 500 * time.Millisecond
	// tryLimit bounds one try: an address that swallows packets never answers.
	tryLimit = 10 * time.Second
	// sayAgain is how often the log says what a start waits for.
	sayAgain = 5 * time.Second
	// namespaceGrace is how long a Temporal that came up after the daemon may take to
	// have its namespace: installers register it seconds after the server answers.
	namespaceGrace = time.Minute
)

// startup opens the parts that a program needs.
type startup struct {
	log    *slog.Logger
	health *health
	// metrics are nil where none are collected.
	metrics *telemetry.Metrics
	// once ends the start at the first failure, whatever it is.
	once bool
}

// until tries to reach a part until that works. It returns early when ctx ends, and
// when final says that waiting does not mend the error.
func (s startup) until(
	ctx context.Context, part string, try func(context.Context) error, final func(error) bool,
) error {
	var said time.Time
	for {
		err := tryOnce(ctx, try)
		switch {
		case err == nil && !said.IsZero():
			s.log.Info("no longer waiting", "for", part)
			return nil
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return ctx.Err()
		case s.once || final(err):
			return err
		}
		s.health.waitsFor(part)
		if time.Since(said) >= sayAgain {
			s.log.Warn("waiting at the start", "for", part, "error", err)
			said = time.Now()
		}
		select {
		case <-time.After(tryAgain):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

func tryOnce(ctx context.Context, try func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, tryLimit)
	defer cancel()
	return try(ctx)
}

// reachDatabase waits for a database that answers and has the schema.
func (s startup) reachDatabase(ctx context.Context, p *parts) error {
	return s.until(ctx, partDatabase, func(ctx context.Context) error {
		if err := p.store.Ping(ctx); err != nil {
			return err
		}
		_, err := p.store.DatabaseID(ctx) // it is remembered: no task waits for it
		return err
	}, databaseRefuses)
}

// databaseRefuses reports whether err is the settings' fault, for every server and with
// and without TLS, as the settings allow. The handshake's failure says nothing where it
// is tried without TLS, too.
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

// triesOf are the errors that err joins: pgconn has one for each server, and each way to
// connect to it.
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

// triedPlain reports whether a connection without TLS was tried: sslmode=prefer, which is
// the default, tries TLS first.
func triedPlain(err error) bool {
	var connect *pgconn.ConnectError
	return errors.As(err, &connect) && (connect.Config.TLSConfig == nil ||
		slices.ContainsFunc(connect.Config.Fallbacks, func(f *pgconn.FallbackConfig) bool { return f.TLSConfig == nil }))
}

// answerRefuses reports whether a server's answer is the settings' fault: a wrong
// password, an unknown role or database. A server that starts, is full or has no schema
// yet says none of these.
// https://www.postgresql.org/docs/current/errcodes-appendix.html
func answerRefuses(err error) bool {
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		return false
	}
	switch pg.Code {
	case "28000", "28P01", "3D000": // role or host, password, database
		return true
	case "0A000", "22023", "42704": // runtime parameters that this server does not take
		// The other field is in the server's language. PgBouncer sends that one alone.
		return cmp.Or(pg.SeverityUnlocalized, pg.Severity) == "FATAL"
	}
	return false
}

// handshakeRefuses reports whether the other side does not have TLS, or can't prove
// itself, or takes no client like this one.
func handshakeRefuses(err error) bool {
	// pgconn has no type for the first; the second is TLS spoken to something else.
	var record tls.RecordHeaderError
	return strings.Contains(err.Error(), "server refused TLS connection") || errors.As(err, &record) || certificateRefused(err)
}

func certificateRefused(err error) bool {
	var verification *tls.CertificateVerificationError
	var authority x509.UnknownAuthorityError
	var host x509.HostnameError
	var invalid x509.CertificateInvalidError
	return errors.As(err, &verification) || errors.As(err, &authority) || errors.As(err, &host) ||
		errors.As(err, &invalid) || alerted(err)
}

// alerted reports whether the other side ended the handshake with an alert, such as
// "certificate required". "internal error" may be a proxy whose server is away.
func alerted(err error) bool {
	return strings.Contains(err.Error(), "remote error: tls: ") && !strings.Contains(err.Error(), "tls: internal error")
}

// dial connects to Temporal and waits until it has the namespace.
func (s startup) dial(ctx context.Context, o client.Options) (client.Client, error) {
	var connected client.Client
	namespace := patience{}
	err := s.until(ctx, partTemporal, func(ctx context.Context) error {
		c, err := client.DialContext(ctx, o)
		if err == nil {
			err = hasNamespace(ctx, c, cmp.Or(o.Namespace, client.DefaultNamespace))
			if err == nil {
				connected = c
				return nil
			}
			c.Close()
		}
		return fmt.Errorf("connecting to Temporal at %s (TEMPORAL_ADDRESS): %w", o.HostPort, err)
	}, namespace.refused)
	return connected, err
}

func hasNamespace(ctx context.Context, c client.Client, namespace string) error {
	_, err := c.WorkflowService().DescribeNamespace(ctx, &workflowservice.DescribeNamespaceRequest{Namespace: namespace})
	var old *serviceerror.Unimplemented // a proxy that lets through what a worker needs
	if err == nil || errors.As(err, &old) {
		return nil
	}
	return fmt.Errorf("looking for the namespace %q (TEMPORAL_NAMESPACE): %w", namespace, err)
}

// patience remembers whether Temporal had to be waited for.
type patience struct {
	waited  bool
	missing time.Time // since when its namespace is missing; zero while it is not
}

// refused reports whether err ends the start.
func (p *patience) refused(err error) bool {
	var missing *serviceerror.NamespaceNotFound
	if !errors.As(err, &missing) {
		p.waited, p.missing = true, time.Time{}
		return temporalRefuses(err)
	}
	if p.missing.IsZero() {
		p.missing = time.Now()
	}
	return !p.waited || time.Since(p.missing) > namespaceGrace
}

// temporalRefuses reports whether err is the settings' fault: an API key or a
// certificate that is refused, no right to the namespace, TLS with a server without.
func temporalRefuses(err error) bool {
	var denied *serviceerror.PermissionDenied
	var invalid *serviceerror.InvalidArgument
	if errors.As(err, &denied) || errors.As(err, &invalid) {
		return true
	}
	if serviceerror.ToStatus(err).Code() == codes.Unauthenticated {
		return true
	}
	// gRPC has all that goes wrong in a handshake as one code, and as text.
	for _, text := range []string{
		"authentication handshake failed: tls: failed to verify certificate", "authentication handshake failed: x509: ",
		"tls: first record does not look like a TLS handshake",
	} {
		if strings.Contains(err.Error(), text) {
			return true
		}
	}
	return alerted(err)
}

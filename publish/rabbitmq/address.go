package rabbitmq

import (
	"cmp"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"time"

	amqp "github.com/rabbitmq/amqp091-go"
)

// Address says where RabbitMQ is, and as whom to connect. Two Addresses are equal where their URLs
// are. No form of it that is printed has user name, password or parameters.
type Address struct{ url string }

// ParseAddress reads a URL such as amqp://user:password@host:5672/vhost, or amqps:// for TLS.
//
// Without them the port is 5672, or 5671 for amqps, the user guest with the password guest, and the
// virtual host "/". What is special in user name, password and virtual host is percent-encoded:
// "%2F" is a slash. https://www.rabbitmq.com/docs/uri-spec
//
// Parameters are cacertfile, certfile, keyfile, server_name_indication, auth_mechanism, heartbeat
// (seconds), connection_timeout (milliseconds) and channel_max.
// https://www.rabbitmq.com/docs/uri-query-parameters
//
// The files must be there, and are read again for each connection. An error says what the URL
// wants, and repeats no part of it but the names of parameters and files.
func ParseAddress(text string) (Address, error) {
	if err := checkURL(text); err != nil {
		return Address{}, fmt.Errorf("wants amqp://user:password@host:5672/vhost, or amqps:// for TLS: %w", err)
	}
	return Address{url: text}, nil
}

var errNotEncoded = errors.New("it is no URL (what is special in user name and password is percent-encoded, " +
	"such as %40 for @)")

func checkURL(text string) error {
	u, err := url.Parse(text) // its error would quote the password
	switch {
	case err != nil, strings.ContainsAny(text, " \t\r\n"), u.Fragment != "", u.Opaque != "":
		return errNotEncoded
	case u.Scheme != "amqp" && u.Scheme != "amqps":
		return errors.New("the scheme is another")
	case u.Hostname() == "":
		return errors.New("it names no host")
	case strings.Contains(strings.TrimPrefix(u.EscapedPath(), "/"), "/"):
		return errors.New("a slash in the virtual host is %2F")
	}
	if port := u.Port(); port != "" {
		if n, err := strconv.ParseUint(port, 10, 16); err != nil || n == 0 {
			return errors.New("the port wants 1 to 65535")
		}
	}
	parameters, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return errNotEncoded
	}
	return checkParameters(u.Scheme, parameters)
}

// numbers are the parameters that want a number, and the most of each. A heartbeat of 0 would leave
// a dead connection unnoticed.
var numbers = map[string]uint64{"heartbeat": 600, "connection_timeout": 600_000, "channel_max": 65535}

func checkParameters(scheme string, parameters url.Values) error {
	for name, values := range parameters {
		most, isNumber := numbers[name]
		n, err := strconv.ParseUint(values[0], 10, 32)
		switch {
		case isNumber && (err != nil || n == 0 || n > most):
			return fmt.Errorf("%s wants a number from 1 to %d", name, most)
		case isNumber:
		case name == "auth_mechanism":
			for _, mechanism := range values {
				if !slices.Contains([]string{"plain", "amqplain", "external"}, strings.ToLower(mechanism)) {
					return errors.New("auth_mechanism wants plain, amqplain or external")
				}
			}
		case !slices.Contains([]string{"cacertfile", "certfile", "keyfile", "server_name_indication"}, name):
			return fmt.Errorf("unknown parameter %.40q; known are cacertfile, certfile, keyfile, "+
				"server_name_indication, auth_mechanism, heartbeat, connection_timeout and channel_max", name)
		case scheme != "amqps":
			return fmt.Errorf("%s wants amqps://", name)
		}
	}
	return checkFiles(parameters.Get("cacertfile"), parameters.Get("certfile"), parameters.Get("keyfile"))
}

func checkFiles(authorities, certificate, key string) error {
	if authorities != "" {
		if _, err := os.ReadFile(authorities); err != nil {
			return fmt.Errorf("cacertfile wants a file that can be read: %w", err)
		}
	}
	switch {
	case (certificate == "") != (key == ""):
		return errors.New("certfile and keyfile want each other")
	case certificate == "":
		return nil
	}
	if _, err := tls.LoadX509KeyPair(certificate, key); err != nil {
		return fmt.Errorf("certfile and keyfile want a certificate and its key in PEM: %w", err)
	}
	return nil
}

// String is the address without user name, password and parameters.
func (a Address) String() string {
	uri, err := amqp.ParseURI(a.url)
	if err != nil || a.url == "" {
		return "no address"
	}
	vhost := ""
	if uri.Vhost != "/" {
		vhost = url.PathEscape(uri.Vhost)
	}
	return uri.Scheme + "://" + net.JoinHostPort(uri.Host, strconv.Itoa(uri.Port)) + "/" + vhost
}

// vhost is the virtual host.
func (a Address) vhost() string {
	uri, err := amqp.ParseURI(a.url)
	if err != nil {
		return "/"
	}
	return uri.Vhost
}

// tls is what TLS needs, or nil for an address without TLS.
func (a Address) tls() (*tls.Config, error) {
	uri, err := amqp.ParseURI(a.url)
	if err != nil || uri.Scheme != "amqps" {
		return nil, err
	}
	c := &tls.Config{ServerName: cmp.Or(uri.ServerName, uri.Host), MinVersion: tls.VersionTLS12}
	if uri.CACertFile != "" {
		text, err := os.ReadFile(uri.CACertFile)
		if err != nil {
			return nil, fmt.Errorf("%w: cacertfile: %w", errCertificates, err)
		}
		c.RootCAs = x509.NewCertPool()
		if !c.RootCAs.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("%w: cacertfile has no certificate in PEM", errCertificates)
		}
	}
	if uri.CertFile != "" {
		pair, err := tls.LoadX509KeyPair(uri.CertFile, uri.KeyFile)
		if err != nil {
			return nil, fmt.Errorf("%w: certfile and keyfile: %w", errCertificates, err)
		}
		c.Certificates = []tls.Certificate{pair}
	}
	return c, nil
}

var errCertificates = errors.New("reading the certificates")

// withoutTLS is the URL for the client library, to which TLS is a socket like any other.
func (a Address) withoutTLS() string {
	if scheme, rest, found := strings.Cut(a.url, ":"); found && strings.EqualFold(scheme, "amqps") {
		return "amqp:" + rest
	}
	return a.url
}

// hostPort is where to connect to.
func (a Address) hostPort() string {
	uri, err := amqp.ParseURI(a.url)
	if err != nil {
		return ""
	}
	return net.JoinHostPort(uri.Host, strconv.Itoa(uri.Port))
}

// GoString is String, so that no verb of fmt prints a password.
func (a Address) GoString() string { return a.String() }

// timeout is how long a connection may take to be made: what the URL says, or else own.
func (a Address) timeout(own time.Duration) time.Duration {
	if uri, err := amqp.ParseURI(a.url); err == nil && uri.ConnectionTimeout > 0 {
		return time.Duration(uri.ConnectionTimeout) * time.Millisecond
	}
	return own
}

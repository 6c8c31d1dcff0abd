package rabbitmq_test

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
	"log/slog"
	"math/big"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/publish/rabbitmq"
)

// TestAddressRotates under load: a new address takes over where it works, and no message notices.
func TestAddressRotates(t *testing.T) {
	w := newWorld(t)
	x := w.exchange("topic")
	q := w.queue(x, "key")
	old, fresh := w.user(".*"), w.user(".*")
	var now atomic.Pointer[rabbitmq.Address]
	set := func(a rabbitmq.Address) { now.Store(&a) }
	set(w.address(old, password))
	p := rabbitmq.New(rabbitmq.Address{}, rabbitmq.WithCurrentAddress(func() rabbitmq.Address { return *now.Load() }))
	defer p.Close()
	connected := func(user string) bool { return strings.Contains(w.Control("list_connections", "user"), user) }
	l := startLoad(t, p, 20, to(x, "key"))
	l.flows(t, 100)
	require.True(t, connected(old))

	set(w.address(fresh, "wrong"))
	l.flows(t, 300)
	require.True(t, connected(old), "the old address stays, where the new one does not work")
	rabbitmq.TryRotationAgain(p)
	set(w.address(fresh, password))
	eventually(t, func() bool {
		rabbitmq.TryRotationAgain(p)
		return connected(fresh) && !connected(old)
	}, "it takes over")
	l.flows(t, 100)
	l.end()
	require.Empty(t, l.failed)
	l.judge(t, w, q)
}

// TestNewAddressDoesNotWork: no message fails, and the log says why, once for each reason.
func TestNewAddressDoesNotWork(t *testing.T) {
	w := newWorld(t)
	x := w.exchange("topic")
	w.queue(x, "key")
	user := w.user(".*")
	var now atomic.Pointer[rabbitmq.Address]
	set := func(a rabbitmq.Address) { now.Store(&a) }
	works := w.address("guest", "guest")
	set(works)
	p := rabbitmq.New(rabbitmq.Address{}, rabbitmq.WithCurrentAddress(func() rabbitmq.Address { return *now.Load() }))
	defer p.Close()
	var said lines
	p.WarnTo(slog.New(slog.NewTextHandler(&said, nil)))
	publish := func() {
		_, err := p.Publish(t.Context(), message(to(x, "key")))
		require.NoError(t, err)
	}
	warns := func(times int, of string) {
		t.Helper()
		eventually(t, func() bool {
			rabbitmq.TryRotationAgain(p)
			publish()
			return strings.Count(said.String(), of) == times
		}, "the log says why")
	}
	publish()
	authority, certificate, key := certify(t)
	host := terminate(t, authority, certificate, key, w.Address)
	wrong := w.address(user, "wrong-"+password)
	noCertificate, err := rabbitmq.ParseAddress("amqps://guest:guest@" + host + "/?cacertfile=" + authority)
	require.NoError(t, err)
	set(wrong)
	warns(1, "check user name and password")
	set(noCertificate)
	warns(1, "certificate required")
	tried := rabbitmq.Tries(p)
	eventually(t, func() bool {
		rabbitmq.TryRotationAgain(p)
		publish()
		return rabbitmq.Tries(p) > tried+3
	}, "it is tried again and again")
	set(works)
	publish()
	set(noCertificate)
	warns(2, "certificate required")
	require.Equal(t, 3, strings.Count(said.String(), "level=WARN"))
	require.NotContains(t, said.String(), password)
	require.NotContains(t, said.String(), "guest")
}

// lines is a log that a test reads while it is written.
type lines struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.String()
}

// TestUnsentMessagesMoveToTheNewConnection, however long the old one waits for its confirms.
func TestUnsentMessagesMoveToTheNewConnection(t *testing.T) {
	w := newWorld(t)
	x := w.exchange("topic")
	q := w.queue(x, "key")
	var now atomic.Pointer[rabbitmq.Address]
	set := func(a rabbitmq.Address) { now.Store(&a) }
	set(w.address("guest", "guest"))
	p := rabbitmq.New(rabbitmq.Address{}, rabbitmq.WithTimeout(30*time.Second),
		rabbitmq.WithCurrentAddress(func() rabbitmq.Address { return *now.Load() }))
	defer p.Close()
	_, err := p.Publish(t.Context(), message(to(x, "key")))
	require.NoError(t, err)

	const outstanding, waiting = 500, 100
	w.relay.Delay(x, 10*time.Minute)
	var delivered atomic.Int64
	var work sync.WaitGroup
	for range outstanding + waiting {
		work.Go(func() {
			if _, err := p.Publish(t.Context(), message(to(x, "key"))); err == nil {
				delivered.Add(1)
			}
		})
	}
	eventually(t, func() bool { return w.relay.Unanswered() == outstanding }, "the window is full")
	set(w.address(w.user(".*"), password))
	eventually(t, func() bool {
		_, err := p.Publish(t.Context(), message(to("", q))) // beside the window
		require.NoError(t, err)
		return w.relay.Unanswered() == outstanding+waiting
	}, "those that waited are sent on the new connection, while the old one waits")
	began := time.Now()
	p.Close()
	work.Wait()
	require.Less(t, time.Since(began), 20*time.Second, "Close waits no longer than its grace for the old connection")
	require.Zero(t, delivered.Load())
}

// TestTLS: amqps wants a certificate that an authority of the URL, or of the system, has signed,
// and can bring its own.
func TestTLS(t *testing.T) {
	w := newWorld(t)
	x := w.exchange("topic")
	q := w.queue(x, "key")
	authority, certificate, key := certify(t)
	host := terminate(t, authority, certificate, key, w.Address)
	publish := func(query string) error {
		a, err := rabbitmq.ParseAddress("amqps://guest:guest@" + host + "/?" + query)
		require.NoError(t, err)
		p := rabbitmq.New(a, rabbitmq.WithTimeout(30*time.Second))
		defer p.Close()
		_, err = p.Publish(t.Context(), message(to(x, "key")))
		return err
	}
	files := url.Values{"cacertfile": {authority}, "certfile": {certificate}, "keyfile": {key}}
	require.NoError(t, publish(files.Encode()))
	assert.Len(t, w.deliveries(q), 1)
	for query, says := range map[string]string{
		"":                        "unknown authority",
		"cacertfile=" + authority: "certificate required",
		files.Encode() + "&server_name_indication=other.example.com": "other.example.com",
	} {
		is(t, outflow.ClassUnavailable, publish(query), says, "nothing was sent; check the certificates: cacertfile")
	}
	assert.Empty(t, w.deliveries(q))
}

// TestWrongPasswordBehindTLS is one there, too.
func TestWrongPasswordBehindTLS(t *testing.T) {
	w := newWorld(t)
	authority, certificate, key := certify(t)
	files := url.Values{"cacertfile": {authority}, "certfile": {certificate}, "keyfile": {key}}
	a, err := rabbitmq.ParseAddress("amqps://guest:" + password + "@" +
		terminate(t, authority, certificate, key, w.Address) + "/?" + files.Encode())
	require.NoError(t, err)
	p := rabbitmq.New(a, rabbitmq.WithTimeout(30*time.Second))
	defer p.Close()
	_, err = p.Publish(t.Context(), message(to("orders", "paid")))
	is(t, outflow.ClassUnavailable, err, "check user name and password in AMQP_URL")
}

// TestCertificatesThatAreGone since the address was read.
func TestCertificatesThatAreGone(t *testing.T) {
	authority, certificate, key := certify(t)
	other := filepath.Join(t.TempDir(), "authority.pem")
	text, err := os.ReadFile(authority)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(other, text, 0o600))
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	defer listener.Close()
	files := url.Values{"cacertfile": {other}, "certfile": {certificate}, "keyfile": {key}}
	a, err := rabbitmq.ParseAddress("amqps://" + listener.Addr().String() + "/?" + files.Encode())
	require.NoError(t, err)
	p := rabbitmq.New(a)
	defer p.Close()
	fails := func(says string) {
		t.Helper()
		_, err := p.Publish(t.Context(), message(to("orders", "paid")))
		is(t, outflow.ClassUnavailable, err, says, "check the certificates: cacertfile")
	}
	require.NoError(t, os.Remove(key))
	fails("certfile and keyfile: ")
	require.NoError(t, os.WriteFile(other, []byte("nothing"), 0o600))
	fails("cacertfile has no certificate in PEM")
	require.NoError(t, os.Remove(other))
	fails("cacertfile: ")
}

// certify writes a certificate that is its own authority, for the loopback address.
func certify(t *testing.T) (authority, certificate, key string) {
	t.Helper()
	private, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "a broker"},
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &private.PublicKey, private)
	require.NoError(t, err)
	secret, err := x509.MarshalPKCS8PrivateKey(private)
	require.NoError(t, err)
	write := func(name, kind string, content []byte) string {
		file := filepath.Join(t.TempDir(), name)
		require.NoError(t, os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: content}), 0o600))
		return file
	}
	certificate = write("certificate.pem", "CERTIFICATE", der)
	return certificate, certificate, write("key.pem", "PRIVATE KEY", secret)
}

// terminate ends TLS before a broker, and wants a certificate of the client's.
func terminate(t *testing.T, authority, certificate, key, broker string) (address string) {
	t.Helper()
	pair, err := tls.LoadX509KeyPair(certificate, key)
	require.NoError(t, err)
	text, err := os.ReadFile(authority)
	require.NoError(t, err)
	clients := x509.NewCertPool()
	require.True(t, clients.AppendCertsFromPEM(text))
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{pair},
		ClientCAs: clients, ClientAuth: tls.RequireAndVerifyClientCert})
	require.NoError(t, err)
	var work sync.WaitGroup
	work.Go(func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			work.Go(func() {
				defer client.Close()
				server, err := net.Dial("tcp", broker)
				if err != nil {
					return
				}
				defer server.Close()
				work.Go(func() { _, _ = io.Copy(server, client); _ = server.Close() })
				_, _ = io.Copy(client, server)
			})
		}
	})
	t.Cleanup(func() { _ = listener.Close(); work.Wait() })
	return listener.Addr().String()
}

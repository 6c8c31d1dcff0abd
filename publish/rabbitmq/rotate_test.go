package rabbitmq_test

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/pem"
	"io"
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
		p := rabbitmq.New(a, rabbitmq.WithTimeout(3*time.Second))
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
	bytes, err := x509.MarshalPKCS8PrivateKey(private)
	require.NoError(t, err)
	write := func(name, kind string, bytes []byte) string {
		file := filepath.Join(t.TempDir(), name)
		require.NoError(t, os.WriteFile(file, pem.EncodeToMemory(&pem.Block{Type: kind, Bytes: bytes}), 0o600))
		return file
	}
	certificate = write("certificate.pem", "CERTIFICATE", der)
	return certificate, certificate, write("key.pem", "PRIVATE KEY", bytes)
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

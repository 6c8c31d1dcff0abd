package webhook_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/base64"
	"encoding/binary"
	"io"
	"log"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/publish/webhook"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const (
	// name is the host of most tests. Only their own resolver knows it.
	name   = "hooks.example.com"
	marker = "a-secret-of-the-payload"
)

var (
	loopback = netip.MustParseAddr("127.0.0.1")
	// Texts that no error may show.
	secretText, oldText = newSecret(1), newSecret(2)
)

func newSecret(fill byte) string {
	return "whsec_" + base64.StdEncoding.EncodeToString(bytes.Repeat([]byte{fill, 0xfe, 7}, 10))
}

func secrets(t testing.TB, texts ...string) func(string) []webhook.Secret {
	parsed, err := webhook.ParseSecrets(strings.Join(texts, " "))
	require.NoError(t, err)
	return webhook.Secrets{Default: parsed}.For
}

func hosts(t testing.TB, list string) webhook.Hosts {
	h, err := webhook.ParseHosts(list)
	require.NoError(t, err)
	return h
}

// authority is a certificate authority of one test.
type authority struct {
	pool        *x509.CertPool
	certificate *x509.Certificate
	key         *ecdsa.PrivateKey
}

func newAuthority(t testing.TB) *authority {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "test authority"}, IsCA: true,
		BasicConstraintsValid: true,
		NotBefore:             time.Now().Add(-time.Hour), NotAfter: time.Now().Add(time.Hour),
		KeyUsage: x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	certificate, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	a := &authority{pool: x509.NewCertPool(), certificate: certificate, key: key}
	a.pool.AddCert(certificate)
	return a
}

// config returns a server's settings with a certificate for host.
func (a *authority) config(t testing.TB, host string, until time.Time) *tls.Config {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(2), NotBefore: time.Now().Add(-2 * time.Hour),
		NotAfter: until}
	if ip := net.ParseIP(host); ip != nil {
		template.IPAddresses = []net.IP{ip}
	} else {
		template.DNSNames = []string{host}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, a.certificate, &key.PublicKey, a.key)
	require.NoError(t, err)
	return &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
}

// listener is a receiver at the level of connections.
type listener struct {
	net.Listener
	accepted atomic.Int64
	wg       sync.WaitGroup
}

func (l *listener) port() string {
	_, port, _ := net.SplitHostPort(l.Addr().String())
	return port
}

// listen serves each connection with serve, in plain TCP where config is nil.
func listen(t *testing.T, config *tls.Config, serve func(net.Conn)) *listener {
	t.Helper()
	inner, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	l := &listener{Listener: inner}
	var mu sync.Mutex
	var open []net.Conn
	l.wg.Go(func() {
		for {
			c, err := inner.Accept()
			if err != nil {
				return
			}
			l.accepted.Add(1)
			if config != nil {
				c = tls.Server(c, config)
			}
			mu.Lock()
			open = append(open, c)
			mu.Unlock()
			l.wg.Go(func() {
				defer c.Close()
				serve(c)
			})
		}
	})
	t.Cleanup(func() {
		inner.Close()
		mu.Lock()
		for _, c := range open {
			c.Close()
		}
		mu.Unlock()
		l.wg.Wait()
	})
	return l
}

// serveHTTP serves one handler over TLS for name.
func serveHTTP(t *testing.T, a *authority, handler http.HandlerFunc) (port string) {
	t.Helper()
	s := httptest.NewUnstartedServer(handler)
	s.TLS = a.config(t, name, time.Now().Add(time.Hour))
	s.Config.ErrorLog = log.New(io.Discard, "", 0)
	s.StartTLS()
	t.Cleanup(s.Close)
	_, port, _ = net.SplitHostPort(s.Listener.Addr().String())
	return port
}

// resolver answers each question for an A record with the next address of a list, and then always
// with the last. It counts the questions.
type resolver struct {
	net.Resolver
	asked atomic.Int64
}

func resolve(t *testing.T, answers ...string) *resolver {
	t.Helper()
	server, err := net.ListenPacket("udp", "127.0.0.1:0")
	require.NoError(t, err)
	r := &resolver{}
	var wg sync.WaitGroup
	wg.Go(func() {
		packet := make([]byte, 1500)
		for {
			n, from, err := server.ReadFrom(packet)
			if err != nil {
				return
			}
			address := ""
			if asksFor(packet[:n]) == 1 { // an A record
				address = answers[min(int(r.asked.Add(1)), len(answers))-1]
			}
			_, _ = server.WriteTo(reply(packet[:n], address), from)
		}
	})
	t.Cleanup(func() { server.Close(); wg.Wait() })
	r.PreferGo = true
	r.Dial = func(ctx context.Context, _, _ string) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "udp", server.LocalAddr().String())
	}
	return r
}

// endOfQuestion is where the one question of a DNS packet (RFC 1035) ends.
func endOfQuestion(query []byte) int {
	at := 12
	for query[at] != 0 {
		at += 1 + int(query[at])
	}
	return at + 5
}

func asksFor(query []byte) uint16 {
	end := endOfQuestion(query)
	return binary.BigEndian.Uint16(query[end-4:])
}

func reply(query []byte, address string) []byte {
	answer := append([]byte(nil), query[:endOfQuestion(query)]...)
	answer[2], answer[3] = 0x81, 0x80
	clear(answer[6:12])
	if address != "" {
		answer[7] = 1
		answer = append(answer, 0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4)
		answer = append(answer, netip.MustParseAddr(address).AsSlice()...)
	}
	return answer
}

// publisher returns a publisher that resolves name to 127.0.0.1, and treats that as a public
// address.
func publisher(t *testing.T, a *authority, o webhook.Options, answers ...string) *webhook.Publisher {
	t.Helper()
	if len(answers) == 0 {
		answers = []string{"127.0.0.1"}
	}
	o.Hosts = hosts(t, name+", 127.0.0.1, 10.0.0.1, 169.254.169.254")
	if o.Secrets == nil {
		o.Secrets = secrets(t, secretText)
	}
	if a != nil {
		o.RootCAs = a.pool
	}
	p := webhook.NewResolving(o, &resolve(t, answers...).Resolver, loopback)
	t.Cleanup(p.Close)
	return p
}

func message(port string) outflow.Message {
	return outflow.Message{
		ID: uuid.Must(uuid.NewV7()), Destination: "https://" + name + ":" + port + "/orders?token=hunter2",
		Type: "user-registered", Payload: []byte(`{"note":"` + marker + `"}`),
	}
}

// failed checks that an error shows none of them.
func failed(t *testing.T, err error, want outflow.Class, says string) {
	t.Helper()
	require.Error(t, err)
	require.Equal(t, want, outflow.ClassOf(err), "%v", err)
	require.ErrorContains(t, err, says)
	for _, hidden := range []string{marker, "hunter2", "token", "whsec", "v1,",
		strings.TrimPrefix(secretText, "whsec_")} {
		require.NotContains(t, err.Error(), hidden)
	}
}

// listenPlain serves plain http on this machine.
func listenPlain(t *testing.T, server *http.Server) (port string) {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(l)
	}()
	t.Cleanup(func() { server.Close(); <-done })
	_, port, _ = net.SplitHostPort(l.Addr().String())
	return port
}

package service

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"fmt"
	"io"
	"math/big"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/client"

	"github.com/outflowhq/outflow/internal/config"
	"github.com/outflowhq/outflow/internal/teststack"
)

// A password that changes in PGPASSFILE, and a user with it in PGSERVICEFILE, as a
// broker of short-lived roles does.
func TestDatabasePasswordsRotate(t *testing.T) {
	var right atomic.Value
	right.Store("old")
	address := askForPassword(t, func() string { return right.Load().(string) })
	host, port, err := net.SplitHostPort(address)
	require.NoError(t, err)
	folder := t.TempDir()
	passwords, services := filepath.Join(folder, "passwords"), filepath.Join(folder, "services")
	t.Setenv("PGPASSFILE", passwords)
	t.Setenv("PGSERVICEFILE", services)
	write := func(file, text string) { require.NoError(t, os.WriteFile(file, []byte(text), 0o600)) }
	for url, rotate := range map[string]func(password string){
		"postgres://app@" + address + "/shop?sslmode=disable": func(p string) { write(passwords, "*:*:*:app:"+p+"\n") },
		"service=shop sslmode=disable": func(p string) {
			write(services, fmt.Sprintf("[shop]\nhost=%s\nport=%s\nuser=app-%s\npassword=%s\ndbname=shop\n", host, port,
				p, p))
		},
	} {
		right.Store("old")
		rotate("old")
		c, err := config.Database(func(name string) string { return map[string]string{"DATABASE_URL": url}[name] })
		require.NoError(t, err)
		pool, err := pgxpool.NewWithConfig(t.Context(), c)
		require.NoError(t, err)
		defer pool.Close()
		require.NoError(t, pool.Ping(t.Context()))
		right.Store("new")
		require.NoError(t, pool.Ping(t.Context()), "a connection that is open stays so")
		pool.Reset()
		require.ErrorContains(t, pool.Ping(t.Context()), "SQLSTATE 28P01", "nothing was known of a new one")
		rotate("new")
		require.NoError(t, pool.Ping(t.Context()))
	}
}

// authority issues the certificates of a test.
type authority struct {
	*testing.T
	cert *x509.Certificate
	key  *ecdsa.PrivateKey
}

func newAuthority(t *testing.T) authority {
	t.Helper()
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(t, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), NotAfter: time.Now().Add(time.Hour),
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageCertSign}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	require.NoError(t, err)
	cert, err := x509.ParseCertificate(der)
	require.NoError(t, err)
	return authority{t, cert, key}
}

// issue returns a certificate for this host and its key, in PEM.
func (a authority) issue() (cert, key []byte) {
	a.Helper()
	own, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	require.NoError(a, err)
	template := &x509.Certificate{SerialNumber: big.NewInt(time.Now().UnixNano()), NotAfter: time.Now().Add(time.Hour),
		IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)}}
	der, err := x509.CreateCertificate(rand.Reader, template, a.cert, &own.PublicKey, a.key)
	require.NoError(a, err)
	keyDER, err := x509.MarshalECPrivateKey(own)
	require.NoError(a, err)
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE",
		Bytes: der}), pem.EncodeToMemory(&pem.Block{Type: "EC PRIVATE KEY", Bytes: keyDER})
}

func (a authority) pem() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: a.cert.Raw})
}

// serverConfig trusts clients of this authority alone, and has a certificate of it.
func (a authority) serverConfig() *tls.Config {
	a.Helper()
	pair, err := tls.X509KeyPair(a.issue())
	require.NoError(a, err)
	clients := x509.NewCertPool()
	clients.AddCert(a.cert)
	return &tls.Config{Certificates: []tls.Certificate{pair}, ClientCAs: clients,
		ClientAuth: tls.RequireAndVerifyClientCert, NextProtos: []string{"h2"}}
}

// TestTemporalCertificatesRotate: a real Temporal behind TLS, whose authority changes
// for both sides. The connections of the old one end.
func TestTemporalCertificatesRotate(t *testing.T) {
	t.Parallel()
	target := teststack.Temporal(t)
	first, second := newAuthority(t), newAuthority(t)
	var now atomic.Pointer[tls.Config]
	now.Store(first.serverConfig())
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{
		GetConfigForClient: func(*tls.ClientHelloInfo) (*tls.Config, error) { return now.Load(), nil },
		GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			return &now.Load().Certificates[0],
				nil
		},
	})
	require.NoError(t, err)
	defer listener.Close()
	open := make(chan net.Conn, 1000)
	go func() {
		for {
			from, err := listener.Accept()
			if err != nil {
				return
			}
			to, err := net.Dial("tcp", target)
			if err != nil {
				_ = from.Close()
				continue
			}
			open <- from
			go func() { _, _ = io.Copy(to, from); _ = to.Close() }()
			go func() { _, _ = io.Copy(from, to); _ = from.Close() }()
		}
	}()

	folder := t.TempDir()
	file := func(name string) string { return filepath.Join(folder, name) }
	write := func(a authority) {
		cert, key := a.issue()
		for name, text := range map[string][]byte{"cert": cert, "key": key, "ca": a.pem()} {
			require.NoError(t, os.WriteFile(file(name), text, 0o600))
		}
	}
	write(first)
	settings := map[string]string{"TEMPORAL_ADDRESS": listener.Addr().String(),
		"TEMPORAL_TLS_CLIENT_CERT_PATH": file("cert"),
		"TEMPORAL_TLS_CLIENT_KEY_PATH":  file("key"), "TEMPORAL_TLS_SERVER_CA_CERT_PATH": file("ca")}
	options, err := config.Temporal(func(name string) string { return settings[name] })
	require.NoError(t, err)
	c, err := client.DialContext(t.Context(), options)
	require.NoError(t, err)
	defer c.Close()
	healthy := func() error {
		_, err := c.CheckHealth(t.Context(), &client.CheckHealthRequest{})
		return err
	}
	require.NoError(t, healthy())

	now.Store(second.serverConfig())
	for len(open) > 0 {
		_ = (<-open).Close()
	}
	require.Eventually(t, func() bool {
		err := healthy()
		return err != nil &&
			strings.Contains(err.Error(), "x509: ")
	}, time.Minute, 50*time.Millisecond)
	require.NoError(t, os.WriteFile(file("key"), []byte("half a key"), 0o600))
	require.Error(t, healthy())
	write(second)
	require.Eventually(t, func() bool { return healthy() == nil }, time.Minute, 50*time.Millisecond)
}

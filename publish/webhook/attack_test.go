package webhook_test

import (
	"bufio"
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/publish/webhook"
)

// hour is longer than any test waits.
func hour() time.Time { return time.Now().Add(time.Hour) }

// readRequest reads one request, and nothing behind it.
func readRequest(c net.Conn) bool {
	req, err := http.ReadRequest(bufio.NewReader(c))
	if err != nil {
		return false
	}
	_, err = io.Copy(io.Discard, req.Body)
	return err == nil
}

// TestHostileReceivers: whatever a receiver does, a call ends within its time,
// with a class and a text, and nothing is sent twice.
func TestHostileReceivers(t *testing.T) {
	const timeout = 600 * time.Millisecond
	for what, c := range map[string]struct {
		serve func(net.Conn)
		says  string
		waits bool // until the timeout
	}{
		"hangs without an answer": {func(c net.Conn) { readRequest(c); _, _ = io.Copy(io.Discard, c) },
			"no answer in time (it may have been received", true},
		"never reads": {func(c net.Conn) {
			if c.(*tls.Conn).Handshake() == nil {
				time.Sleep(2 * timeout)
			}
		}, "no answer in time (it may have been received", true},
		"closes without an answer": {func(c net.Conn) { readRequest(c) },
			"the connection was closed without an answer (it may have been received", false},
		"resets": {func(c net.Conn) {
			readRequest(c)
			_ = c.(*tls.Conn).NetConn().(*net.TCPConn).SetLinger(0)
			_ = c.(*tls.Conn).NetConn().Close()
		}, "it may have been received", false},
		"answers a letter at a time": {func(c net.Conn) {
			readRequest(c)
			for _, err := io.WriteString(c, "HTTP/1.1 200 OK\r\nX-Slow: "); err == nil; _, err = io.WriteString(c,
				"a") {
				time.Sleep(20 * time.Millisecond)
			}
		}, "no answer in time (it may have been received", true},
		"sends interim answers without end": {func(c net.Conn) {
			readRequest(c)
			for _, err := io.WriteString(c, ""); err == nil; _, err = io.WriteString(c,
				"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n") {
			}
		}, "(it may have been received", false},
		"sends headers without end": {func(c net.Conn) {
			readRequest(c)
			_, err := io.WriteString(c, "HTTP/1.1 200 OK\r\n")
			for ; err == nil; _, err = io.WriteString(c, "X-Filler: "+strings.Repeat("a", 1000)+"\r\n") {
			}
		}, "the answer has more than 65536 bytes of headers (it may have been received", false},
		"sends too many headers": {func(c net.Conn) {
			readRequest(c)
			_, _ = io.WriteString(c, "HTTP/1.1 200 OK\r\n"+strings.Repeat("X-Filler: "+strings.Repeat("a", 1000)+"\r\n",
				100)+"\r\n")
		}, "the answer has more than 65536 bytes of headers (it may have been received", false},
		"speaks no HTTP, and quotes": {func(c net.Conn) {
			readRequest(c)
			_, _ = io.WriteString(c, "you said "+marker+" with "+secretText+"\r\n\r\n")
		}, "the answer is not HTTP (it may have been received", false},
		"has a status that quotes": {func(c net.Conn) {
			readRequest(c)
			_, _ = io.WriteString(c, "HTTP/1.1 "+marker+" OK\r\n\r\n")
		}, "the answer is not HTTP (it may have been received", false},
	} {
		t.Run(what, func(t *testing.T) {
			t.Parallel()
			a := newAuthority(t)
			l := listen(t, a.config(t, name, hour()), c.serve)
			p := publisher(t, a, webhook.Options{Timeout: timeout})
			start := time.Now()
			_, err := p.Publish(t.Context(), message(l.port()))
			failed(t, err, outflow.ClassUnavailable, c.says)
			assert.ErrorContains(t, err, "posting to https://"+name+":"+l.port()+"/orders: ")
			assert.NotErrorIs(t, err, outflow.ErrNotAttempted)
			if c.waits {
				assert.GreaterOrEqual(t, time.Since(start), timeout-50*time.Millisecond)
			}
			assert.EqualValues(t, 1, l.accepted.Load())
		})
	}
}

// TestAStatusCountsHoweverTheAnswerGoesOn: 200 is an acknowledgement, and neither
// memory nor time is spent on what follows it.
func TestAStatusCountsHoweverTheAnswerGoesOn(t *testing.T) {
	var sent atomic.Int64
	gone := make(chan struct{}, 2)
	for what, body := range map[string]func(c net.Conn){
		"a gigabyte": func(c net.Conn) {
			block := make([]byte, 64<<10)
			for left := 1 << 30; left > 0; left -= len(block) {
				n, err := c.Write(block)
				sent.Add(int64(n))
				if err != nil {
					return
				}
			}
		},
		"a letter at a time": func(c net.Conn) {
			for _, err := io.WriteString(c, "a"); err == nil; _, err = io.WriteString(c, "a") {
				time.Sleep(20 * time.Millisecond)
			}
		},
	} {
		t.Run(what, func(t *testing.T) {
			a := newAuthority(t)
			l := listen(t, a.config(t, name, hour()), func(c net.Conn) {
				readRequest(c)
				if _, err := io.WriteString(c,
					"HTTP/1.1 200 OK\r\nX-Request-Id: r-1\r\nContent-Length: 1073741824\r\n\r\n"); err == nil {
					body(c)
				}
				gone <- struct{}{}
			})
			p := publisher(t, a, webhook.Options{})
			start := time.Now()
			id, err := p.Publish(t.Context(), message(l.port()))
			require.NoError(t, err)
			assert.Equal(t, "r-1", id)
			assert.Less(t, time.Since(start), webhook.DefaultTimeout)
			<-gone // the connection was given up
			assert.Less(t, sent.Load(), int64(64<<20), "what the network's buffers hold, far from a gigabyte")
		})
	}
}

// TestLongAnswers: 64 KiB are read, so that the connection can be used again; more
// than that, and it is closed.
func TestLongAnswers(t *testing.T) {
	a := newAuthority(t)
	for size, connections := range map[int]int64{0: 1, 64 << 10: 1, 64<<10 + 1: 2, 1 << 20: 2} {
		l := listen(t, a.config(t, name, hour()), func(c net.Conn) {
			for readRequest(c) {
				_, _ = fmt.Fprintf(c, "HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s", size,
					strings.Repeat("a", size))
			}
		})
		p := publisher(t, a, webhook.Options{})
		for range 2 {
			_, err := p.Publish(t.Context(), message(l.port()))
			require.NoError(t, err)
		}
		assert.Equal(t, connections, l.accepted.Load(), "%d bytes", size)
	}
}

// TestNothingIsRepeatedSilently: net/http itself repeats a request on a connection
// that died, where a header such as Idempotency-Key says that it may.
func TestNothingIsRepeatedSilently(t *testing.T) {
	a := newAuthority(t)
	var requests atomic.Int64
	l := listen(t, a.config(t, name, hour()), func(c net.Conn) {
		for readRequest(c) {
			if requests.Add(1) > 1 {
				return // without an answer
			}
			_, _ = io.WriteString(c, "HTTP/1.1 204 No Content\r\n\r\n")
		}
	})
	p := publisher(t, a, webhook.Options{})
	m := message(l.port())
	m.Headers = map[string]string{"Idempotency-Key": "k"}
	_, err := p.Publish(t.Context(), m)
	require.NoError(t, err)
	_, err = p.Publish(t.Context(), m)
	failed(t, err, outflow.ClassUnavailable, "it may have been received")
	assert.EqualValues(t, 2, requests.Load())
	assert.EqualValues(t, 1, l.accepted.Load(), "the second went over the same connection")
}

// TestRedirectsAreNotFollowed: neither to a metadata service nor to another host.
func TestRedirectsAreNotFollowed(t *testing.T) {
	a := newAuthority(t)
	var stolen atomic.Int64
	elsewhere := serveHTTP(t, a, func(http.ResponseWriter, *http.Request) { stolen.Add(1) })
	for _, status := range []int{300, 301, 302, 303, 307, 308} {
		for _, location := range []string{"http://169.254.169.254/latest/meta-data/",
			"https://" + name + ":" + elsewhere + "/", "/again"} {
			var asked atomic.Int64
			port := serveHTTP(t, a, func(w http.ResponseWriter, _ *http.Request) {
				asked.Add(1)
				w.Header().Set("Location", location)
				w.WriteHeader(status)
			})
			answer, err := publisher(t, a, webhook.Options{}).Send(t.Context(), message(port).Destination, "id", "",
				nil, nil)
			failed(t, err, outflow.ClassRetryable, "redirects are never followed")
			assert.NotContains(t, err.Error(), "169.254")
			assert.Equal(t, status, answer.Status)
			assert.EqualValues(t, 1, asked.Load())
		}
	}
	assert.Zero(t, stolen.Load())
}

// TestPrivateAddressesAreRefused, by name and by number, before a connection is made.
func TestPrivateAddressesAreRefused(t *testing.T) {
	a := newAuthority(t)
	l := listen(t, a.config(t, name, hour()), func(net.Conn) {})
	o := webhook.Options{Hosts: hosts(t, name+", localhost, 127.0.0.1, 169.254.169.254, ::ffff:127.0.0.1"),
		Secrets: secrets(t, secretText), RootCAs: a.pool}
	for host, why := range map[string]string{
		"127.0.0.1": "allowed are public addresses", "localhost": "allowed are public addresses",
		"[::ffff:127.0.0.1]": "allowed are public addresses",
		"169.254.169.254":    "which are always refused",
	} {
		p := webhook.New(o)
		_, err := p.Send(t.Context(), "https://"+host+":"+l.port()+"/", "id", "", nil, nil)
		failed(t, err, outflow.ClassUnavailable, why)
		assert.ErrorContains(t, err, "(nothing was sent")
		p.Close()
	}
	for _, host := range []string{"2130706433", "0x7f.1",
		"256.1.1.1"} { // 127.0.0.1 for some resolvers, no name for others
		_, err := webhook.ParseHosts(host)
		require.ErrorContains(t, err, "is no host name")
		p := webhook.New(o)
		_, err = p.Publish(t.Context(), outflow.Message{ID: message("1").ID,
			Destination: "https://" + host + ":" + l.port() + "/"})
		failed(t, err, outflow.ClassPermanent, "wants https://host/path")
		p.Close()
	}
	for _, address := range []string{"10.0.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "127.0.0.2"} {
		_, err := publisher(t, a, webhook.Options{}, address).Publish(t.Context(), message(l.port()))
		failed(t, err, outflow.ClassUnavailable, "its address "+address+" is ")
	}
	// The setting for development is for names of this machine, not for names that resolve to it.
	o.InsecureLoopback = true
	p := webhook.NewResolving(o, &resolve(t, "127.0.0.1").Resolver, loopback.Next())
	t.Cleanup(p.Close)
	_, err := p.Publish(t.Context(), message(l.port()))
	failed(t, err, outflow.ClassUnavailable, "its address 127.0.0.1 is loopback")
	// And a name of this machine that leads elsewhere is not followed: it may be plain http.
	p = webhook.NewResolving(webhook.Options{Hosts: hosts(t, "shop.localhost"), Secrets: secrets(t, secretText),
		InsecureLoopback: true},
		&resolve(t, "192.0.2.1").Resolver, netip.MustParseAddr("192.0.2.1"))
	t.Cleanup(p.Close)
	for _, scheme := range []string{"http", "https"} {
		_, err = p.Send(t.Context(), scheme+"://shop.localhost:"+l.port()+"/", "id", "", nil, nil)
		failed(t, err, outflow.ClassUnavailable, "its address 192.0.2.1 is not loopback, as its name says")
	}
	assert.Zero(t, l.accepted.Load(), "no connection was made")
}

// TestRebinding: a name that was public a moment ago is checked again for the next connection.
func TestRebinding(t *testing.T) {
	a := newAuthority(t)
	var received atomic.Int64
	port := serveHTTP(t, a, func(w http.ResponseWriter, _ *http.Request) {
		received.Add(1)
		w.Header().Set("Connection", "close")
	})
	names := resolve(t, "127.0.0.1", "169.254.169.254")
	p := webhook.NewResolving(webhook.Options{Hosts: hosts(t, name), Secrets: secrets(t, secretText), RootCAs: a.pool},
		&names.Resolver, loopback)
	t.Cleanup(p.Close)
	_, err := p.Publish(t.Context(), message(port))
	require.NoError(t, err)
	_, err = p.Publish(t.Context(), message(port))
	failed(t, err, outflow.ClassUnavailable, "its address 169.254.169.254 is link-local")
	assert.EqualValues(t, 1, received.Load())
	assert.GreaterOrEqual(t, names.asked.Load(), int64(2))
}

// TestCertificates: TLS 1.2 at least, and a certificate of a known authority for
// this very name.
func TestCertificates(t *testing.T) {
	known, unknown := newAuthority(t), newAuthority(t)
	old := known.config(t, name, hour())
	old.MaxVersion = tls.VersionTLS11
	old.MinVersion = tls.VersionTLS10
	for what, c := range map[string]struct {
		config *tls.Config
		says   string
	}{
		"another name": {known.config(t, "other.example.com", hour()),
			"its certificate is not trusted: x509: certificate is valid for other.example.com, not " + name},
		"unknown authority": {unknown.config(t, name, hour()),
			"its certificate is not trusted: x509: certificate signed by unknown authority"},
		"expired": {known.config(t, name, time.Now().Add(-time.Hour)),
			"its certificate is not trusted: x509: certificate has expired"},
		"TLS 1.1": {old, "TLS 1.2 or later can't be agreed upon"},
		"no TLS":  {nil, "TLS 1.2 or later can't be agreed upon"},
	} {
		t.Run(what, func(t *testing.T) {
			var got atomic.Int64
			l := listen(t, c.config, func(conn net.Conn) {
				if c.config == nil {
					_, _ = io.WriteString(conn, "HTTP/1.1 400 Bad Request\r\n\r\n")
					_, _ = io.Copy(io.Discard, conn)
					return
				}
				if readRequest(conn) {
					got.Add(1)
				}
			})
			_, err := publisher(t, known, webhook.Options{}).Publish(t.Context(), message(l.port()))
			failed(t, err, outflow.ClassUnavailable, c.says)
			assert.ErrorContains(t, err, "nothing was sent")
			assert.Equal(t, what == "unknown authority",
				strings.Contains(err.Error(), "(SSL_CERT_FILE names authorities of your own; nothing was sent"))
			assert.False(t, outbox.WasAnswered(err), "it counts for the host")
			assert.Zero(t, got.Load())
		})
	}
	t.Run("a handshake that hangs", func(t *testing.T) {
		l := listen(t, nil, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) })
		_, err := publisher(t, known, webhook.Options{Timeout: 300 * time.Millisecond}).Publish(t.Context(),
			message(l.port()))
		failed(t, err, outflow.ClassUnavailable, "no connection in time (nothing was sent")
	})
}

// TestProxiesOfTheEnvironmentAreNotUsed: they would connect to addresses that are refused here.
func TestProxiesOfTheEnvironmentAreNotUsed(t *testing.T) {
	proxy := listen(t, nil, func(net.Conn) {})
	for _, setting := range []string{"HTTPS_PROXY", "https_proxy", "HTTP_PROXY", "ALL_PROXY"} {
		t.Setenv(setting, "http://"+proxy.Addr().String())
	}
	a := newAuthority(t)
	port := serveHTTP(t, a, func(http.ResponseWriter, *http.Request) {})
	_, err := publisher(t, a, webhook.Options{}).Publish(t.Context(), message(port))
	require.NoError(t, err)
	assert.Zero(t, proxy.accepted.Load())
}

// TestUnreachable: where nothing was sent, the text says so.
func TestUnreachable(t *testing.T) {
	closed := listen(t, nil, nil)
	closed.Close()
	_, err := publisher(t, nil, webhook.Options{}).Publish(t.Context(), message(closed.port()))
	failed(t, err, outflow.ClassUnavailable, "connection refused (nothing was sent")
	assert.False(t, outbox.WasAnswered(err), "it counts for the host")
	_, err = publisher(t, nil, webhook.Options{}, "").Publish(t.Context(), message("443"))
	failed(t, err, outflow.ClassUnavailable, "the host name does not resolve (nothing was sent")
	assert.False(t, outbox.WasAnswered(err), "it counts for the host")
}

// TestTheCallersTime: Publish waits for an answer, however long; Send ends with its caller.
func TestTheCallersTime(t *testing.T) {
	a := newAuthority(t)
	asked, answer := make(chan struct{}), make(chan struct{})
	port := serveHTTP(t, a, func(http.ResponseWriter, *http.Request) {
		asked <- struct{}{}
		<-answer
	})
	p := publisher(t, a, webhook.Options{})
	t.Run("Publish stays", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			<-asked
			cancel()
			answer <- struct{}{}
		}()
		_, err := p.Publish(ctx, message(port))
		require.NoError(t, err, "the message was on its way")
	})
	t.Run("Send leaves", func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		go func() {
			<-asked
			cancel()
		}()
		_, err := p.Send(ctx, message(port).Destination, "id", "", []byte(marker), nil)
		answer <- struct{}{}
		failed(t, err, outflow.ClassRetryable, "the caller left (it may have been received")
		assert.ErrorIs(t, err, context.Canceled)
		assert.NotErrorIs(t, err, outflow.ErrNotAttempted)
	})
	t.Run("the caller's deadline goes first", func(t *testing.T) {
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		go func() { <-asked }()
		start := time.Now()
		_, err := p.Publish(ctx, message(port))
		answer <- struct{}{}
		failed(t, err, outflow.ClassUnavailable, "no answer in time")
		assert.Less(t, time.Since(start), webhook.DefaultTimeout)
	})
}

// TestTimeoutEndsASend, however long its caller would wait.
func TestTimeoutEndsASend(t *testing.T) {
	a := newAuthority(t)
	port := serveHTTP(t, a, func(_ http.ResponseWriter, req *http.Request) {
		_, _ = io.Copy(io.Discard, req.Body) // only then the server sees that the sender left
		<-req.Context().Done()
		panic(http.ErrAbortHandler) // a return would be a 200, which may still be heard
	})
	p := publisher(t, a, webhook.Options{Timeout: 400 * time.Millisecond})
	long, cancel := context.WithTimeout(t.Context(), time.Hour)
	defer cancel()
	for _, ctx := range []context.Context{t.Context(), long} {
		_, err := p.Send(ctx, message(port).Destination, "id", "", []byte(marker), nil)
		failed(t, err, outflow.ClassUnavailable, "no answer in time")
		assert.False(t, outbox.WasCutShort(err))
		_, err = p.Publish(ctx, message(port))
		failed(t, err, outflow.ClassUnavailable, "no answer in time")
		assert.False(t, outbox.WasCutShort(err), "it had the publisher's whole timeout")
	}
}

// TestAReceiverThatAnswersAfterThreeSeconds is too slow for the fast path, and not for
// a durable attempt.
func TestAReceiverThatAnswersAfterThreeSeconds(t *testing.T) {
	t.Parallel()
	a := newAuthority(t)
	port := serveHTTP(t, a, func(_ http.ResponseWriter, req *http.Request) {
		select {
		case <-time.After(3 * time.Second):
		case <-req.Context().Done():
			panic(http.ErrAbortHandler)
		}
	})
	p := publisher(t, a, webhook.Options{})
	fast, cancel := context.WithTimeout(t.Context(), 4*time.Second)
	defer cancel()
	_, err := p.Publish(fast, message(port))
	failed(t, err, outflow.ClassUnavailable, "no answer in time")
	assert.True(t, outbox.WasCutShort(err), "it was about to answer")
	durable, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	_, err = p.Publish(durable, message(port))
	require.NoError(t, err)
}

// TestAConnectionThatIsNotMadeInTime is a failure, however little time there was.
func TestAConnectionThatIsNotMadeInTime(t *testing.T) {
	t.Parallel()
	port := listen(t, nil, func(c net.Conn) { _, _ = io.Copy(io.Discard, c) }).port() // no handshake
	p := publisher(t, newAuthority(t), webhook.Options{})
	fast, cancel := context.WithTimeout(t.Context(), 4*time.Second)
	defer cancel()
	_, err := p.Publish(fast, message(port))
	failed(t, err, outflow.ClassUnavailable, "no connection in time (nothing was sent")
	assert.False(t, outbox.WasCutShort(err))
}

// TestErrorsStayShort, whatever the address.
func TestErrorsStayShort(t *testing.T) {
	p := publisher(t, nil, webhook.Options{})
	long := "https://other.example.com/" + strings.Repeat("a", 1900) + "?token=hunter2"
	for _, destination := range []string{
		long, "https://ada:hunter2@" + name + "/", "https://" + name + "/#hunter2", "https://" + name +
			"/%zzhunter2", "https://?token=hunter2",
		"https://" + name + ":hunter2/", "https://[fe80::1%25hunter2/", "https://hunter2 .example.com/",
	} {
		_, err := p.Publish(t.Context(), outflow.Message{ID: message("1").ID, Destination: destination,
			Payload: []byte(marker)})
		want := outflow.ClassPermanent
		if destination == long { // nothing is wrong with it
			want = outflow.ClassUnavailable
		}
		failed(t, err, want, "")
		assert.Less(t, len(err.Error()), 600)
		_, err = p.Send(t.Context(), destination, "id", "", []byte(marker), nil)
		failed(t, err, want, "")
	}
	_, err := p.Send(t.Context(), "file:///etc/passwd", "id", "", nil, nil)
	failed(t, err, outflow.ClassPermanent, "wants https://host/path")
	for _, id := range []string{"", "a b", "a.b", "a\nb", fmt.Sprintf("%0201d", 0)} {
		_, err := p.Send(t.Context(), "https://"+name, id, "", nil, nil)
		failed(t, err, outflow.ClassPermanent, "the ID wants 1 to 200 letters")
	}
}

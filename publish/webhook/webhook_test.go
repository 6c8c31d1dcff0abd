package webhook_test

import (
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/publish/webhook"
)

// request is what a receiver got.
type request struct {
	*http.Request
	body []byte
}

// receive serves name and hands each request over.
func receive(t *testing.T, a *authority, answer http.HandlerFunc) (port string, requests <-chan request) {
	got := make(chan request, 10)
	return serveHTTP(t, a, func(w http.ResponseWriter, req *http.Request) {
		body, err := io.ReadAll(req.Body)
		assert.NoError(t, err)
		got <- request{req, body}
		answer(w, req)
	}), got
}

func ok(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(http.StatusOK) }

// TestWhatAReceiverGets is docs/webhooks.md's table.
func TestWhatAReceiverGets(t *testing.T) {
	a := newAuthority(t)
	port, requests := receive(t, a, ok)
	m := message(port)
	m.OrderingKey = "customer-42"
	m.Headers = map[string]string{
		"X-Tenant": "acme", "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01",
		"x.dotted": "1", "under_score": "2", "Authorization": "no", "Idempotency-Key": "no", "Host": "no",
		"webhook-id": "no", "X-Forwarded-For": "no", "emoji": "🦉",
	}
	_, err := publisher(t, a, webhook.Options{}).Publish(t.Context(), m)
	require.NoError(t, err)
	got := <-requests
	assert.Equal(t, "POST", got.Method)
	assert.Equal(t, "/orders?token=hunter2", got.URL.String())
	assert.Equal(t, name+":"+port, got.Host)
	assert.Equal(t, "HTTP/1.1", got.Proto)
	header := maps.Clone(got.Header)
	assert.InDelta(t, time.Now().Unix(), number(t, header.Get("webhook-timestamp")), 5)
	header.Del("webhook-timestamp")
	assert.Regexp(t, `^v1,[A-Za-z0-9+/]{43}=$`, header.Get("webhook-signature"))
	header.Del("webhook-signature")
	assert.Equal(t, http.Header{
		"Content-Type": {"application/json"}, "Content-Length": {fmt.Sprint(len(m.Payload))}, "User-Agent": {"Outflow"},
		"Webhook-Id": {m.ID.String()}, "Outflow-Type": {"user-registered"}, "Outflow-Ordering-Key": {"customer-42"},
		"X-Tenant": {"acme"}, "Traceparent": {m.Headers["traceparent"]},
		"Outflow-Headers": {`{"Authorization":"no","Host":"no","Idempotency-Key":"no","X-Forwarded-For":"no",` +
			`"emoji":"\ud83e\udd89","under_score":"2","webhook-id":"no","x.dotted":"1"}`},
	}, header)
	assert.Equal(t, m.Payload, got.body)
}

// TestNamesThatProxiesTrust: a message's header does not go out under a name that a proxy, a
// gateway or a service mesh sets for the services behind it.
func TestNamesThatProxiesTrust(t *testing.T) {
	a := newAuthority(t)
	port, requests := receive(t, a, ok)
	m := message(port)
	believed := []string{
		"Proxy", "Proxy-Authorization", "True-Client-IP", "Remote-User", "X-Forwarded", "X-Forwarded-Host",
		"X-ForwardedFor", "X-Envoy-External-Address", "X-Real-IP",
		"CF-Connecting-IP", "Fastly-Client-IP", "Fly-Client-IP", "X-Amz-Security-Token", "X-Amzn-Oidc-Identity",
		"X-Client-Cert", "Client-Cert", "X-SSL-Client-DN",
		"SSL-Client-Verify", "X-Authenticated-User", "X-Remote-Group", "X-WebAuth-User", "X-Original-URI",
		"X-HTTP-Method", "X-Cluster-Client-IP",
		"X-AppEngine-User-IP", "X-Goog-Authenticated-User-Email", "X-Azure-ClientIP", "X-Vercel-Forwarded-For",
		"X-MS-Client-Principal", "Cookie2", "Set-Cookie2",
		"X-Api-Key", "Api-Key", "Authorization", "X-Auth-Request-User", "X-Consumer-Username", "Impersonate-User",
		"l5d-client-id", "X-Middleware-Subrequest",
		"X-Accel-Redirect", "Front-End-Https", "CloudFront-Viewer-Address", "X-User-Id", "X-Client-IP", "Client-IP",
	}
	kept := []string{"X-Tenant", "tracestate", "baggage", "X-Correlation-Id", "X-Request-Id", "Flyer", "Fox",
		"Userland", "Priority"}
	for batch := range slices.Chunk(append(believed, kept...), 20) {
		m.Headers = map[string]string{}
		for _, name := range batch {
			m.Headers[name] = "value-of-the-producer"
		}
		_, err := publisher(t, a, webhook.Options{}).Publish(t.Context(), m)
		require.NoError(t, err)
		got := <-requests
		for _, name := range batch {
			if slices.Contains(kept, name) {
				assert.Equal(t, "value-of-the-producer", got.Header.Get(name), name)
			} else {
				assert.NotEqual(t, "value-of-the-producer", got.Header.Get(name), name)
				assert.Contains(t, got.Header.Get("outflow-headers"), `"`+name+`":"value-of-the-producer"`)
			}
		}
	}
}

// TestHeadersOfHosts: an operator's headers go with every request to their host, and
// no message has one of these names for itself.
func TestHeadersOfHosts(t *testing.T) {
	headers, err := webhook.ReadHeaders(strings.NewReader("# keys\n" + name + "\tAuthorization:  Bearer hunter2-a b\n" +
		name + " x-api-key: hunter2\n\n" +
		name + " x-team: ours\n*.example.com x-api-key: wide\n"))
	require.NoError(t, err)
	assert.Empty(t, headers.For("example.com"))
	assert.Equal(t, headers["*.example.com"], headers.For("Other.example.com."))
	for _, verb := range []string{"%v", "%+v", "%#v", "%s"} {
		assert.NotContains(t, fmt.Sprintf(verb, headers), "hunter2")
	}

	a := newAuthority(t)
	port, requests := receive(t, a, ok)
	m := message(port)
	m.Headers = map[string]string{"Authorization": "forged", "X-Team": "forged", "x-other": "kept"}
	p := publisher(t, a, webhook.Options{Headers: headers.For})
	_, err = p.Publish(t.Context(), m)
	require.NoError(t, err)
	got := <-requests
	assert.Equal(t, []string{"Bearer hunter2-a b"}, got.Header.Values("Authorization"))
	assert.Equal(t, []string{"hunter2"}, got.Header.Values("X-Api-Key"))
	assert.Equal(t, []string{"ours"}, got.Header.Values("X-Team"))
	assert.Equal(t, "kept", got.Header.Get("x-other"))
	assert.Equal(t, `{"Authorization":"forged","X-Team":"forged"}`, got.Header.Get("outflow-headers"))
	_, err = p.Send(t.Context(), m.Destination, "id", "", nil, map[string]string{"x-api-key": "forged"})
	require.NoError(t, err)
	assert.Equal(t, []string{"hunter2"}, (<-requests).Header.Values("X-Api-Key"), "callbacks too")

	for file, says := range map[string]string{
		"hunter2..com x-api-key: a": "line 1: wants host header-name: value: the first word is no " +
			"host name",
		"\napi.example.com":                        "line 2: after the host: wants header-name: value",
		"api.example.com hunter2":                  "line 1: after the host: wants header-name: value",
		"api.example.com x_api_key: hunter2":       "line 1: after the host: wants header-name: value",
		"api.example.com x-api-key:":               "line 1: after the host: wants a value",
		"api.example.com x-api-key: hünter2":       "line 1: after the host: wants a value",
		"api.example.com Host: hunter2":            "line 1: after the host: wants a header that neither",
		"api.example.com webhook-id: hunter2":      "line 1: after the host: wants a header that neither",
		"a.example x-a: b\nA.example X-A: hunter2": "line 2: this host has this header already",
		strings.Repeat("#\n", 1<<19+1):             "wants at most 1048576 bytes",
	} {
		_, err := webhook.ReadHeaders(strings.NewReader(file))
		require.ErrorContains(t, err, says)
		assert.NotContains(t, err.Error(), "hunter2")
	}
	_, err = webhook.ReadSecrets(strings.NewReader(strings.Repeat("#\n", 1<<19+1)))
	require.ErrorContains(t, err, "wants at most 1048576 bytes")
}

func number(t *testing.T, text string) (n int64) {
	_, err := fmt.Sscan(text, &n)
	require.NoError(t, err)
	return n
}

// TestRotation: while two secrets are known, receivers with either accept.
func TestRotation(t *testing.T) {
	a := newAuthority(t)
	port, requests := receive(t, a, ok)
	p := publisher(t, a, webhook.Options{Secrets: secrets(t, secretText, oldText)})
	id := uuid.NewString() + "_7_dead"
	answer, err := p.Send(t.Context(), message(port).Destination, id, "text/plain", []byte("done"),
		map[string]string{"kind": "callback"})
	require.NoError(t, err)
	assert.Equal(t, webhook.Answer{Status: 200}, answer)
	got := <-requests
	assert.Equal(t, id, got.Header.Get("webhook-id"))
	assert.Equal(t, "text/plain", got.Header.Get("Content-Type"))
	assert.Equal(t, "callback", got.Header.Get("kind"))
	assert.Len(t, strings.Split(got.Header.Get("webhook-signature"), " "), 2)
	for text, accepts := range map[string]bool{secretText: true, oldText: true, newSecret(3): false} {
		verifier, err := standardwebhooks.NewWebhook(text)
		require.NoError(t, err)
		assert.Equal(t, accepts, verifier.Verify(got.body, got.Header) == nil)
		assert.Error(t, verifier.Verify(append(got.body, '!'), got.Header))
	}
}

// TestAnswers is docs/webhooks.md's table of answers.
func TestAnswers(t *testing.T) {
	a := newAuthority(t)
	port := serveHTTP(t, a, func(w http.ResponseWriter, req *http.Request) {
		w.WriteHeader(int(number(t, strings.TrimPrefix(req.URL.Path, "/"))))
		_, _ = io.WriteString(w, marker+secretText)
	})
	p := publisher(t, a, webhook.Options{})
	const acknowledged = outflow.Class("")
	for class, statuses := range map[outflow.Class][]int{
		acknowledged:             {200, 201, 202, 203, 204, 206, 226, 299},
		outflow.ClassPermanent:   {410, 413, 415, 422, 431},
		outflow.ClassUnavailable: {401, 403, 404, 405, 408, 425, 429, 500, 501, 502, 503, 504, 520, 599},
		outflow.ClassRetryable: {300, 301, 302, 303, 304, 307, 308, 400, 402, 406, 409, 412, 418, 423, 451, 499, 600,
			999},
	} {
		for _, status := range statuses {
			answer, err := p.Send(t.Context(), "https://"+name+":"+port+fmt.Sprintf("/%d?token=hunter2", status), "id",
				"", []byte(marker), nil)
			assert.Equal(t, status, answer.Status)
			if class == acknowledged {
				require.NoError(t, err)
				continue
			}
			failed(t, err, class, fmt.Sprintf("posting to https://%s:%s/%d: HTTP status %d", name, port, status,
				status))
			assert.Regexp(t, ` \(.+\)$`, err.Error(), "it says what to do")
			assert.NotErrorIs(t, err, outflow.ErrNoDestination)
			assert.True(t, outbox.WasAnswered(err), "%d counts for the path, not for its host", status)
		}
	}
}

func TestRetryAfter(t *testing.T) {
	a := newAuthority(t)
	var status int
	var header http.Header
	port := serveHTTP(t, a, func(w http.ResponseWriter, _ *http.Request) {
		maps.Copy(w.Header(), header)
		w.WriteHeader(status)
	})
	p := publisher(t, a, webhook.Options{})
	day := time.Date(2020, 1, 1, 12, 0, 0, 0, time.UTC) // years from our own clock
	at := func(d time.Duration) string { return day.Add(d).Format(http.TimeFormat) }
	for _, c := range []struct {
		status int
		value  string
		want   time.Duration
	}{
		{429, "7", 7 * time.Second},
		{503, at(90 * time.Second), 90 * time.Second},
		{503, at(-time.Second), 0},
		{503, at(24 * time.Hour), time.Hour},
		{429, "86400", time.Hour},
		{429, "99999999999999999999999", time.Hour},
		{429, "9223372036854775807", time.Hour},
		{429, "-5", 0},
		{429, "1.5", 0},
		{429, "soon", 0},
		{429, "", 0},
		{302, "3", 3 * time.Second},
		{410, "3", 0}, // never again
	} {
		status, header = c.status, http.Header{"Date": {at(0)}}
		if c.value != "" {
			header.Set("Retry-After", c.value)
		}
		_, err := p.Publish(t.Context(), message(port))
		require.Error(t, err)
		assert.Equal(t, c.want, outbox.RetryAfter(err), "%d %s", c.status, c.value)
	}
}

// TestRefusalsBeforeSending: nothing is sent to a destination that is not allowed.
func TestRefusalsBeforeSending(t *testing.T) {
	a := newAuthority(t)
	l := listen(t, a.config(t, name, hour()), func(net.Conn) {})
	o := webhook.Options{Hosts: hosts(t, name+", localhost"), Secrets: secrets(t, secretText), RootCAs: a.pool}
	without := func(change func(*webhook.Options)) webhook.Options {
		changed := o
		change(&changed)
		return changed
	}
	for _, c := range []struct {
		what, address string
		options       webhook.Options
		class         outflow.Class
		says          string
	}{
		{"no host is allowed", "https://" + name, without(func(o *webhook.Options) { o.Hosts = webhook.Hosts{} }),
			outflow.ClassUnavailable, "OUTFLOW_WEBHOOK_HOSTS"},
		{"another host", "https://evil.example.com", o, outflow.ClassUnavailable, "OUTFLOW_WEBHOOK_HOSTS"},
		{"a host that looks like one", "https://" + name + ".evil.com", o, outflow.ClassUnavailable,
			"OUTFLOW_WEBHOOK_HOSTS"},
		{"no secret", "https://" + name, without(func(o *webhook.Options) { o.Secrets = nil }),
			outflow.ClassUnavailable, "OUTFLOW_WEBHOOK_SECRETS_FILE"},
		{"an empty secret", "https://" + name, without(func(o *webhook.Options) {
			o.Secrets = func(string) []webhook.Secret { return make([]webhook.Secret, 1) }
		}), outflow.ClassUnavailable, "OUTFLOW_WEBHOOK_SECRETS_FILE"},
		{"http", "http://" + name, o, outflow.ClassPermanent, "only https://"},
		{"http in development", "http://" + name, without(func(o *webhook.Options) { o.InsecureLoopback = true }),
			outflow.ClassPermanent, "only https://"},
		{"http to loopback", "http://localhost", o, outflow.ClassPermanent, "OUTFLOW_WEBHOOK_INSECURE_LOOPBACK=on"},
		{"http to another loopback host", "http://127.0.0.2",
			without(func(o *webhook.Options) { o.InsecureLoopback = true }),
			outflow.ClassUnavailable, "OUTFLOW_WEBHOOK_HOSTS"},
	} {
		p := webhook.NewResolving(c.options, &resolve(t, "127.0.0.1").Resolver, loopback)
		_, err := p.Send(t.Context(), c.address+":"+l.port()+"/orders?token=hunter2", "id", "", []byte(marker), nil)
		failed(t, err, c.class, c.says)
		assert.ErrorContains(t, err, "/orders", c.what)
		refusal := p.Refusal(c.address + ":" + l.port() + "/orders?token=hunter2")
		if c.class == outflow.ClassUnavailable { // a scanner starts no run to find out
			failed(t, refusal, c.class, c.says)
		} else {
			assert.NoError(t, refusal, "%s: no setting allows it, so it ends dead", c.what)
		}
		p.Close()
	}
	p := webhook.New(o)
	t.Cleanup(p.Close)
	for _, sent := range []string{"https://" + name + "/orders", "https://localhost/", "sqs://orders"} {
		assert.NoError(t, p.Refusal(sent), sent)
	}
	assert.Zero(t, l.accepted.Load())
}

// TestDevelopment: with the switch, this machine may be posted to in plain http.
func TestDevelopment(t *testing.T) {
	asked := make(chan string, 1)
	server := &http.Server{Handler: http.HandlerFunc(func(_ http.ResponseWriter,
		req *http.Request) {
		asked <- req.Header.Get("webhook-id")
	})}
	port := listenPlain(t, server)
	p := webhook.New(webhook.Options{Hosts: hosts(t, "localhost, 127.0.0.1"), Secrets: secrets(t, secretText),
		InsecureLoopback: true})
	t.Cleanup(p.Close)
	for _, host := range []string{"localhost", "LocalHost", "127.0.0.1"} {
		_, err := p.Send(t.Context(), "http://"+host+":"+port+"/", "id-1", "", nil, nil)
		require.NoError(t, err, host)
		assert.Equal(t, "id-1", <-asked)
	}
	m := message(port)
	m.Destination = "http://localhost:" + port + "/orders?token=hunter2"
	_, err := p.Publish(t.Context(), m)
	require.NoError(t, err)
	assert.Equal(t, m.ID.String(), <-asked)

	strict := webhook.New(webhook.Options{Hosts: hosts(t, "localhost"), Secrets: secrets(t, secretText)})
	t.Cleanup(strict.Close)
	_, err = strict.Publish(t.Context(), m)
	failed(t, err, outflow.ClassPermanent, "OUTFLOW_WEBHOOK_INSECURE_LOOPBACK=on")
	m.Destination = "http://" + name + "/orders?token=hunter2"
	_, err = p.Publish(t.Context(), m)
	failed(t, err, outflow.ClassPermanent, "wants https://host/path")
	assert.Empty(t, asked)
}

func TestContentThatHTTPDoesNotTake(t *testing.T) {
	p := publisher(t, nil, webhook.Options{})
	for says, change := range map[string]func(*outflow.Message){
		"the message has no ID":              func(m *outflow.Message) { m.ID = uuid.Nil },
		"the content type has characters":    func(m *outflow.Message) { m.ContentType = "text/plain\r\nX-Evil: 1" },
		"outflow-type has characters":        func(m *outflow.Message) { m.Type = "a\nb" },
		"outflow-ordering-key has character": func(m *outflow.Message) { m.OrderingKey = "a\x00" },
		`header "x" is not valid UTF-8`:      func(m *outflow.Message) { m.Headers = map[string]string{"x": "\xff"} },
	} {
		m := message("443")
		change(&m)
		_, err := p.Publish(t.Context(), m)
		failed(t, err, outflow.ClassPermanent, says)
		assert.ErrorContains(t, err, "enqueue a corrected one")
	}
}

func TestDecodeRefusesOthers(t *testing.T) {
	for _, id := range []string{"", "msg_2KWPBgLlAfxdpx2AI54pPJ85f4W", uuid.Nil.String()} {
		_, err := webhook.Decode(http.Header{"Webhook-Id": {id}}, nil)
		assert.ErrorIs(t, err, webhook.ErrNotOutflow)
	}
	_, err := webhook.Decode(http.Header{"Webhook-Id": {uuid.NewString()}, "Outflow-Headers": {"{"}}, nil)
	assert.ErrorContains(t, err, "reading outflow-headers")
}

func TestRefusedAddresses(t *testing.T) {
	for _, text := range []string{
		"0.0.0.0", "0.1.2.3", "10.0.0.0", "10.255.255.255", "100.64.0.0", "100.100.100.200", "100.127.255.255",
		"127.0.0.1", "127.255.255.255",
		"168.63.129.16", "169.254.169.254", "169.254.170.2", "172.16.0.0", "172.31.255.255", "192.0.0.192",
		"192.0.2.1", "192.88.99.1", "192.168.0.1",
		"198.18.0.1", "198.19.255.255", "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.255", "240.0.0.1",
		"255.255.255.255",
		"::", "::1", "::ffff:8.8.8.8", "::ffff:127.0.0.1", "::8.8.8.8", "64:ff9b::8.8.8.8", "64:ff9b:1::1",
		"100::1", "fc00::1", "fd00:ec2::254", "fe80::1",
		"fe80::1%eth0", "fec0::1", "ff02::1", "2001::1", "2001:10::1", "2001:db8::1", "2002:7f00:1::1", "3fff::1",
		"5f00::1",
	} {
		assert.NotEmpty(t, webhook.Refused(netip.MustParseAddr(text)), text)
	}
	for _, text := range []string{
		"1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255",
		"128.0.0.1", "168.63.129.15", "169.253.255.255",
		"172.15.255.255", "172.32.0.0", "192.167.255.255", "192.169.0.0", "198.17.255.255", "198.20.0.0",
		"223.255.255.255",
		"2001:4860:4860::8888", "2606:4700:4700::1111", "2a00:1450::1", "2003::1",
	} {
		assert.Empty(t, webhook.Refused(netip.MustParseAddr(text)), text)
	}
	assert.NotEmpty(t, webhook.Refused(netip.Addr{}))
}

func TestHosts(t *testing.T) {
	h := hosts(t, "API.example.com, *.hooks.example.org,xn--bcher-kva.example, 2001:db8::1 ,192.0.2.7")
	assert.True(t, h.Any())
	for _, host := range []string{"api.example.com", "Api.Example.Com.", "a.hooks.example.org", "a.b.hooks.example.org",
		"xn--bcher-kva.example", "2001:DB8:0::1", "[2001:db8::1]", "192.0.2.7"} {
		assert.True(t, h.Allow(host), host)
	}
	for _, host := range []string{"", "example.com", "x.api.example.com", "hooks.example.org", "evilhooks.example.org",
		"api.example.com.evil.com", "192.0.2.70", "7.192.0.2.7", "*.hooks.example.net"} {
		assert.False(t, h.Allow(host), host)
	}
	assert.False(t, webhook.Hosts{}.Any())
	assert.False(t, webhook.Hosts{}.Allow("api.example.com"))
	for list, says := range map[string]string{
		"":                                "number 1 is no host name",
		"a.example.com,":                  "number 2 is no host name",
		"https://a.example.com":           "number 1 is no host name (no scheme",
		"a.example.com:8443":              "is no host name",
		"a.example.com/path":              "is no host name",
		"*":                               "is no host name",
		"*.":                              "is no host name",
		"*.com":                           "is too wide",
		"*.1.2.3.4":                       "is too wide",
		"a.*.example.com":                 "is no host name",
		"bücher.example":                  "is no host name",
		"a b.example.com":                 "is no host name",
		"a..example.com":                  "is no host name",
		strings.Repeat("a", 64) + ".com":  "is no host name",
		strings.Repeat("a.", 127) + "com": "is no host name",
	} {
		_, err := webhook.ParseHosts(list)
		assert.ErrorContains(t, err, says, list)
	}
}

func TestSecretsOfHosts(t *testing.T) {
	file := "# rotated in May\n\n api.example.com " + newSecret(3) + "\t" + newSecret(4) + "\n*.example.com " +
		newSecret(5) + "\n*.b.example.com " + newSecret(6)
	perHost, err := webhook.ReadSecrets(strings.NewReader(file))
	require.NoError(t, err)
	s := webhook.Secrets{Hosts: perHost}
	assert.Len(t, s.For("API.example.com"), 2)
	assert.Equal(t, perHost["*.example.com"], s.For("other.example.com"))
	assert.Equal(t, perHost["*.b.example.com"], s.For("a.b.example.com"))
	assert.Equal(t, perHost["*.example.com"], s.For("b.example.com"))
	assert.Empty(t, s.For("example.com"))
	s.Default, err = webhook.ParseSecrets(newSecret(7))
	require.NoError(t, err)
	assert.Equal(t, s.Default, s.For("example.com"))

	for file, says := range map[string]string{
		"api.example.com": "line 1: wants a secret",
		"\n" + newSecret(3): "line 2: wants host secret [secret…]: the first word is no " +
			"host name",
		"a.example.com hunter2":                                             "line 1: secret 1: wants whsec_ and 24 to 64 random bytes",
		"a.example.com " + newSecret(3) + " hunter2":                        "line 1: secret 2: wants whsec_",
		"a.example.com " + newSecret(3) + "\nA.example.com " + newSecret(3): "line 2: this host has a line already",
		"a.example.com " + strings.Repeat("x", 70_000):                      "line 1: bufio.Scanner: token too long",
		strings.Repeat("# a comment\n", 100_000):                            "wants at most 1048576 bytes",
	} {
		_, err := webhook.ReadSecrets(strings.NewReader(file))
		require.ErrorContains(t, err, says)
		assert.NotContains(t, err.Error(), "hunter2")
		assert.NotContains(t, err.Error(), strings.TrimPrefix(newSecret(3), "whsec_"))
	}
	for _, text := range []string{"", "hunter2", "whsec_", "whsec_hunter2", strings.TrimPrefix(secretText, "whsec_"),
		"whsec_" + strings.Repeat("A", 28), "whsec_" + strings.Repeat("A", 88), secretText + "A"} {
		_, err := webhook.ParseSecret(text)
		require.Error(t, err, text)
		assert.NotContains(t, err.Error(), "hunter2")
	}
}

// TestSecretsAreNotPrinted, by no verb, wherever they stand.
func TestSecretsAreNotPrinted(t *testing.T) {
	s, err := webhook.ParseSecret("whsec_" + strings.Repeat("Zm9v", 8)) // "foo", eight times
	require.NoError(t, err)
	for _, v := range []any{s, &s, []webhook.Secret{s}, webhook.Secrets{Default: []webhook.Secret{s}},
		struct{ inner any }{s}, struct{ inner webhook.Secret }{s}} {
		for _, verb := range []string{"%v", "%+v", "%#v", "%s", "%q", "%x", "%d"} {
			text := fmt.Sprintf(verb, v)
			for _, hidden := range []string{"foofoo", "Zm9v", "666f6f", "102 111", "0x66, 0x6f"} {
				assert.NotContains(t, text, hidden, verb)
			}
		}
	}
}

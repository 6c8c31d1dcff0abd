package webhook_test

import (
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/publish/webhook"
)

func networks(t *testing.T, list string) webhook.Networks {
	n, err := webhook.ParseNetworks(list)
	require.NoError(t, err)
	return n
}

func TestNetworks(t *testing.T) {
	n := networks(t, "10.1.0.0/16, fd00:1::/32,100.64.0.0/10,192.168.7.9/32")
	assert.True(t, n.Any())
	assert.False(t, webhook.Networks{}.Any())
	for _, in := range []string{"10.1.2.3", "fd00:1::9", "100.64.0.1", "192.168.7.9"} {
		assert.True(t, n.Contain(netip.MustParseAddr(in)), in)
	}
	for _, out := range []string{"10.2.0.1", "fd00:2::9", "192.168.7.10", "::ffff:10.1.2.3", "8.8.8.8"} {
		assert.False(t, n.Contain(netip.MustParseAddr(out)), out)
		assert.False(t, webhook.Networks{}.Contain(netip.MustParseAddr(out)), out)
	}
	for list, says := range map[string]string{
		"":                    "number 1 is no network",
		"10.1.0.0/16,":        "number 2 is no network",
		"10.1.0.0":            "number 1 is no network",
		"inside":              "number 1 is no network",
		"10.1.2.3/16":         "number 1 has bits beyond its length (did you mean 10.1.0.0/16?)",
		"0.0.0.0/0":           "number 1 is not private",
		"::/0":                "number 1 is not private",
		"8.0.0.0/7":           "number 1 is not private",
		"192.0.2.0/24":        "number 1 is not private",
		"::ffff:10.0.0.0/104": "number 1 is not private",
		"127.0.0.0/8":         "OUTFLOW_WEBHOOK_INSECURE_LOOPBACK",
		"::1/128":             "OUTFLOW_WEBHOOK_INSECURE_LOOPBACK",
		"169.254.0.0/16":      "always refused",
		"fe80::/10":           "always refused",
		"168.63.129.16/32":    "always refused",
		"100.100.100.200/32":  "always refused",
		"fd00:ec2::/32":       "always refused",
	} {
		_, err := webhook.ParseNetworks(list)
		assert.ErrorContains(t, err, says, list)
		assert.ErrorContains(t, err, "wants private networks such as 10.1.0.0/16", list)
	}
}

// TestPrivateNetworks: only the networks of the list are connected to, and metadata
// services never are, by name or by number.
func TestPrivateNetworks(t *testing.T) {
	wide := networks(t, "10.0.0.0/8,172.16.0.0/12,192.168.0.0/16,100.64.0.0/10,fc00::/7")
	never := "link-local or a cloud's metadata service, which are always refused"
	for _, c := range []struct {
		networks webhook.Networks
		at, says string // "" where it may be connected to
	}{
		{webhook.Networks{}, "10.1.2.3:443",
			"its address 10.1.2.3 is private; " +
				"allowed are public addresses and the networks of OUTFLOW_WEBHOOK_NETWORKS"},
		{networks(t, "10.1.0.0/16"), "10.1.2.3:443", ""},
		{networks(t, "10.1.0.0/16"), "10.2.2.3:443", "is private"},
		{networks(t, "10.1.0.0/16"), "8.8.8.8:443", ""},
		{networks(t, "10.1.0.0/16"), "127.0.0.1:443",
			"is loopback; " +
				"allowed are public addresses and localhost where OUTFLOW_WEBHOOK_INSECURE_LOOPBACK=on"},
		{networks(t, "fd00:1::/32"), "[::1]:443", "and localhost where OUTFLOW_WEBHOOK_INSECURE_LOOPBACK=on"},
		{networks(t, "10.1.0.0/16"), "[::ffff:10.1.0.1]:443", "not a public IPv6 address"},
		{networks(t, "10.1.0.0/16"), "[64:ff9b::10.1.0.1]:443", "not a public IPv6 address"},
		{networks(t, "fd00:1::/32"), "[fd00:1::5]:443", ""},
		{networks(t, "fd00:1::/32"), "[fd00:1::5%eth0]:443", "not a public IPv6 address"},
		{networks(t, "fd00:1::/32"), "[fd00:2::5]:443", "not a public IPv6 address"},
		{wide, "192.168.255.1:8443", ""},
		{wide, "100.64.0.1:443", ""},
		{wide, "[fdff::1]:443", ""},
		{wide, "169.254.169.254:443", never},
		{wide, "169.254.170.2:443", never},
		{wide, "169.254.170.23:443", never},
		{wide, "100.100.100.200:443", never},
		{wide, "168.63.129.16:443", never},
		{wide, "[fd00:ec2::254]:443", never},
		{wide, "[fd00:ec2::23]:443", never},
		{wide, "[fd20:ce::254]:443", never},
		{wide, "[fe80::1%eth0]:443", never},
		{wide, "[::ffff:169.254.169.254]:443", never},
	} {
		p := webhook.New(webhook.Options{Networks: c.networks})
		err := p.MayConnect(name, c.at)
		if c.says == "" {
			assert.NoError(t, err, c.at)
		} else {
			assert.ErrorContains(t, err, c.says, c.at)
		}
	}
}

// TestPrivateReceivers: the check is made on the address of a real connection. Another setting
// allows loopback.
func TestPrivateReceivers(t *testing.T) {
	a := newAuthority(t)
	l := listen(t, a.config(t, name, hour()), func(net.Conn) {})
	for address, says := range map[string]string{
		"127.0.0.1": "its address 127.0.0.1 is loopback", "169.254.169.254": "always refused",
		"100.100.100.200": "always refused", "172.16.0.1": "is private",
	} {
		o := webhook.Options{Hosts: hosts(t, name), Secrets: secrets(t, secretText), RootCAs: a.pool,
			Networks: networks(t, "10.0.0.0/8,100.64.0.0/10")}
		p := webhook.NewResolving(o, &resolve(t, address).Resolver, netip.Addr{})
		_, err := p.Publish(t.Context(), message(l.port()))
		failed(t, err, outflow.ClassUnavailable, says)
		p.Close()
	}
	assert.Zero(t, l.accepted.Load(), "no connection was made")
	inside, found := privateAddress()
	if !found {
		t.Skip("this machine has no private address")
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(ok))
	server.Listener.Close()
	var err error
	server.Listener, err = net.Listen("tcp", netip.AddrPortFrom(inside, 0).String())
	require.NoError(t, err)
	server.TLS = a.config(t, inside.String(), hour())
	server.StartTLS()
	t.Cleanup(server.Close)
	o := webhook.Options{Hosts: hosts(t, inside.String()), Secrets: secrets(t, secretText), RootCAs: a.pool}
	for _, allowed := range []bool{false, true} {
		if allowed {
			o.Networks = networks(t, netip.PrefixFrom(inside, inside.BitLen()).String())
		}
		p := webhook.New(o)
		_, err := p.Send(t.Context(), server.URL+"/hook", "id", "", nil, nil)
		if allowed {
			require.NoError(t, err)
		} else {
			failed(t, err, outflow.ClassUnavailable, "OUTFLOW_WEBHOOK_NETWORKS (nothing was sent")
		}
		p.Close()
	}
}

func privateAddress() (netip.Addr, bool) {
	addresses, _ := net.InterfaceAddrs()
	for _, address := range addresses {
		if prefix, err := netip.ParsePrefix(address.String()); err == nil && prefix.Addr().IsPrivate() {
			return prefix.Addr(), true
		}
	}
	return netip.Addr{}, false
}

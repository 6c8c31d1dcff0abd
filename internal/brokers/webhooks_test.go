package brokers

import (
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow/publish/webhook"
)

// goodSecret is the base64 of 32 bytes.
const goodSecret = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="

// loaded is the broker of a registration's settings.
type loaded struct {
	Broker
	Webhook webhook.Options
}

// loadWebhooks reads the webhooks' settings with nothing else in the environment.
func loadWebhooks(t *testing.T, settings map[string]string) (loaded, error) {
	t.Helper()
	w := &webhooks{}
	b := load(t.Context(), w, func(name string) string { return settings[name] })
	require.NoError(t, b.ClientErr)
	if b.SettingsErr != nil {
		assert.Nil(t, b.Publisher)
		return loaded{}, fmt.Errorf("settings:\n%w", b.SettingsErr)
	}
	assert.NotNil(t, b.Publisher)
	return loaded{b, w.publisherOptions()}, nil
}

func TestWebhooks(t *testing.T) {
	c, err := loadWebhooks(t, nil)
	require.NoError(t, err)
	assert.False(t, c.Webhook.Hosts.Any(), "none by default")
	assert.False(t, c.Webhook.InsecureLoopback)

	file := filepath.Join(t.TempDir(), "secrets")
	require.NoError(t, os.WriteFile(file, []byte("hooks.example.com "+goodSecret+" "+goodSecret+"\n"), 0o600))
	c, err = loadWebhooks(t, map[string]string{
		"OUTFLOW_WEBHOOK_HOSTS": "hooks.example.com, *.example.org", "OUTFLOW_WEBHOOK_SECRETS_FILE": file,
		"OUTFLOW_WEBHOOK_SECRET": goodSecret, "OUTFLOW_WEBHOOK_INSECURE_LOOPBACK": "on",
	})
	require.NoError(t, err)
	assert.True(t, c.Webhook.Hosts.Allow("hooks.example.com"))
	assert.True(t, c.Webhook.Hosts.Allow("a.example.org"))
	assert.False(t, c.Webhook.Hosts.Allow("example.org"))
	assert.Len(t, c.Webhook.Secrets("hooks.example.com"), 2)
	assert.Len(t, c.Webhook.Secrets("a.example.org"), 1)
	assert.True(t, c.Webhook.InsecureLoopback)

	for _, settings := range []map[string]string{{"OUTFLOW_WEBHOOK_SECRETS_FILE": file},
		{"OUTFLOW_WEBHOOK_SECRET": goodSecret}} {
		settings["OUTFLOW_WEBHOOK_HOSTS"] = "hooks.example.com"
		_, err = loadWebhooks(t, settings)
		require.NoError(t, err, "one of the two is enough")
	}
}

func TestWebhookHeadersAndNetworks(t *testing.T) {
	file := filepath.Join(t.TempDir(), "headers")
	require.NoError(t, os.WriteFile(file, []byte("# keys\nhooks.example.com x-api-key: hunter2\nhooks.example.com "+
		"x-team: ours\n"), 0o600))
	settings := map[string]string{
		"OUTFLOW_WEBHOOK_HOSTS": "hooks.example.com", "OUTFLOW_WEBHOOK_SECRET": goodSecret,
		"OUTFLOW_WEBHOOK_HEADERS_FILE": file, "OUTFLOW_WEBHOOK_NETWORKS": "10.1.0.0/16,fd00:1::/32",
	}
	c, err := loadWebhooks(t, settings)
	require.NoError(t, err)
	assert.Len(t, c.Webhook.Headers("hooks.example.com"), 2)
	assert.Empty(t, c.Webhook.Headers("example.com"))
	assert.True(t, c.Webhook.Networks.Contain(netip.MustParseAddr("10.1.2.3")))
	assert.NotContains(t, fmt.Sprintf("%+v %#v", c.Webhook, c.Webhook.Headers("hooks.example.com")), "hunter2")

	require.NoError(t, os.WriteFile(file, []byte("hooks.example.com x-api-key hunter2\n"), 0o600))
	settings["OUTFLOW_WEBHOOK_NETWORKS"] = "169.254.0.0/16"
	_, err = loadWebhooks(t, settings)
	require.ErrorContains(t, err, "OUTFLOW_WEBHOOK_HEADERS_FILE: reading the file: line 1: after the host: wants "+
		"header-name: value")
	require.ErrorContains(t, err, "OUTFLOW_WEBHOOK_NETWORKS: wants private networks such as 10.1.0.0/16")
	assert.NotContains(t, err.Error(), "hunter2")
	_, err = loadWebhooks(t, map[string]string{"OUTFLOW_WEBHOOK_HEADERS_FILE": "hooks.example.com x-api-key: hunter2"})
	require.EqualError(t, err, "settings:\nOUTFLOW_WEBHOOK_HEADERS_FILE: wants a file that can be read: no such "+
		"file or directory", "a header in the wrong place is not shown")
	_, err = loadWebhooks(t, map[string]string{"OUTFLOW_WEBHOOK_HEADERS_FILE": "/dev/zero"})
	require.ErrorContains(t, err, "OUTFLOW_WEBHOOK_HEADERS_FILE: wants a file of at most 1048576 bytes")
}

// No part of a secret gets into an error, wherever the mistake is.
func TestWebhookSecretsAreNotShown(t *testing.T) {
	file := filepath.Join(t.TempDir(), "secrets")
	for _, secret := range []string{"hunter2", "whsec_hunter2", goodSecret + "hunter2", goodSecret[len("whsec_"):]} {
		for _, content := range []string{"a.example.com " + secret, secret + " " + secret,
			"a.example.com " + goodSecret + "\n" + secret + " a.example.com"} {
			require.NoError(t, os.WriteFile(file, []byte(content), 0o600))
			_, err := loadWebhooks(t, map[string]string{"OUTFLOW_WEBHOOK_SECRETS_FILE": file,
				"OUTFLOW_WEBHOOK_SECRET": secret})
			require.ErrorContains(t, err, "OUTFLOW_WEBHOOK_SECRET: ")
			require.ErrorContains(t, err, "OUTFLOW_WEBHOOK_SECRETS_FILE: ")
			require.ErrorContains(t, err, "line ")
			assert.NotContains(t, err.Error(), "hunter2")
			assert.NotContains(t, err.Error(), "MDEyMzQ1")
			assert.Equal(t, 2, strings.Count(err.Error(), "\n"))
		}
	}
}

// With half of the settings, every message to an https address would end dead.
func TestHalfOfTheWebhookSettings(t *testing.T) {
	file := filepath.Join(t.TempDir(), "secrets")
	require.NoError(t, os.WriteFile(file, []byte("hooks.example.com "+goodSecret+"\n"), 0o600))
	headers := filepath.Join(t.TempDir(), "headers")
	require.NoError(t, os.WriteFile(headers, []byte("hooks.example.com x-a: b\n"), 0o600))
	for name, value := range map[string]string{
		"OUTFLOW_WEBHOOK_SECRET": goodSecret, "OUTFLOW_WEBHOOK_SECRETS_FILE": file,
		"OUTFLOW_WEBHOOK_INSECURE_LOOPBACK": "on",
		"OUTFLOW_WEBHOOK_HEADERS_FILE":      headers, "OUTFLOW_WEBHOOK_NETWORKS": "10.0.0.0/8",
	} {
		_, err := loadWebhooks(t, map[string]string{name: value})
		require.EqualError(t, err, "settings:\n"+name+": wants OUTFLOW_WEBHOOK_HOSTS beside it: nothing is sent "+
			"to a host that it does not name")
	}
	_, err := loadWebhooks(t, map[string]string{"OUTFLOW_WEBHOOK_SECRETS_FILE": goodSecret})
	require.EqualError(t, err, "settings:\nOUTFLOW_WEBHOOK_SECRETS_FILE: wants a file that can be read: no such "+
		"file or directory", "a secret in the wrong place is not shown")
}

// A default that help shows may be set explicitly.
func TestDefaultsOfNothing(t *testing.T) {
	written := map[string]string{}
	for _, s := range Settings() {
		if s.Default == "none" || s.Default == "off" {
			written[s.Name] = s.Default
		}
	}
	require.Len(t, written, 8)
	c, err := loadWebhooks(t, written)
	require.NoError(t, err)
	assert.False(t, c.Webhook.Hosts.Any())
	assert.False(t, c.Webhook.InsecureLoopback)
}

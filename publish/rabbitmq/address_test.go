package rabbitmq_test

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow/publish/rabbitmq"
)

func TestParseAddress(t *testing.T) {
	for url, want := range map[string]string{
		"amqp://localhost":                                             "amqp://localhost:5672/",
		"amqp://localhost/":                                            "amqp://localhost:5672/",
		"amqps://rabbit.example.com":                                   "amqps://rabbit.example.com:5671/",
		"amqp://app:hunter2@10.1.2.3:5673/shop":                        "amqp://10.1.2.3:5673/shop",
		"amqp://app:hunter2%40%2F@[::1]:5673/%2Fshop":                  "amqp://[::1]:5673/%2Fshop",
		"amqps://app:hunter2@host?heartbeat=5&connection_timeout=3000": "amqps://host:5671/",
		"amqps://host/?auth_mechanism=external&auth_mechanism=PLAIN":   "amqps://host:5671/",
		"amqps://host/?channel_max=50&server_name_indication=rabbit":   "amqps://host:5671/",
	} {
		a, err := rabbitmq.ParseAddress(url)
		require.NoError(t, err, url)
		for _, verb := range []string{"%s", "%v", "%+v", "%#v", "%q"} {
			shown := fmt.Sprintf(verb, a)
			assert.Contains(t, shown, want)
			assert.NotContains(t, shown, "hunter2")
			assert.NotContains(t, fmt.Sprintf(verb, struct{ A rabbitmq.Address }{a}), "hunter2")
		}
		again, err := rabbitmq.ParseAddress(url)
		require.NoError(t, err)
		assert.Equal(t, a, again)
	}
	assert.Equal(t, "no address", rabbitmq.Address{}.String())
}

// No part of a password gets into an error, wherever the mistake is.
func TestBadAddresses(t *testing.T) {
	const form = "wants amqp://user:password@host:5672/vhost, or amqps:// for TLS: "
	folder := t.TempDir()
	file := filepath.Join(folder, "some.pem")
	require.NoError(t, os.WriteFile(file, []byte("hunter2"), 0o600))
	for url, says := range map[string]string{
		"":                                                   "the scheme is another",
		"hunter2":                                            "the scheme is another",
		"http://app:hunter2@host":                            "the scheme is another",
		"amqp:app:hunter2@host":                              "percent-encoded",
		"amqp://app:hun#ter2@host":                           "percent-encoded",
		"amqp://app:hun ter2@host":                           "percent-encoded",
		"amqp://app:hunter2%zz@host":                         "percent-encoded",
		"amqp://app:hunter2/2@host":                          "percent-encoded",
		"amqp://app:hunter2@":                                "it names no host",
		"amqp://app:hunter2@host:0":                          "the port wants 1 to 65535",
		"amqp://app:hunter2@host:70000":                      "the port wants 1 to 65535",
		"amqp://app:hunter2@host/a/b":                        "a slash in the virtual host is %2F",
		"amqp://app:hunter2@host?verify=no":                  `unknown parameter "verify"; known are cacertfile`,
		"amqp://host?heartbeat=0":                            "heartbeat wants a number from 1 to 600",
		"amqp://host?heartbeat=hunter2":                      "heartbeat wants a number from 1 to 600",
		"amqp://host?channel_max=65536":                      "channel_max wants a number from 1 to 65535",
		"amqp://host?connection_timeout=1s":                  "connection_timeout wants a number from 1 to 600000",
		"amqp://host?auth_mechanism=hunter2":                 "auth_mechanism wants plain, amqplain or external",
		"amqp://host?cacertfile=/x":                          "cacertfile wants amqps://",
		"amqps://host?cacertfile=/missing":                   "cacertfile wants a file that can be read: open /missing",
		"amqps://host?certfile=" + file:                      "certfile and keyfile want each other",
		"amqps://host?keyfile=" + file:                       "certfile and keyfile want each other",
		"amqps://host?keyfile=" + file + "&certfile=" + file: "certfile and keyfile want a certificate and its key",
		"amqp://host?a=b;c":                                  "percent-encoded",
	} {
		a, err := rabbitmq.ParseAddress(url)
		require.ErrorContains(t, err, form, url)
		assert.ErrorContains(t, err, says, url)
		assert.NotContains(t, err.Error(), "hunter2")
		assert.NotContains(t, err.Error(), "ter2")
		assert.Zero(t, a)
	}
}

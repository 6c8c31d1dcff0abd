package brokers

import (
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/publish"
)

func loadExchanges(t *testing.T, settings map[string]string) Broker {
	t.Helper()
	b := load(t.Context(), &exchanges{}, func(name string) string { return settings[name] })
	t.Cleanup(func() { Close([]Broker{b}) })
	return b
}

func TestExchanges(t *testing.T) {
	b := loadExchanges(t, nil)
	require.NoError(t, b.SettingsErr)
	require.NoError(t, b.ClientErr)
	assert.Nil(t, b.Publisher, "there is none without an address")
	assert.Equal(t, "no RabbitMQ is configured (AMQP_URL): nothing is published to rabbitmq:// from here", b.Waiting)
	assert.Zero(t, b.Timeout)
	assert.Empty(t, Publishers([]Broker{b}))

	b = loadExchanges(t, map[string]string{"AMQP_URL": "amqps://app:hunter2@rabbit.example.com/shop",
		"OUTFLOW_RABBITMQ_TIMEOUT": "20s"})
	require.NoError(t, b.SettingsErr)
	require.NoError(t, b.ClientErr)
	require.NotNil(t, b.Publisher, "it does not connect until it has to")
	assert.Equal(t, "rabbitmq", b.Publisher.Scheme())
	assert.Equal(t, []string{"rabbitmq"}, b.Schemes)
	assert.Equal(t, 20*time.Second, b.Timeout)
	assert.Empty(t, b.Waiting)
	assert.Equal(t, 10*time.Second, loadExchanges(t, map[string]string{"AMQP_URL": "amqp://host"}).Timeout)
}

// No part of an address gets into an error.
func TestBadExchangeSettings(t *testing.T) {
	file := filepath.Join(t.TempDir(), "url")
	require.NoError(t, os.WriteFile(file, []byte("amqp://app:hunter2@host:0\n"), 0o600))
	for name, c := range map[string]struct {
		settings       map[string]string
		client, errors string
	}{
		"a wrong URL": {settings: map[string]string{"AMQP_URL": "http://app:hunter2@host"},
			client: "AMQP_URL: wants amqp://user:password@host:5672/vhost, or amqps:// for TLS: the scheme is another"},
		"a wrong URL in the file": {settings: map[string]string{"OUTFLOW_RABBITMQ_URL_FILE": file},
			errors: "OUTFLOW_RABBITMQ_URL_FILE: reading the file: wants amqp://user:password@host:5672/vhost, " +
				"or amqps:// for TLS: the port wants 1 to 65535"},
		"a URL in the file's place": {
			settings: map[string]string{"OUTFLOW_RABBITMQ_URL_FILE": "amqp://app:hunter2@host"},
			errors:   "OUTFLOW_RABBITMQ_URL_FILE: wants a file that can be read: no such file or directory"},
		"both": {settings: map[string]string{"OUTFLOW_RABBITMQ_URL_FILE": "/dev/null", "AMQP_URL": "amqp://host"},
			errors: "OUTFLOW_RABBITMQ_URL_FILE: wants to be the only one: AMQP_URL is set, too"},
		"a wrong timeout": {settings: map[string]string{"OUTFLOW_RABBITMQ_TIMEOUT": "1m", "AMQP_URL": "amqp://host"},
			errors: `OUTFLOW_RABBITMQ_TIMEOUT: wants a duration from 1s to 30s (got "1m")`},
	} {
		t.Run(name, func(t *testing.T) {
			b := loadExchanges(t, c.settings)
			assert.Nil(t, b.Publisher)
			if c.client != "" {
				require.EqualError(t, b.ClientErr, c.client)
			} else {
				require.ErrorContains(t, b.SettingsErr, c.errors)
				assert.NotContains(t, b.SettingsErr.Error(), "hunter2")
			}
		})
	}
}

// TestAddressFileRotates: the address of the file counts, as soon as it is complete and correct.
func TestAddressFileRotates(t *testing.T) {
	file := filepath.Join(t.TempDir(), "url")
	write := func(text string) {
		t.Helper()
		require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
		past := time.Now().Add(-time.Minute)
		require.NoError(t, os.Chtimes(file, past, past))
	}
	write("amqp://app:hunter2@old.invalid\n")
	b := loadExchanges(t, map[string]string{"OUTFLOW_RABBITMQ_URL_FILE": file})
	require.NoError(t, b.SettingsErr)
	var said lines
	b.WarnTo(slog.New(slog.NewTextHandler(&said, nil)))
	tries := func(host string) func() bool {
		return func() bool {
			_, err := b.Publisher.Publish(t.Context(),
				outflow.Message{ID: [16]byte{1}, Destination: "rabbitmq://orders/paid"})
			require.NotContains(t, err.Error(), "hunter")
			return strings.Contains(err.Error(), "amqp://"+host+":5672/")
		}
	}
	require.Eventually(t, tries("old.invalid"), time.Minute, 50*time.Millisecond)
	write("amqp://app:hunter3@new.invalid\n")
	require.Eventually(t, tries("new.invalid"), time.Minute, 50*time.Millisecond)
	write("hunter4")
	require.Eventually(t, func() bool { return tries("new.invalid")() && said.String() != "" }, time.Minute,
		50*time.Millisecond)
	assert.Contains(t, said.String(), "OUTFLOW_RABBITMQ_URL_FILE")
	assert.NotContains(t, said.String(), "hunter")
}

// TestNewAddressIsWarnedAbout: where it does not work, no message fails, and the broker's log says
// so.
func TestNewAddressIsWarnedAbout(t *testing.T) {
	rabbit := teststack.NewRabbitMQ(t)
	file := filepath.Join(t.TempDir(), "url")
	write := func(text string) {
		t.Helper()
		require.NoError(t, os.WriteFile(file, []byte(text), 0o600))
		past := time.Now().Add(-time.Minute)
		require.NoError(t, os.Chtimes(file, past, past))
	}
	write(rabbit.URL)
	b := loadExchanges(t, map[string]string{"OUTFLOW_RABBITMQ_URL_FILE": file})
	require.NoError(t, b.SettingsErr)
	var said lines
	b.WarnTo(slog.New(slog.NewTextHandler(&said, nil)))
	check := func() error {
		return b.Publisher.(publish.Checker).Check(t.Context(), "rabbitmq://amq.topic/key")
	}
	require.Eventually(t, func() bool { return check() == nil }, time.Minute, 50*time.Millisecond)
	write("amqp://nobody:hunter2@" + rabbit.Address)
	require.Eventually(t, func() bool {
		require.NoError(t, check())
		return strings.Contains(said.String(), "check user name and password in AMQP_URL")
	}, time.Minute, 50*time.Millisecond)
	assert.NotContains(t, said.String(), "hunter2")
}

// TestDoctorOfExchanges: what to do about a look-up's error.
func TestDoctorOfExchanges(t *testing.T) {
	doctor := loadExchanges(t, map[string]string{"AMQP_URL": "amqp://host/my%20shop"}).Doctor
	missing, down := outflow.Permanent(outflow.ErrNoDestination), outflow.Unavailable(os.ErrDeadlineExceeded)
	assert.Equal(t, "rabbitmqadmin --vhost='my shop' declare exchange name=orders type=topic durable=true && "+
		"rabbitmqadmin --vhost='my shop' declare queue name=QUEUE durable=true && "+
		"rabbitmqadmin --vhost='my shop' declare binding source=orders destination=QUEUE routing_key='paid.#', "+
		"or outflow redirect its messages", doctor.Advice("rabbitmq://orders/paid.%23", missing))
	assert.Equal(t, "rabbitmqadmin --vhost='my shop' declare queue name=orders durable=true, or outflow redirect its "+
		"messages", doctor.Advice("rabbitmq:///orders", missing))
	assert.Equal(t, "outflow redirect its messages", doctor.Advice("rabbitmq://orders", missing))
	assert.Contains(t, doctor.Advice("rabbitmq://orders/paid", down), "check AMQP_URL")
}

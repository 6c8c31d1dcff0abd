package config_test

import (
	"bytes"
	"context"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/brokers"
	"github.com/outflowhq/outflow/internal/config"
	"github.com/outflowhq/outflow/publish"
)

// load loads settings with nothing else in the environment. pgx and the AWS SDK
// read the process's own, which is emptied.
func load(t *testing.T, settings map[string]string) (config.Config, error) {
	t.Helper()
	for _, name := range []string{
		"PGHOST", "PGPORT", "PGDATABASE", "PGUSER", "PGPASSWORD", "PGSERVICE", "PGSSLMODE", "PGAPPNAME",
		"AWS_PROFILE", "AWS_DEFAULT_REGION", "AWS_REGION", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_SQS",
		"AWS_ENDPOINT_URL_SNS", "AWS_ENDPOINT_URL_STS",
	} {
		t.Setenv(name, "")
	}
	t.Setenv("AWS_CONFIG_FILE", "/nonexistent")
	t.Setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
	t.Setenv("HOME", t.TempDir())
	for name, value := range settings {
		if strings.HasPrefix(name, "AWS_") {
			t.Setenv(name, value)
		}
	}
	return config.Load(context.Background(), func(name string) string { return settings[name] })
}

// broker returns the broker of a scheme.
func broker(t *testing.T, c config.Config, scheme string) brokers.Broker {
	t.Helper()
	for _, b := range c.Brokers {
		if slices.Contains(b.Schemes, scheme) {
			require.NotNil(t, b.Publisher)
			return b
		}
	}
	t.Fatalf("no broker for %s://", scheme)
	return brokers.Broker{}
}

// enough are the settings that have no default.
func enough(more map[string]string) map[string]string {
	settings := map[string]string{"DATABASE_URL": "postgres://app@db.example.com:5432/shop", "AWS_REGION": "eu-west-1"}
	for name, value := range more {
		settings[name] = value
	}
	return settings
}

func TestDefaults(t *testing.T) {
	c, err := load(t, enough(nil))
	require.NoError(t, err)
	assert.Equal(t, "db.example.com", c.Database.ConnConfig.Host)
	assert.Equal(t, "outflow", c.Database.ConnConfig.RuntimeParams["application_name"])
	assert.Empty(t, broker(t, c, "sqs").Waiting, "there is a region")
	require.NoError(t, publish.NewRouter(brokers.Publishers(c.Brokers)...).Refusal("sqs://orders"))
	assert.Empty(t, c.Temporal.HostPort, "the SDK's own default: localhost:7233")
	assert.Zero(t, c.Scanner, "a zero field takes the scanner's default")
	assert.Equal(t, outflow.Retention{
		Delivered: outflow.Keep(168 * time.Hour), Dead: outflow.Forever, Expired: outflow.Keep(720 * time.Hour),
		Cancelled: outflow.Keep(720 * time.Hour),
	}, c.Retention)
	assert.Equal(t, slog.LevelInfo, c.LogLevel)
	assert.False(t, c.LogJSON)
}

func TestEverySettingIsRead(t *testing.T) {
	c, err := load(t, enough(map[string]string{
		"OUTFLOW_OUTBOX": "shop", "OUTFLOW_TASK_QUEUE": "shop-queue", "OUTFLOW_POLL_INTERVAL": "1s",
		"OUTFLOW_IN_FLIGHT":       "1000",
		"OUTFLOW_PER_DESTINATION": "1000", "OUTFLOW_LEASE": "30s", "OUTFLOW_SQS_TIMEOUT": "20s",
		"OUTFLOW_SNS_TIMEOUT":     "5s",
		"OUTFLOW_MISSING_GRACE":   "1h",
		"OUTFLOW_ORDER_DEAD":      "pass",
		"OUTFLOW_STREAM_ABOVE":    "10000",
		"OUTFLOW_STREAMS":         "0",
		"OUTFLOW_WEBHOOK_TIMEOUT": "30s", "OUTFLOW_KEEP_DELIVERED": "1m", "OUTFLOW_KEEP_DEAD": "90d",
		"OUTFLOW_KEEP_EXPIRED": "36h", "OUTFLOW_KEEP_CANCELLED": "forever", "OUTFLOW_HISTORY": "on",
		"OUTFLOW_LOG_LEVEL": "debug", "OUTFLOW_LOG_FORMAT": "json", "OUTFLOW_HEALTH_ADDRESS": "[::1]:8086",
		"TEMPORAL_ADDRESS": "temporal.example.com:7233", "TEMPORAL_NAMESPACE": "shop",
		"DATABASE_URL": "postgres://app@db/shop?application_name=mine",
	}))
	require.NoError(t, err)
	assert.Equal(t, "shop", c.Scanner.Outbox)
	assert.Equal(t, "shop-queue", c.Scanner.TaskQueue)
	assert.Equal(t, time.Second, c.Scanner.PollInterval)
	assert.Equal(t, 20*time.Second, broker(t, c, "sqs").Timeout)
	assert.Equal(t, 5*time.Second, broker(t, c, "sns").Timeout)
	assert.Equal(t, 30*time.Second, broker(t, c, "https").Timeout)
	assert.Equal(t, 1000, c.Scanner.InFlight)
	assert.Equal(t, 1000, c.Scanner.PerDestination)
	assert.Equal(t, 30*time.Second, c.Scanner.Lease)
	assert.Equal(t, time.Hour, c.MissingGrace)
	assert.True(t, c.PassDead)
	assert.Equal(t, 10000, c.Scanner.StreamAbove)
	assert.Zero(t, c.Streams)
	assert.Equal(t, outflow.Retention{
		Delivered: outflow.Keep(time.Minute), Dead: outflow.Keep(2160 * time.Hour),
		Expired: outflow.Keep(36 * time.Hour), Cancelled: outflow.Forever, History: true,
	}, c.Retention)
	assert.Equal(t, slog.LevelDebug, c.LogLevel)
	assert.True(t, c.LogJSON)
	assert.Equal(t, "[::1]:8086", c.HealthAddress)
	assert.Equal(t, "temporal.example.com:7233", c.Temporal.HostPort)
	assert.Equal(t, "shop", c.Temporal.Namespace)
	assert.Equal(t, "mine", c.Database.ConnConfig.RuntimeParams["application_name"])
}

// Zero is a grace of its own: none. The scanner's zero is its default.
func TestNoMissingGrace(t *testing.T) {
	for _, none := range []string{"0", "0s"} {
		c, err := load(t, enough(map[string]string{"OUTFLOW_MISSING_GRACE": none}))
		require.NoError(t, err)
		assert.Negative(t, c.MissingGrace)
	}
}

func TestBadValues(t *testing.T) {
	for _, c := range []struct{ name, value, wants string }{
		{"OUTFLOW_OUTBOX", "a/b", "wants 1 to 100 letters"},
		{"OUTFLOW_OUTBOX", ".hidden", "the first a letter or digit"},
		{"OUTFLOW_OUTBOX", strings.Repeat("a", 101), "wants 1 to 100"},
		{"OUTFLOW_TASK_QUEUE", "two words", "wants 1 to 100 letters"},
		{"OUTFLOW_POLL_INTERVAL", "250", "wants a duration from 10ms to 1h0m0s"},
		{"OUTFLOW_POLL_INTERVAL", "9ms", "wants a duration from 10ms"},
		{"OUTFLOW_POLL_INTERVAL", "61m", "wants a duration from 10ms"},
		{"OUTFLOW_POLL_INTERVAL", "-1s", "wants a duration from 10ms"},
		{"OUTFLOW_TRIGGER", "notify", "wants poll, listen or wal"},
		{"OUTFLOW_LEASE", "29s", "wants a duration from 30s to 1h0m0s"},
		{"OUTFLOW_LEASE", "2h", "wants a duration from 30s"},
		{"OUTFLOW_MISSING_GRACE", "169h", "wants 0, or a duration from 1s to 168h0m0s"},
		{"OUTFLOW_IN_FLIGHT", "0", "wants a whole number from 1 to 1000"},
		{"OUTFLOW_IN_FLIGHT", "1001", "wants a whole number"},
		{"OUTFLOW_IN_FLIGHT", "1e3", "wants a whole number"},
		{"OUTFLOW_PER_DESTINATION", "many", "wants a whole number"},
		{"OUTFLOW_PER_DESTINATION", "201", "wants at most OUTFLOW_IN_FLIGHT"},
		{"OUTFLOW_KEEP_DELIVERED", "59s", `wants "forever", or a time from 1m to 3650d`},
		{"OUTFLOW_KEEP_DEAD", "never", "or a time from 1m"},
		{"OUTFLOW_KEEP_EXPIRED", "0", "or a time from 1m"},
		{"OUTFLOW_KEEP_CANCELLED", "3651d", "or a time from 1m"},
		{"OUTFLOW_HISTORY", "true", "wants on or off"},
		{"OUTFLOW_LOG_LEVEL", "loud", "wants debug, info, warn or error"},
		{"OUTFLOW_LOG_FORMAT", "xml", "wants text or json"},
		{"OUTFLOW_WEBHOOK_HOSTS", "https://hooks.example.com", "wants host names such as hooks.example.com"},
		{"OUTFLOW_WEBHOOK_SECRETS_FILE", "/nonexistent", "wants a file that can be read: no such file or directory"},
		{"OUTFLOW_WEBHOOK_INSECURE_LOOPBACK", "yes", "wants on or off"},
		{"DATABASE_URL", "mysql://nope", "wants a Postgres URL"},
		{"DATABASE_URL", "", "wants the application's database"},
		{"AWS_REGION", "eu west 1", "wants the region of your queues"},
		{"TEMPORAL_PROFILE", "nope", "TEMPORAL_… variables or TEMPORAL_CONFIG_FILE"},
	} {
		t.Run(c.name+" "+c.value, func(t *testing.T) {
			_, err := load(t, enough(map[string]string{c.name: c.value}))
			require.Error(t, err)
			if c.name != "TEMPORAL_PROFILE" { // the SDK's loader doesn't say which
				assert.Contains(t, err.Error(), c.name)
			}
			assert.Contains(t, err.Error(), c.wants)
			if strings.HasPrefix(c.name, "OUTFLOW_") {
				assert.Contains(t, err.Error(), c.value[:min(len(c.value), 100)], "it says what it got")
			}
			assert.Equal(t, 1, strings.Count(err.Error(), "\n"), "one heading, one mistake:\n%s", err)
		})
	}
}

func TestAllMistakesAreReportedTogether(t *testing.T) {
	names := []string{
		"OUTFLOW_OUTBOX", "OUTFLOW_TASK_QUEUE", "OUTFLOW_POLL_INTERVAL", "OUTFLOW_IN_FLIGHT", "OUTFLOW_PER_DESTINATION",
		"OUTFLOW_LEASE", "OUTFLOW_MISSING_GRACE", "OUTFLOW_ORDER_DEAD", "OUTFLOW_KEEP_DELIVERED",
		"OUTFLOW_KEEP_DEAD", "OUTFLOW_KEEP_EXPIRED",
		"OUTFLOW_KEEP_CANCELLED", "OUTFLOW_HISTORY",
		"OUTFLOW_LOG_LEVEL", "OUTFLOW_LOG_FORMAT", "OUTFLOW_HEALTH_ADDRESS", "OUTFLOW_SQS_TIMEOUT",
		"OUTFLOW_SNS_TIMEOUT", "OUTFLOW_RABBITMQ_URL_FILE", "OUTFLOW_RABBITMQ_TIMEOUT",
		"OUTFLOW_WEBHOOK_TIMEOUT", "OUTFLOW_WEBHOOK_HOSTS", "OUTFLOW_WEBHOOK_SECRETS_FILE",
		"OUTFLOW_WEBHOOK_SECRET", "OUTFLOW_WEBHOOK_HEADERS_FILE", "OUTFLOW_WEBHOOK_NETWORKS",
		"OUTFLOW_WEBHOOK_INSECURE_LOOPBACK", "AWS_REGION",
	}
	settings := map[string]string{}
	for _, name := range names {
		settings[name] = "///"
	}
	_, err := load(t, settings)
	require.Error(t, err)
	for _, name := range append(names, "DATABASE_URL") {
		assert.Contains(t, err.Error(), name)
	}
	assert.Equal(t, len(names)+1, strings.Count(err.Error(), "\n"))
}

// A mistyped URL must not put its password into a log.
func TestPasswordsAreNotShown(t *testing.T) {
	_, err := load(t, enough(map[string]string{"DATABASE_URL": "postgres://app:hunter2@db:notaport/shop"}))
	require.ErrorContains(t, err, "DATABASE_URL")
	assert.NotContains(t, err.Error(), "hunter2")
}

// A program that sends webhooks alone needs no region.
func TestNoRegionIsWanted(t *testing.T) {
	c, err := load(t, enough(map[string]string{"AWS_REGION": ""}))
	require.NoError(t, err)
	assert.Contains(t, broker(t, c, "sqs").Waiting, "no AWS region is configured (AWS_REGION)")
	require.ErrorContains(t, publish.NewRouter(brokers.Publishers(c.Brokers)...).Refusal("sqs://orders"), "AWS_REGION")
}

// An operator's command works while the broker's settings are broken.
func TestDatabaseAlone(t *testing.T) {
	_, _ = load(t, nil) // empties the environment
	c, err := config.Database(func(name string) string {
		return map[string]string{"DATABASE_URL": "host=db dbname=shop", "AWS_REGION": "", "OUTFLOW_LEASE": "x"}[name]
	})
	require.NoError(t, err)
	assert.Equal(t, "shop", c.ConnConfig.Database)

	t.Setenv("PGHOST", "libpq.example.com")
	c, err = config.Database(func(name string) string { return map[string]string{"PGHOST": "libpq.example.com"}[name] })
	require.NoError(t, err)
	assert.Equal(t, "libpq.example.com", c.ConnConfig.Host)
}

func TestLogger(t *testing.T) {
	c, err := load(t, enough(map[string]string{"OUTFLOW_LOG_LEVEL": "WARN", "OUTFLOW_LOG_FORMAT": "json"}))
	require.NoError(t, err)
	var out bytes.Buffer
	log := c.Logger(&out)
	log.Info("quiet")
	log.Warn("loud", "n", 1)
	assert.NotContains(t, out.String(), "quiet")
	assert.Contains(t, out.String(), `"msg":"loud","n":1`)

	c, err = load(t, enough(nil))
	require.NoError(t, err)
	out.Reset()
	c.Logger(&out).Info("hello", "n", 1)
	assert.Contains(t, out.String(), `msg=hello n=1`)
}

// A default that help shows may be set explicitly.
func TestDefaultsOfNothing(t *testing.T) {
	written := map[string]string{}
	for _, s := range config.Settings {
		if s.Default == "none" || s.Default == "off" {
			written[s.Name] = s.Default
		}
	}
	require.Len(t, written, 11)
	c, err := load(t, enough(written))
	require.NoError(t, err)
	assert.Contains(t, broker(t, c, "https").Waiting, "no host is allowed")
	assert.Empty(t, c.HealthAddress)
	assert.False(t, c.Retention.History)
	assert.Zero(t, c.Scanner.StreamAbove)
}

// The workers and the publisher of temporal destinations read the same variables.
func TestAMistakeOfTwoReadersIsReportedOnce(t *testing.T) {
	_, err := load(t, enough(map[string]string{"TEMPORAL_ADDRESS": "nonsense",
		"OUTFLOW_TEMPORAL_TARGETS": "default/orders/Process"}))
	require.ErrorContains(t, err, "TEMPORAL_ADDRESS: wants host:port")
	require.Equal(t, 1, strings.Count(err.Error(), "TEMPORAL_ADDRESS"))
}

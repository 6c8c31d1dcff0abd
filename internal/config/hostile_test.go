package config_test

import (
	"context"
	"regexp"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow/internal/config"
)

const (
	wantsPlain    = `wants 1 to 100 letters, digits or any of ". _ -", the first a letter or digit`
	wantsPoll     = "wants a duration from 10ms to 1h0m0s"
	wantsLease    = "wants a duration from 30s to 1h0m0s"
	wantsGrace    = "wants 0, or a duration from 1s to 168h0m0s"
	wantsTimeout  = "wants a duration from 1s to 30s"
	wantsAMQP     = "wants amqp://user:password@host:5672/vhost, or amqps:// for TLS: "
	wantsCount    = "wants a whole number from 1 to 1000"
	wantsKeep     = `wants "forever", or a time from 1m to 3650d, such as 36h or 30d`
	wantsOnOff    = "wants on or off"
	wantsLevel    = "wants debug, info, warn or error"
	wantsFormat   = "wants text or json"
	wantsAddress  = "wants host:port or :port, the port from 1 to 65535, such as :8086"
	wantsNetworks = "wants private networks such as 10.1.0.0/16 or fd00:1::/32, separated by commas: number "
	wantsHosts    = "wants host names such as hooks.example.com or *.example.com, separated by commas: number "
	noHost        = " is no host name (no scheme, port or path; other alphabets as xn--…)"
	wantsTargets  = "wants workflows such as default/orders/ProcessOrder (namespace, task queue, type), separated " +
		"by commas: number "
	noTarget       = " has not three parts (percent-encode a slash as %2F)"
	wantsSecret    = "wants whsec_ and 24 to 64 random bytes in base64, with padding"
	wantsRegion    = "wants the region of your queues, such as eu-west-1"
	wantsEndpoint  = "wants a URL of scheme, host and port, such as http://localhost:4566"
	wantsTemporal  = "wants host:port, such as temporal.example.com:7233, without a scheme"
	wantsBool      = "wants true or false"
	wantsDatabase  = "wants a Postgres URL or key=value settings: "
	keywordValue   = "failed to parse as keyword/value (put a value with a space into single quotes)"
	percentEncoded = "failed to parse as URL (percent-encode every character but letters and digits in the user " +
		"name and the password)"
)

// goodSecret is the base64 of 32 bytes.
const goodSecret = "whsec_MDEyMzQ1Njc4OWFiY2RlZjAxMjM0NTY3ODlhYmNkZWY="

// long is beyond every bound; errors repeat only a part of it.
var (
	long     = strings.Repeat("9", 5000)
	longGot  = ` (got "` + strings.Repeat("9", 100) + `"… of 5000 bytes)`
	manyBits = "340282366920938463463374607431768211456" // 2 to the 128th
)

// hostile are values from the environment that must be refused, each with its whole error.
var hostile = []struct{ name, value, says string }{
	{"OUTFLOW_OUTBOX", "a/b", wantsPlain + ` (got "a/b")`},
	{"OUTFLOW_OUTBOX", "..", wantsPlain + ` (got "..")`},
	{"OUTFLOW_OUTBOX", "-rf", wantsPlain + ` (got "-rf")`},
	{"OUTFLOW_OUTBOX", " shop", wantsPlain + ` (got " shop")`},
	{"OUTFLOW_OUTBOX", "shop\n", wantsPlain + ` (got "shop\n")`},
	{"OUTFLOW_OUTBOX", "shop\x00", wantsPlain + ` (got "shop\x00")`},
	{"OUTFLOW_OUTBOX", "läden", wantsPlain + ` (got "läden")`},
	{"OUTFLOW_OUTBOX", "ѕhop", wantsPlain + ` (got "ѕhop")`}, // a Cyrillic letter
	{"OUTFLOW_OUTBOX", "\xff\xfe", wantsPlain + ` (got "\xff\xfe")`},
	{"OUTFLOW_OUTBOX", "$(reboot)", wantsPlain + ` (got "$(reboot)")`},
	{"OUTFLOW_OUTBOX", long, wantsPlain + longGot},
	{"OUTFLOW_TASK_QUEUE", "two words", wantsPlain + ` (got "two words")`},
	{"OUTFLOW_TASK_QUEUE", "/_sys/queue", wantsPlain + ` (got "/_sys/queue")`},
	{"OUTFLOW_TASK_QUEUE", "\u202equeue", wantsPlain + ` (got "\u202equeue")`}, // turns the text around
	{"OUTFLOW_TASK_QUEUE", "a\x00b", wantsPlain + ` (got "a\x00b")`},
	{"OUTFLOW_TASK_QUEUE", long, wantsPlain + longGot},
	{"OUTFLOW_TRIGGER", "WAL", `wants poll, listen or wal (got "WAL")`},
	{"OUTFLOW_TRIGGER", "poll,wal", `wants poll, listen or wal (got "poll,wal")`},
	{
		"OUTFLOW_LISTEN_URL", "postgres://user:p%ssword@host/db",
		"wants a Postgres URL or key=value settings: failed to parse as URL " +
			"(percent-encode every character but letters and digits in the user name and the password)",
	},
	{"OUTFLOW_POLL_INTERVAL", "250", wantsPoll + ` (got "250")`},
	{"OUTFLOW_POLL_INTERVAL", "0", wantsPoll + ` (got "0")`},
	{"OUTFLOW_POLL_INTERVAL", "-1s", wantsPoll + ` (got "-1s")`},
	{"OUTFLOW_POLL_INTERVAL", "9.999999ms", wantsPoll + ` (got "9.999999ms")`},
	{"OUTFLOW_POLL_INTERVAL", "1h0.000000001s", wantsPoll + ` (got "1h0.000000001s")`},
	{"OUTFLOW_POLL_INTERVAL", "2562048h", wantsPoll + ` (got "2562048h")`}, // beyond 64 bits
	{"OUTFLOW_POLL_INTERVAL", "1 s", wantsPoll + ` (got "1 s")`},
	{"OUTFLOW_POLL_INTERVAL", "１s", wantsPoll + ` (got "１s")`}, // a full-width digit
	{"OUTFLOW_POLL_INTERVAL", "NaNs", wantsPoll + ` (got "NaNs")`},
	{"OUTFLOW_POLL_INTERVAL", "1s\x00", wantsPoll + ` (got "1s\x00")`},
	{"OUTFLOW_SQS_TIMEOUT", "999ms", wantsTimeout + ` (got "999ms")`},
	{"OUTFLOW_SQS_TIMEOUT", "30.001s", wantsTimeout + ` (got "30.001s")`},
	{"OUTFLOW_SQS_TIMEOUT", "10", wantsTimeout + ` (got "10")`},
	{"OUTFLOW_SNS_TIMEOUT", "31s", wantsTimeout + ` (got "31s")`},
	{"OUTFLOW_RABBITMQ_TIMEOUT", "0s", wantsTimeout + ` (got "0s")`},
	{"OUTFLOW_RABBITMQ_URL_FILE", "no\nsuch", "wants a file that can be read: no such file or directory"},
	{"OUTFLOW_RABBITMQ_URL_FILE", "amqp://app:hunter2@host", "wants a file that can be read: no such file or " +
		"directory"},
	{"OUTFLOW_RABBITMQ_URL_FILE", "/dev/null", "reading the file: " + wantsAMQP + "the scheme is another"},
	{"AMQP_URL", "localhost:5672", wantsAMQP + "it is no URL (what is special in user name and password is " +
		"percent-encoded, such as %40 for @)"},
	{"AMQP_URL", "amqp://app:hunter2/@host", wantsAMQP + "it is no URL (what is special in user name and password " +
		"is percent-encoded, such as %40 for @)"},
	{"AMQP_URL", "amqp://\u202ehost:5672\x00", wantsAMQP + "it is no URL (what is special in user name and password " +
		"is percent-encoded, such as %40 for @)"},
	{"AMQP_URL", long, wantsAMQP + "the scheme is another"},
	{"OUTFLOW_WEBHOOK_TIMEOUT", "0s", wantsTimeout + ` (got "0s")`},
	{"OUTFLOW_WEBHOOK_TIMEOUT", "1m", wantsTimeout + ` (got "1m")`},
	{"OUTFLOW_WEBHOOK_TIMEOUT", "-15s", wantsTimeout + ` (got "-15s")`},
	{"OUTFLOW_LEASE", "29.999s", wantsLease + ` (got "29.999s")`},
	{"OUTFLOW_LEASE", "1h0.001s", wantsLease + ` (got "1h0.001s")`},
	{"OUTFLOW_LEASE", "-1m", wantsLease + ` (got "-1m")`},
	{"OUTFLOW_LEASE", "1d", wantsLease + ` (got "1d")`},
	{"OUTFLOW_LEASE", manyBits + "h", wantsLease + ` (got "` + manyBits + `h")`},
	{"OUTFLOW_LEASE", long, wantsLease + longGot},
	{"OUTFLOW_MISSING_GRACE", "999ms", wantsGrace + ` (got "999ms")`},
	{"OUTFLOW_MISSING_GRACE", "168h0.001s", wantsGrace + ` (got "168h0.001s")`},
	{"OUTFLOW_MISSING_GRACE", "-1m", wantsGrace + ` (got "-1m")`},
	{"OUTFLOW_MISSING_GRACE", "10", wantsGrace + ` (got "10")`},
	{"OUTFLOW_MISSING_GRACE", long, wantsGrace + longGot},
	{"OUTFLOW_IN_FLIGHT", "0", wantsCount + ` (got "0")`},
	{"OUTFLOW_IN_FLIGHT", "-1", wantsCount + ` (got "-1")`},
	{"OUTFLOW_IN_FLIGHT", "1001", wantsCount + ` (got "1001")`},
	{"OUTFLOW_IN_FLIGHT", "1e2", wantsCount + ` (got "1e2")`},
	{"OUTFLOW_IN_FLIGHT", "0x10", wantsCount + ` (got "0x10")`},
	{"OUTFLOW_IN_FLIGHT", "1_0", wantsCount + ` (got "1_0")`},
	{"OUTFLOW_IN_FLIGHT", "10.5", wantsCount + ` (got "10.5")`},
	{"OUTFLOW_IN_FLIGHT", manyBits, wantsCount + ` (got "` + manyBits + `")`},
	{"OUTFLOW_IN_FLIGHT", "4294967297", wantsCount + ` (got "4294967297")`}, // 1 in 32 bits
	{"OUTFLOW_IN_FLIGHT", "١٠", wantsCount + ` (got "١٠")`},
	{"OUTFLOW_IN_FLIGHT", "10\x00", wantsCount + ` (got "10\x00")`},
	{"OUTFLOW_IN_FLIGHT", long, wantsCount + longGot},
	{"OUTFLOW_PER_DESTINATION", "0", wantsCount + ` (got "0")`},
	{"OUTFLOW_PER_DESTINATION", "-9223372036854775809", wantsCount + ` (got "-9223372036854775809")`},
	{"OUTFLOW_PER_DESTINATION", " 5", wantsCount + ` (got " 5")`},
	{"OUTFLOW_PER_DESTINATION", "201", "wants at most OUTFLOW_IN_FLIGHT (got 201)"},
	{"OUTFLOW_KEEP_DELIVERED", "59.9s", wantsKeep + ` (got "59.9s")`},
	{"OUTFLOW_KEEP_DELIVERED", "-1d", wantsKeep + ` (got "-1d")`},
	{"OUTFLOW_KEEP_DELIVERED", "7", wantsKeep + ` (got "7")`},
	{"OUTFLOW_KEEP_DELIVERED", "7d\x00", wantsKeep + ` (got "7d\x00")`},
	{"OUTFLOW_KEEP_DEAD", "never", wantsKeep + ` (got "never")`},
	{"OUTFLOW_KEEP_DEAD", "0", wantsKeep + ` (got "0")`},
	{"OUTFLOW_KEEP_DEAD", "1.5d", wantsKeep + ` (got "1.5d")`},
	{"OUTFLOW_KEEP_DEAD", "٧d", wantsKeep + ` (got "٧d")`},
	{"OUTFLOW_KEEP_EXPIRED", "3651d", wantsKeep + ` (got "3651d")`},
	{"OUTFLOW_KEEP_EXPIRED", "87600h0.000000001s", wantsKeep + ` (got "87600h0.000000001s")`},
	{"OUTFLOW_KEEP_EXPIRED", "213503982334601d",
		wantsKeep + ` (got "213503982334601d")`}, // one day in 64 bits of nanoseconds
	{"OUTFLOW_KEEP_CANCELLED", manyBits + "d", wantsKeep + ` (got "` + manyBits + `d")`},
	{"OUTFLOW_KEEP_CANCELLED", "FOREVER", wantsKeep + ` (got "FOREVER")`},
	{"OUTFLOW_KEEP_CANCELLED", long, wantsKeep + longGot},
	{"OUTFLOW_HISTORY", "true", wantsOnOff + ` (got "true")`},
	{"OUTFLOW_HISTORY", "on\n", wantsOnOff + ` (got "on\n")`},
	{"OUTFLOW_HISTORY", "оn", wantsOnOff + ` (got "оn")`}, // a Cyrillic letter
	{"OUTFLOW_STREAM_ABOVE", "0", `wants off, or a whole number from 1 to 100000 (got "0")`},
	{"OUTFLOW_STREAM_ABOVE", "100001", `wants off, or a whole number from 1 to 100000 (got "100001")`},
	{"OUTFLOW_STREAM_ABOVE", "Off", `wants off, or a whole number from 1 to 100000 (got "Off")`},
	{"OUTFLOW_STREAMS", "-1", `wants a whole number from 0 to 100 (got "-1")`},
	{"OUTFLOW_STREAMS", "101", `wants a whole number from 0 to 100 (got "101")`},
	{"OUTFLOW_STREAMS", "off", `wants a whole number from 0 to 100 (got "off")`},
	{"OUTFLOW_ORDER_DEAD", "Block", `wants block or pass (got "Block")`},
	{"OUTFLOW_LOG_LEVEL", "loud", wantsLevel + ` (got "loud")`},
	{"OUTFLOW_LOG_LEVEL", "info+4", wantsLevel + ` (got "info+4")`},
	{"OUTFLOW_LOG_LEVEL", "İnfo", wantsLevel + ` (got "İnfo")`}, // a Turkish capital
	{"OUTFLOW_LOG_LEVEL", "debug\n", wantsLevel + ` (got "debug\n")`},
	{"OUTFLOW_LOG_LEVEL", long, wantsLevel + longGot},
	{"OUTFLOW_LOG_FORMAT", "xml", wantsFormat + ` (got "xml")`},
	{"OUTFLOW_LOG_FORMAT", "JSON", wantsFormat + ` (got "JSON")`},
	{"OUTFLOW_LOG_FORMAT", "json\x00", wantsFormat + ` (got "json\x00")`},
	{"OUTFLOW_HEALTH_ADDRESS", "8086", wantsAddress + ` (got "8086")`},
	{"OUTFLOW_HEALTH_ADDRESS", "localhost", wantsAddress + ` (got "localhost")`},
	{"OUTFLOW_HEALTH_ADDRESS", ":", wantsAddress + ` (got ":")`},
	{"OUTFLOW_HEALTH_ADDRESS", ":0", wantsAddress + ` (got ":0")`},
	{"OUTFLOW_HEALTH_ADDRESS", ":65536", wantsAddress + ` (got ":65536")`},
	{"OUTFLOW_HEALTH_ADDRESS", ":-1", wantsAddress + ` (got ":-1")`},
	{"OUTFLOW_HEALTH_ADDRESS", ":http", wantsAddress + ` (got ":http")`},
	{"OUTFLOW_HEALTH_ADDRESS", "::1:8086", wantsAddress + ` (got "::1:8086")`},
	{"OUTFLOW_HEALTH_ADDRESS", "http://0.0.0.0:8086", wantsAddress + ` (got "http://0.0.0.0:8086")`},
	{"OUTFLOW_HEALTH_ADDRESS", "a b:8086", wantsAddress + ` (got "a b:8086")`},
	{"OUTFLOW_HEALTH_ADDRESS", "a\x00:8086", wantsAddress + ` (got "a\x00:8086")`},
	{"OUTFLOW_HEALTH_ADDRESS", ":８０", wantsAddress + ` (got ":８０")`},
	{"OUTFLOW_HEALTH_ADDRESS", long + ":8086",
		wantsAddress + ` (got "` + strings.Repeat("9", 100) + `"… of 5005 bytes)`},
	{"OUTFLOW_WEBHOOK_HOSTS", "*", wantsHosts + `1` + noHost + ` (got "*")`},
	{"OUTFLOW_WEBHOOK_HOSTS", "*.com", wantsHosts + `1 is too wide: a pattern wants at least two labels after the ` +
		`star (got "*.com")`},
	{"OUTFLOW_WEBHOOK_HOSTS", "a.example.com,,b.example.com",
		wantsHosts + `2` + noHost + ` (got "a.example.com,,b.example.com")`},
	{"OUTFLOW_WEBHOOK_HOSTS", "https://a.example.com", wantsHosts + `1` + noHost + ` (got "https://a.example.com")`},
	{"OUTFLOW_WEBHOOK_HOSTS", "a.example.com\x00", wantsHosts + `1` + noHost + ` (got "a.example.com\x00")`},
	{"OUTFLOW_WEBHOOK_HOSTS", "exаmple.com", wantsHosts + `1` + noHost + ` (got "exаmple.com")`}, // a Cyrillic letter
	{"OUTFLOW_WEBHOOK_HOSTS", long, wantsHosts + `1` + noHost + longGot},
	{"OUTFLOW_WEBHOOK_HOSTS", "a.example.com", "wants OUTFLOW_WEBHOOK_SECRETS_FILE or OUTFLOW_WEBHOOK_SECRET " +
		"beside it: every request is signed"},
	{"OUTFLOW_WEBHOOK_SECRETS_FILE", "/", `reading the file: is a directory (got "/")`},
	{"OUTFLOW_WEBHOOK_SECRETS_FILE", "no\nsuch", `wants a file that can be read: no such file or directory (got ` +
		`"no\nsuch")`},
	{"OUTFLOW_WEBHOOK_SECRETS_FILE", "a\x00b", `wants a file that can be read: invalid argument (got "a\x00b")`},
	{"OUTFLOW_WEBHOOK_SECRETS_FILE", long, "wants a file that can be read: file name too long" + longGot},
	{"OUTFLOW_WEBHOOK_SECRET", "hunter2", "secret 1: " + wantsSecret},
	{"OUTFLOW_WEBHOOK_SECRET", "whsec_hunter2", "secret 1: " + wantsSecret},
	{"OUTFLOW_WEBHOOK_SECRET", goodSecret + " " + goodSecret[:30], "secret 2: " + wantsSecret},
	{"OUTFLOW_WEBHOOK_SECRET", " ", "wants a secret"},
	{"OUTFLOW_WEBHOOK_SECRET", long, "secret 1: " + wantsSecret},
	{"OUTFLOW_WEBHOOK_HEADERS_FILE", "/", `reading the file: is a directory (got "/")`},
	{"OUTFLOW_WEBHOOK_HEADERS_FILE", "no\nsuch", `wants a file that can be read: no such file or directory (got ` +
		`"no\nsuch")`},
	{"OUTFLOW_WEBHOOK_HEADERS_FILE", "a.example.com x-api-key: hunter2", `wants a file that can be read: no such ` +
		`file or directory`},
	{"OUTFLOW_WEBHOOK_NETWORKS", "10.0.0.0", wantsNetworks + `1 is no network: wants an address, a slash and the ` +
		`number of its bits (got "10.0.0.0")`},
	{"OUTFLOW_WEBHOOK_NETWORKS", "10.1.0.0/16,10.1.0.0/8", wantsNetworks + `2 has bits beyond its length (did you ` +
		`mean 10.0.0.0/8?) (got "10.1.0.0/16,10.1.0.0/8")`},
	{"OUTFLOW_WEBHOOK_NETWORKS", "169.254.169.254/32", wantsNetworks + `1 is link-local or a cloud's metadata ` +
		`service, which are always refused (got "169.254.169.254/32")`},
	{"OUTFLOW_WEBHOOK_NETWORKS", long, wantsNetworks + `1 is no network: wants an address, a slash and the number ` +
		`of its bits` + longGot},
	{"OUTFLOW_WEBHOOK_INSECURE_LOOPBACK", "1", wantsOnOff + ` (got "1")`},
	{"OUTFLOW_WEBHOOK_INSECURE_LOOPBACK", "ON", wantsOnOff + ` (got "ON")`},
	{"OUTFLOW_TEMPORAL_TARGETS", "orders/Process", wantsTargets + `1` + noTarget + ` (got "orders/Process")`},
	{"OUTFLOW_TEMPORAL_TARGETS", "default/orders/Process,", wantsTargets + `2` + noTarget +
		` (got "default/orders/Process,")`},
	{"OUTFLOW_TEMPORAL_TARGETS", "default/orders/Pro\x00cess", wantsTargets + `1 has a part that is empty, or is no ` +
		`UTF-8, percent-encoded, without control characters (got "default/orders/Pro\x00cess")`},
	{"OUTFLOW_TEMPORAL_TARGETS", "temporal-system/orders/Process", wantsTargets + `1 is never started: names that ` +
		`begin with temporal-sys are Temporal's own (got "temporal-system/orders/Process")`},
	{"OUTFLOW_TEMPORAL_TARGETS", long, wantsTargets + `1` + noTarget + longGot},
	{"OUTFLOW_TEMPORAL_TIMEOUT", "31s", wantsTimeout + ` (got "31s")`},
	{"OUTFLOW_TEMPORAL_TIMEOUT", "10", wantsTimeout + ` (got "10")`},
	{"DATABASE_URL", "", "wants the application's database, such as postgres://user:password@host:5432/name (or " +
		"libpq's PGHOST, PGDATABASE, …)"},
	{"DATABASE_URL", "mysql://root@db/shop", wantsDatabase + keywordValue},
	{"DATABASE_URL", "shop", wantsDatabase + keywordValue},
	{"DATABASE_URL", "postgres://app@db:notaport/shop", wantsDatabase + "invalid port"},
	{"DATABASE_URL", "postgres://app@db:65536/shop", wantsDatabase + "invalid port"},
	{"DATABASE_URL", "postgres://app@db\x00/shop", wantsDatabase + percentEncoded},
	{"DATABASE_URL", "postgres://app@db/shop?sslmode=perhaps", wantsDatabase + "failed to configure TLS (sslmode " +
		"is invalid)"},
	{"DATABASE_URL", "postgres://app@db/shop?pool_max_conns=0", wantsDatabase + "pool_max_conns too small"},
	{"DATABASE_URL", "postgres://app@db/shop?pool_max_conns=many", wantsDatabase + `cannot parse pool_max_conns ` +
		`(strconv.ParseInt: parsing "many": invalid syntax)`},
	{"DATABASE_URL", "postgres://app@db/shop?connect_timeout=-1", wantsDatabase + "invalid connect_timeout " +
		"(negative timeout)"},
	{"TEMPORAL_ADDRESS", "nonsense", wantsTemporal + ` (got "nonsense")`},
	{"TEMPORAL_ADDRESS", "localhost:0", wantsTemporal + ` (got "localhost:0")`},
	{"TEMPORAL_ADDRESS", "localhost:7233\n", wantsTemporal + ` (got "localhost:7233\n")`},
	{"TEMPORAL_ADDRESS", "https://temporal.example.com:7233",
		wantsTemporal + ` (got "https://temporal.example.com:7233")`},
	{"TEMPORAL_ADDRESS", "http:///temporal:7233", wantsTemporal + ` (got "http:///temporal:7233")`},
	{"TEMPORAL_ADDRESS", "::1:7233", wantsTemporal + ` (got "::1:7233")`},
	{"TEMPORAL_ADDRESS", long, wantsTemporal + longGot},
	{"TEMPORAL_TLS", "perhaps", wantsBool + ` (got "perhaps")`},
	{"TEMPORAL_TLS", "on", wantsBool + ` (got "on")`},
	{"TEMPORAL_TLS_DISABLE_HOST_VERIFICATION", "no\x00", wantsBool + ` (got "no\x00")`},
	{"TEMPORAL_PROFILE", "no\nsuch\x00", "unable to find profile no such  in config data"},
	{"TEMPORAL_PROFILE", long, "unable to find profile " + strings.Repeat("9", 377) + "…"},
	{"AWS_REGION", "eu-west-1 ", wantsRegion + ` (got "eu-west-1 ")`},
	{"AWS_REGION", "eu-west-1.example.com/", wantsRegion + ` (got "eu-west-1.example.com/")`},
	{"AWS_REGION", "-", wantsRegion + ` (got "-")`},
	{"AWS_REGION", "irlandé", wantsRegion + ` (got "irlandé")`},
	{"AWS_REGION", long, wantsRegion + longGot},
	{"AWS_ENDPOINT_URL_SQS", "nonsense", wantsEndpoint + ` (got "nonsense")`},
	{"AWS_ENDPOINT_URL_SQS", "localhost:4566", wantsEndpoint + ` (got "localhost:4566")`},
	{"AWS_ENDPOINT_URL_SQS", "ftp://localhost:4566", wantsEndpoint + ` (got "ftp://localhost:4566")`},
	{"AWS_ENDPOINT_URL_SQS", "http://", wantsEndpoint + ` (got "http://")`},
	{"AWS_ENDPOINT_URL_SQS", "http://:4566", wantsEndpoint + ` (got "http://:4566")`},
	{"AWS_ENDPOINT_URL_SQS", "http://localhost:port", wantsEndpoint + ` (got "http://localhost:port")`},
	{"AWS_ENDPOINT_URL_SQS", "http://localhost:65536", wantsEndpoint + ` (got "http://localhost:65536")`},
	{"AWS_ENDPOINT_URL_SQS", "http://user:hunter2@localhost", wantsEndpoint},
	{"AWS_ENDPOINT_URL_SNS", "nonsense", wantsEndpoint + ` (got "nonsense")`},
	{"AWS_ENDPOINT_URL_STS", "nonsense", wantsEndpoint + ` (got "nonsense")`},
	{"AWS_ENDPOINT_URL", "http://local host", wantsEndpoint + ` (got "http://local host")`},
	{"AWS_ENDPOINT_URL", long, wantsEndpoint + longGot},
}

func TestHostileEnvironment(t *testing.T) {
	require.GreaterOrEqual(t, len(hostile), 60)
	tried := map[string]bool{}
	for _, c := range hostile {
		tried[c.name] = true
		t.Run(c.name+" "+c.value[:min(len(c.value), 20)], func(t *testing.T) {
			_, err := load(t, enough(map[string]string{c.name: c.value}))
			name := c.name
			if name == "TEMPORAL_PROFILE" { // the SDK's loader doesn't say which
				name = "TEMPORAL_… variables or TEMPORAL_CONFIG_FILE"
			}
			require.EqualError(t, err, "settings:\n"+name+": "+c.says)
		})
	}
	for _, s := range config.Settings {
		assert.True(t, tried[s.Name], "%s: no bad value is tried", s.Name)
	}
}

// Odd, and valid.
func TestOddValuesThatAreFine(t *testing.T) {
	for name, values := range map[string][]string{
		"OUTFLOW_OUTBOX":         {"0", strings.Repeat("a", 100), "a._-"},
		"OUTFLOW_POLL_INTERVAL":  {"10ms", "1h", ".5s"},
		"OUTFLOW_LEASE":          {"30s", "1h", "0.5h"},
		"OUTFLOW_MISSING_GRACE":  {"0", "0s", "1s", "168h"},
		"OUTFLOW_IN_FLIGHT":      {"1", "1000", "007"},
		"OUTFLOW_LOG_LEVEL":      {"DEBUG", "Warn"},
		"OUTFLOW_HEALTH_ADDRESS": {":8086", "localhost:1", "[::1]:65535", "[fe80::1%eth0]:8086", "0.0.0.0:8086"},
		"TEMPORAL_ADDRESS": {"localhost:7233", ":7233", "[::1]:7233", "dns:///temporal:7233",
			"unix:///run/temporal.sock"},
		"TEMPORAL_TLS": {"1", "0", "True", "false"},
		"AWS_ENDPOINT_URL_SQS": {"http://localhost:4566", "http://[::1]:4566/", "https://sqs.example.com",
			"http://127.0.0.1:1/path"},
		"AWS_REGION": {"elasticmq", "us-gov-west-1", "x"},
		"DATABASE_URL": {"host=/tmp dbname=shop", "postgres://app:p%40ss%2Fw%3Ard@db,db2:5433/shop",
			"postgresql:///shop"},
	} {
		for _, value := range values {
			_, err := load(t, enough(map[string]string{name: value}))
			require.NoError(t, err, "%s=%s", name, value)
		}
	}
}

// A password must not get into a log, wherever the mistake is.
func TestPasswordsAreNotShownInPart(t *testing.T) {
	for _, url := range []string{
		"postgres://app:hun/ter2@db/shop", "postgres://app:hun@ter2@db:notaport/shop",
		"postgres://app:hun:ter2@db:notaport/shop",
		"postgres://app:hun%zzter2@db/shop", "postgres://app:hun ter2@db/shop\x00",
		"postgres://app:hun#ter2@db/shop", "postgres://app:hun?ter2@db/shop",
		"host=db password=hun ter2 dbname=shop port=x", "host=db password='hun ter2 dbname=shop",
		"postgres://app:hun`: ter2@db:x/shop",
		"postgres://db/shop?password=hun%zzter2", "postgres://app@db/shop?password=hunter2&sslmode=x",
		"postgre://app:hunter2@db/shop",
	} {
		_, err := load(t, enough(map[string]string{"DATABASE_URL": url}))
		if err != nil {
			require.NotContains(t, err.Error(), "hun", url)
			require.NotContains(t, err.Error(), "ter2", url)
		}
	}
}

var mistake = regexp.MustCompile(`^(OUTFLOW_[A-Z_]+|DATABASE_URL|AWS_[A-Z_…]+( variables or files)?|TEMPORAL_[A-Z_]+|TEMPORAL_… variables or TEMPORAL_CONFIG_FILE): `)

// FuzzLoad: whatever the environment, Load returns, and each line of its error
// names a variable and is short enough to read.
func FuzzLoad(f *testing.F) {
	var names []string
	for _, s := range config.Settings {
		names = append(names, s.Name)
	}
	names = append(names, "DATABASE_URL", "TEMPORAL_ADDRESS", "TEMPORAL_NAMESPACE", "TEMPORAL_API_KEY", "TEMPORAL_TLS",
		"TEMPORAL_PROFILE", "TEMPORAL_GRPC_META_X", "AWS_ENDPOINT_URL_SQS")
	for _, c := range hostile {
		if i := slices.Index(names, c.name); i >= 0 {
			f.Add(uint8(i), c.value, uint8(i+1), c.value)
		}
	}
	for i := range names {
		f.Add(uint8(i), "true", uint8(0), "")
		f.Add(uint8(i), "two\nlines", uint8(i+1), long)
	}
	for _, name := range []string{"PGHOST", "PGPORT", "PGDATABASE", "PGUSER", "PGPASSWORD", "PGSERVICE", "PGSSLMODE",
		"PGAPPNAME", "PGPASSFILE", "PGSERVICEFILE"} {
		f.Setenv(name, "")
	}
	f.Setenv("AWS_CONFIG_FILE", "/nonexistent")
	f.Setenv("AWS_SHARED_CREDENTIALS_FILE", "/nonexistent")
	f.Setenv("AWS_REGION", "eu-west-1")
	f.Setenv("HOME", f.TempDir())
	f.Fuzz(func(t *testing.T, one uint8, first string, two uint8, second string) {
		if strings.Contains(first+second, "service") || strings.Contains(first+second, "ssl") ||
			strings.Contains(first+second, "passfile") {
			t.Skip("names a file")
		}
		settings := enough(map[string]string{names[int(one)%len(names)]: first, names[int(two)%len(names)]: second})
		_, err := config.Load(context.Background(), func(name string) string { return settings[name] })
		if err == nil {
			return
		}
		lines := strings.Split(err.Error(), "\n")
		require.Equal(t, "settings:", lines[0])
		require.Greater(t, len(lines), 1)
		for _, line := range lines[1:] {
			require.Regexp(t, mistake, line)
			require.Less(t, utf8.RuneCountInString(line), 700, line)
		}
	})
}

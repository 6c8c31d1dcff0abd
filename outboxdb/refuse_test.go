package outboxdb_test

import (
	"encoding/json"
	"errors"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/outboxdb"
)

// input is a message that is refused, or, at a bound, just accepted.
type input struct {
	name   string
	change func(*outflow.Message)
	// field and wants are of the refusal; wants is a part of it.
	field, wants string
	// goOnly: no SQL value says it, and Go refuses it before it is sent.
	goOnly bool
	// check is the table's constraint that refuses the same value by itself.
	check string
}

var inAYear = time.Now().AddDate(1, 0, 0).Truncate(time.Second)

// over returns how many headers, by their number.
func headers(n int) map[string]string {
	h := make(map[string]string, n)
	for i := range n {
		h["h-"+strings.Repeat("i", i+1)] = "v"
	}
	return h
}

func header(name, value string) func(*outflow.Message) {
	return func(m *outflow.Message) { m.Headers = map[string]string{name: value} }
}

func callback(d string) func(*outflow.Message) {
	return func(m *outflow.Message) { m.Callback = d }
}

// signal is a signal to a workflow, which "" leaves open.
func signal(workflowID string) func(*outflow.Message) {
	to := destination("temporal://orders/T?signal=pay")
	if workflowID == "" {
		return to
	}
	return both(to, header("workflow-id", workflowID))
}

func both(a, b func(*outflow.Message)) func(*outflow.Message) {
	return func(m *outflow.Message) { a(m); b(m) }
}

func destination(d string) func(*outflow.Message) {
	return func(m *outflow.Message) { m.Destination = d }
}

const (
	wantsDestination = "wants sqs://queue, sns://topic, rabbitmq://exchange/routing-key, temporal://task-queue/WorkflowType, https://host/path, a queue URL or an ARN: "
	wantsCallback    = "wants none, sqs://queue, sns://topic, rabbitmq://exchange/routing-key, temporal://task-queue/WorkflowType, https://host/path, a queue URL or an ARN: "
	wantsType        = `wants 1 to 200 letters, digits or any of ". _ : / -", the first a letter or digit (got `
	wantsContentType = "wants 1 to 255 printable ASCII characters, no space at either end (got "
	wantsOrderingKey = "wants 1 to 128 printable ASCII characters and no space (got "
	wantsName        = `a name wants 1 to 128 letters, digits, "_", "-" and single inner dots (got `
	wantsText        = "wants valid UTF-8 without NUL"
)

func wantsRoute(messageType string) string {
	return `wants a route (got "` + messageType + `", which has none): "outflow route set -type ` + messageType +
		` DESTINATION" sets one`
}

var badInputs = []input{
	{name: "no destination", change: destination(""), field: "destination",
		wants: wantsDestination + `no scheme (got "")`, check: "messages_destination"},
	{name: "a type without a route", change: destination(outflow.ByRoute), field: "type",
		wants: wantsRoute("user-registered"), check: "messages_destination"},
	{name: "no scheme", change: destination("orders"), field: "destination", wants: wantsDestination +
		`no scheme (did you mean sqs://orders?) (got "orders")`, check: "messages_destination"},
	{name: "a scheme without its colon", change: destination("sqs//orders"), field: "destination",
		wants: wantsDestination + `a scheme ends in "://" (did you mean sqs://orders?) (got "sqs//orders")`, check: "messages_destination"},
	{name: "an unknown scheme", change: destination("kafka://orders"), field: "destination",
		wants: wantsDestination + `unknown scheme "kafka" (got "kafka://orders")`, check: "messages_destination"},
	{name: "a scheme in capitals", change: destination("SQS://orders"), field: "destination", wants: wantsDestination +
		`a scheme is in lower case (did you mean sqs://orders?) (got "SQS://orders")`, check: "messages_destination"},
	{name: "a queue without a name", change: destination("sqs://"), field: "destination",
		wants: wantsDestination + `a name in sqs has 1 to 80`, check: "messages_destination"},
	{name: "a queue name of 81", change: destination("sqs://" + strings.Repeat("q", 81)), field: "destination",
		wants: wantsDestination + `a name in sqs has 1 to 80`, check: "messages_destination"},
	{name: "a FIFO queue name of 81", change: destination("sqs://" + strings.Repeat("q", 76) + ".fifo"),
		field: "destination", wants: wantsDestination, check: "messages_destination"},
	{name: "a topic name of 257", change: destination("sns://" + strings.Repeat("t", 257)), field: "destination",
		wants: wantsDestination + `a name in sns has 1 to 256`, check: "messages_destination"},
	{name: "a space in a queue name", change: destination("sqs://my orders"), field: "destination",
		wants: wantsDestination, check: "messages_destination"},
	{name: "a line break after a queue name", change: destination("sqs://orders\n"), field: "destination",
		wants: wantsDestination + `a name in sqs has 1 to 80 letters, digits, _ or -, and may end in .fifo (got "sqs://orders\n")`, check: "messages_destination"},
	{name: "an account of 11 digits", change: destination("sqs://q?account=12345678901"), field: "destination",
		wants: wantsDestination + `account wants 12 digits`, check: "messages_destination"},
	{name: "Arabic digits", change: destination("sqs://q?account=١٢٣٤٥٦٧٨٩٠١٢"), field: "destination",
		wants: wantsDestination, check: "messages_destination"},
	{name: "no region", change: destination("sqs://q?region=Ireland"), field: "destination",
		wants: wantsDestination + `region wants a form like eu-west-1`, check: "messages_destination"},
	{name: "an unknown parameter", change: destination("sqs://q?queue=r"), field: "destination",
		wants: wantsDestination + `unknown parameter "queue"; known are region and account`, check: "messages_destination"},
	{name: "a bad name in an ARN", change: destination("arn:aws:sqs:eu-west-1:123456789012:a.b"), field: "destination",
		wants: wantsDestination + `a name in sqs`, check: "messages_destination"},
	{name: "an ARN of something else", change: destination("arn:aws:s3:::bucket"), field: "destination",
		wants: wantsDestination + `an ARN wants arn:aws:sqs:`, check: "messages_destination"},
	{name: "RabbitMQ without a slash", change: destination("rabbitmq://exchange"), field: "destination",
		wants: wantsDestination + `rabbitmq wants exchange/routing-key`, check: "messages_destination"},
	{name: "RabbitMQ's default exchange without a key", change: destination("rabbitmq:///"), field: "destination",
		wants: wantsDestination + `rabbitmq's default exchange wants a routing key`, check: "messages_destination"},
	{name: "a RabbitMQ key of 256 bytes", change: destination("rabbitmq:///" + strings.Repeat("%20", 256)),
		field: "destination", wants: wantsDestination, check: "messages_destination"},
	{name: "a NUL byte in a RabbitMQ key", change: destination("rabbitmq://e/a%00"), field: "destination",
		wants: wantsDestination + `rabbitmq's exchange and routing key want at most 255 bytes`, check: "messages_destination"},
	{name: "Temporal without a workflow type", change: destination("temporal://orders"), field: "destination",
		wants: wantsDestination + `temporal wants task-queue/WorkflowType`, check: "messages_destination"},
	{name: "a control character in a task queue", change: destination("temporal://a%0A/T"), field: "destination",
		wants: wantsDestination + `temporal's task queue and workflow type want UTF-8`, check: "messages_destination"},
	{name: "an unknown parameter of a workflow", change: destination("temporal://orders/T?cron=daily"),
		field: "destination",
		wants: wantsDestination + `unknown parameter "cron"; known are namespace, signal and existing`, check: "messages_destination"},
	{name: "a plus sign in a signal", change: destination("temporal://orders/T?signal=a+b"), field: "destination",
		wants: wantsDestination + `parameter signal wants UTF-8, percent-encoded`, check: "messages_destination"},
	{name: "a signal without a workflow ID", change: signal(""), field: "headers",
		wants: "wants workflow-id, which names the workflow that the signal goes to"},
	{name: "a workflow ID of 256 bytes", change: signal(strings.Repeat("i", 256)), field: "headers",
		wants: "workflow-id wants 1 to 255 printable ASCII characters"},
	{name: "a workflow ID that is no ASCII", change: signal("bestellung-ä"), field: "headers",
		wants: "workflow-id wants 1 to 255 printable ASCII characters (got \"bestellung-ä\")"},
	{name: "an empty workflow ID", change: both(destination("temporal://orders/T"), header("Workflow-ID", "")),
		field: "headers",
		wants: "workflow-id wants 1 to 255 printable ASCII characters"},
	{name: "plain http", change: destination("http://example.org/hook"), field: "destination",
		wants: wantsDestination + `plain http is for localhost`, check: "messages_destination"},
	{name: "plain http to what looks like this machine", change: destination("http://127.0.0.1.evil.com/"),
		field: "destination", wants: wantsDestination, check: "messages_destination"},
	{name: "https without a host", change: destination("https:///hook"), field: "destination",
		wants: wantsDestination + `an address wants a host`, check: "messages_destination"},
	{name: "a user name in an address", change: destination("https://me@example.org/"), field: "destination",
		wants: wantsDestination + `an address wants no user name or password`, check: "messages_destination"},
	{name: "a fragment in an address", change: destination("https://example.org/#top"), field: "destination",
		wants: wantsDestination + `an address wants no fragment`, check: "messages_destination"},
	{name: "an address of 2,001 bytes", change: destination("https://example.org/" + strings.Repeat("a", 1981)),
		field: "destination", wants: wantsDestination + `longer than 2000 bytes`, check: "messages_destination"},
	{name: "a port of 65536", change: destination("https://example.org:65536/"), field: "destination",
		wants: wantsDestination + `a port wants a number from 1 to 65535`, check: "messages_destination"},
	{name: "a host with an empty label", change: destination("https://hooks..example.com/"), field: "destination",
		wants: wantsDestination + `a host wants labels of 1 to 63`, check: "messages_destination"},
	{name: "a host that is no IPv4 address", change: destination("https://256.1.1.1/"), field: "destination",
		wants: wantsDestination + `a host that ends in a number`, check: "messages_destination"},
	{name: "a queue's URL that can't be read",
		change: destination("https://sqs.eu-west-1.amazonaws.com/orders?token=hunter2"), field: "destination", wants: wantsDestination + `it looks like an SQS queue's URL`, check: "messages_destination"},
	{name: "a query that holds a token", change: destination("https://example.org:0/?token=hunter2"),
		field: "destination", wants: wantsDestination +
			`a port wants a number from 1 to 65535, without zeros before it (got "https://example.org:0/")`, check: "messages_destination"},
	{name: "invalid UTF-8 in the destination", change: destination("sqs://\xff"), field: "destination",
		wants: wantsText, goOnly: true},
	{name: "NUL in the destination", change: destination("sqs://a\x00"), field: "destination", wants: wantsText,
		goOnly: true},

	{name: "a callback without a scheme", change: callback("replies"), field: "callback",
		wants: wantsCallback + `no scheme (did you mean sqs://replies?) (got "replies")`, check: "messages_callback"},
	{name: "a callback over plain http", change: callback("http://example.org/done"), field: "callback",
		wants: wantsCallback + `plain http is for localhost`, check: "messages_callback"},
	{name: "a callback with a password", change: callback("https://me:secret@example.org/"), field: "callback",
		wants: wantsCallback + `an address wants no user name or password (got "https://example.org/")`, check: "messages_callback"},
	{name: "a callback to a queue without a name", change: callback("sqs://"), field: "callback", wants: wantsCallback,
		check: "messages_callback"},
	{name: "a callback of 2,001 bytes", change: callback("https://example.org/" + strings.Repeat("a", 1981)),
		field: "callback", wants: wantsCallback, check: "messages_callback"},
	{name: "a callback to none in capitals", change: callback("None"), field: "callback",
		wants: wantsCallback + `no scheme (did you mean sqs://None?) (got "None")`, check: "messages_callback"},
	{name: "a callback to a signal", change: callback("temporal://carts/Cart?signal=done"), field: "callback",
		wants: "wants a temporal destination without a signal: a callback names no workflow", check: "messages_callback"},
	{name: "a payload for no callback", change: func(m *outflow.Message) { m.CallbackPayload = true },
		field: "callback_payload", wants: "wants a callback beside it", check: "messages_callback_payload"},
	{name: "a payload for the callback none", change: func(m *outflow.Message) {
		m.Callback,
			m.CallbackPayload = outflow.NoCallback, true
	}, field: "callback_payload", wants: "wants a callback beside it"},
	{name: "NUL in the callback", change: callback("sqs://a\x00"), field: "callback", wants: wantsText, goOnly: true},

	{name: "no type", change: func(m *outflow.Message) { m.Type = "" }, field: "type", wants: wantsType + `"")`,
		check: "messages_type"},
	{name: "a type of 201", change: func(m *outflow.Message) { m.Type = strings.Repeat("t", 201) }, field: "type",
		wants: wantsType, check: "messages_type"},
	{name: "a space in the type", change: func(m *outflow.Message) { m.Type = "user registered" }, field: "type",
		wants: wantsType + `"user registered")`, check: "messages_type"},
	{name: "a dot before the type", change: func(m *outflow.Message) { m.Type = ".hidden" }, field: "type",
		wants: wantsType, check: "messages_type"},
	{name: "a callback's type", change: func(m *outflow.Message) { m.Type = "outflow.callback" }, field: "type",
		wants: `wants a beginning other than "outflow.", which is Outflow's own: it marks callbacks (got "outflow.callback")`, check: "messages_type"},
	{name: "a type in Outflow's namespace, in capitals", change: func(m *outflow.Message) { m.Type = "OutFlow.order" },
		field: "type", wants: `wants a beginning other than "outflow."`, check: "messages_type"},
	{name: "an umlaut in the type", change: func(m *outflow.Message) { m.Type = "größe" }, field: "type",
		wants: wantsType + `"größe")`, check: "messages_type"},
	{name: "invalid UTF-8 in the type", change: func(m *outflow.Message) { m.Type = "a\xc3" }, field: "type",
		wants: wantsText, goOnly: true},
	{name: "NUL in the type", change: func(m *outflow.Message) { m.Type = "a\x00b" }, field: "type", wants: wantsText,
		goOnly: true},

	{name: "no payload", change: func(m *outflow.Message) { m.Payload = nil }, field: "payload",
		wants: "wants 1 to 16777216 bytes (got 0)"},
	{name: "an empty payload", change: func(m *outflow.Message) { m.Payload = []byte{} }, field: "payload",
		wants: "wants 1 to 16777216 bytes (got 0)", check: "messages_payload"},
	{name: "a payload beyond SQS", change: payloadOf(1<<20+1, "sqs://q"), field: "payload",
		wants: "wants at most 1048576 bytes for sqs (got 1048577)"},
	{name: "a payload beyond SNS", change: payloadOf(1<<20+1, "sns://t"), field: "payload",
		wants: "wants at most 1048576 bytes for sns (got 1048577)"},
	{name: "a payload beyond 16 MiB", change: payloadOf(16<<20+1, "https://example.org/"), field: "payload",
		wants: "wants 1 to 16777216 bytes (got 16777217)", check: "messages_payload"},

	{name: "a content type of 256", change: func(m *outflow.Message) { m.ContentType = strings.Repeat("c", 256) },
		field: "content_type", wants: wantsContentType, check: "messages_content_type"},
	{name: "a space before the content type", change: func(m *outflow.Message) { m.ContentType = " text/plain" },
		field: "content_type", wants: wantsContentType, check: "messages_content_type"},
	{name: "a line break in the content type", change: func(m *outflow.Message) { m.ContentType = "text/plain\r\nx" },
		field: "content_type", wants: wantsContentType, check: "messages_content_type"},
	{name: "an umlaut in the content type", change: func(m *outflow.Message) { m.ContentType = "text/ä" },
		field: "content_type", wants: wantsContentType, check: "messages_content_type"},
	{name: "NUL in the content type", change: func(m *outflow.Message) { m.ContentType = "a\x00" },
		field: "content_type", wants: wantsText, goOnly: true},

	{name: "65 headers", change: func(m *outflow.Message) { m.Headers = headers(65) }, field: "headers",
		wants: "wants at most 64 headers (got 65)"},
	{name: "an empty header name", change: header("", "v"), field: "headers", wants: wantsName + `"")`,
		check: "messages_headers"},
	{name: "a header name of 129", change: header(strings.Repeat("n", 129), "v"), field: "headers", wants: wantsName},
	{name: "a space in a header name", change: header("a b", "v"), field: "headers", wants: wantsName + `"a b")`,
		check: "messages_headers"},
	{name: "a dot before a header name", change: header(".a", "v"), field: "headers", wants: wantsName,
		check: "messages_headers"},
	{name: "a dot after a header name", change: header("a.", "v"), field: "headers", wants: wantsName,
		check: "messages_headers"},
	{name: "two dots in a header name", change: header("a..b", "v"), field: "headers", wants: wantsName,
		check: "messages_headers"},
	{name: "a line break after a header name", change: header("a\n", "v"), field: "headers", wants: wantsName,
		check: "messages_headers"},
	{name: "a header of outflow", change: header("Outflow-message-id", "v"), field: "headers",
		wants: `the name "Outflow-message-id" is taken`, check: "messages_headers"},
	{name: "a header of AWS", change: header("AWS.trace", "v"), field: "headers",
		wants: `the name "AWS.trace" is taken`, check: "messages_headers"},
	{name: "a header of Amazon", change: header("amazon.x", "v"), field: "headers",
		wants: `the name "amazon.x" is taken`, check: "messages_headers"},
	{name: "the content type as a header", change: header("Content-Type", "v"), field: "headers",
		wants: `the name "Content-Type" is taken`, check: "messages_headers"},
	{name: "headers that differ by case", change: func(m *outflow.Message) {
		m.Headers = map[string]string{"Id": "1",
			"ID": "2"}
	}, field: "headers", wants: "wants names that differ by more than upper and lower case"},
	{name: "a header value of 8,193 bytes", change: header("a", strings.Repeat("v", 8191)+"ä"), field: "headers",
		wants: `"a" wants a value of at most 8192 bytes (got 8193)`},
	{name: "invalid UTF-8 in a header", change: header("a", "\xf0\x28"), field: "headers", wants: `"a" ` + wantsText,
		goOnly: true},
	{name: "NUL in a header", change: header("a", "\x00"), field: "headers", wants: `"a" ` + wantsText, goOnly: true},
	{name: "invalid UTF-8 in a header name", change: header("a\xff", "v"), field: "headers", wants: wantsText,
		goOnly: true},

	{name: "an ordering key of 129", change: func(m *outflow.Message) { m.OrderingKey = strings.Repeat("k", 129) },
		field: "ordering_key", wants: wantsOrderingKey, check: "messages_ordering_key"},
	{name: "a space in the ordering key", change: func(m *outflow.Message) { m.OrderingKey = "a b" },
		field: "ordering_key", wants: wantsOrderingKey + `"a b")`, check: "messages_ordering_key"},
	{name: "an umlaut in the ordering key", change: func(m *outflow.Message) { m.OrderingKey = "ä" },
		field: "ordering_key", wants: wantsOrderingKey, check: "messages_ordering_key"},
	{name: "NUL in the ordering key", change: func(m *outflow.Message) { m.OrderingKey = "\x00" },
		field: "ordering_key", wants: wantsText, goOnly: true},

	{name: "due twice", change: func(m *outflow.Message) { m.DueAt, m.DueIn = inAYear, time.Hour }, field: "due_in",
		wants: "wants due_at or due_in, not both"},
	{name: "due in less than nothing", change: func(m *outflow.Message) { m.DueIn = -time.Hour - time.Microsecond },
		field: "due_in", wants: "wants 0 or more (got -01:00:00.000001)"},
	{name: "due in 1999", change: func(m *outflow.Message) {
		m.DueAt = time.Date(1999, 12, 31, 23, 59, 59, 0,
			time.UTC)
	}, field: "due_at", wants: "wants a time from the year 2000 to 9999 (got 1999-12-31 23:59:59+00)", check: "messages_due_at"},
	{name: "due in the year 10000", change: func(m *outflow.Message) {
		m.DueAt = time.Date(10000, 1, 1, 0, 0, 0, 0,
			time.UTC)
	}, field: "due_at", wants: "wants a time from the year 2000 to 9999 (got the year 10000)", goOnly: true},
	{name: "due in the year 0", change: func(m *outflow.Message) { m.DueAt = time.Date(0, 1, 1, 0, 0, 0, 0, time.UTC) },
		field: "due_at", wants: "wants a time from the year 2000 to 9999 (got the year 0)", goOnly: true},
	{name: "expires twice", change: func(m *outflow.Message) { m.ExpiresAt, m.ExpiresIn = inAYear, time.Hour },
		field: "expires_in", wants: "wants expires_at or expires_in, not both"},
	{name: "expires in less than nothing", change: func(m *outflow.Message) { m.ExpiresIn = -time.Second },
		field: "expires_in", wants: "wants more than 0 (got -00:00:01)"},
	{name: "expires in less than a microsecond", change: func(m *outflow.Message) { m.ExpiresIn = time.Nanosecond },
		field: "expires_in", wants: "wants more than 0 (got 00:00:00)"},
	{name: "expires in the past", change: func(m *outflow.Message) {
		m.ExpiresAt = time.Date(2001, 1, 1, 0, 0, 0, 0,
			time.UTC)
	}, field: "expires_at", wants: "wants a time after due_at, before the year 10000 (got 2001-01-01 00:00:00+00, due at "},
	{name: "expires when due", change: func(m *outflow.Message) { m.DueAt, m.ExpiresAt = inAYear, inAYear },
		field: "expires_at", wants: "wants a time after due_at", check: "messages_expires_at"},
	{name: "expires before due", change: func(m *outflow.Message) { m.DueIn, m.ExpiresIn = time.Hour, 59*time.Minute },
		field: "expires_at", wants: "wants a time after due_at"},
	{name: "expires in the year 10000", change: func(m *outflow.Message) {
		m.ExpiresAt = time.Date(10000, 1, 1, 0, 0, 0,
			0, time.UTC)
	}, field: "expires_at", wants: "wants a time from the year 2000 to 9999 (got the year 10000)", goOnly: true},
}

func payloadOf(n int, to string) func(*outflow.Message) {
	return func(m *outflow.Message) { m.Payload, m.Destination = make([]byte, n), to }
}

// edges are just inside of the bounds.
var edges = []input{
	{name: "a queue name of 80", change: destination("sqs://" + strings.Repeat("q", 80))},
	{name: "a FIFO queue name of 80", change: destination("sqs://" + strings.Repeat("q", 75) + ".fifo")},
	{name: "a topic name of 256", change: destination("sns://" + strings.Repeat("t", 251) + ".fifo")},
	{name: "a RabbitMQ exchange and key of 255",
		change: destination("rabbitmq://" + strings.Repeat("%20", 255) + "/" + strings.Repeat("%C3%A4", 127) + "k")},
	{name: "an address of 2,000 bytes", change: destination("https://example.org/" + strings.Repeat("a", 1980))},
	{name: "a callback of 2,000 bytes", change: callback("https://example.org/" + strings.Repeat("a", 1980))},
	{name: "plain http to this machine", change: destination("http://localhost:8080/hook")},
	{name: "a callback over plain http to this machine",
		change: callback("http://[::1]:8080/" + strings.Repeat("a", 1982))},
	{name: "no callback on purpose", change: callback(outflow.NoCallback)},
	{name: "a callback with the payload", change: func(m *outflow.Message) {
		m.Callback,
			m.CallbackPayload = "sqs://replies", true
	}},
	{name: "a type almost Outflow's", change: func(m *outflow.Message) { m.Type = "outflow-order.placed" }},
	{name: "a type of 200", change: func(m *outflow.Message) { m.Type = "9" + strings.Repeat(".", 199) }},
	{name: "a payload of 1 byte", change: payloadOf(1, "sqs://q")},
	{name: "a payload of 1 MiB", change: payloadOf(1<<20, "sqs://q")},
	{name: "a workflow ID of 255 bytes", change: signal(strings.Repeat("~", 254) + " ")},
	{name: "a workflow ID elsewhere", change: header("workflow-id", "ä")},
	{name: "a workflow with escapes", change: destination("temporal://" + strings.Repeat("%20", 300) +
		"/%C3%A4?existing=use&namespace=a.b")},
	{name: "a payload of 16 MiB", change: payloadOf(16<<20, "rabbitmq://e/k")},
	{name: "a content type of 255", change: func(m *outflow.Message) {
		m.ContentType = "c " +
			strings.Repeat("~", 253)
	}},
	{name: "64 headers", change: func(m *outflow.Message) { m.Headers = headers(64) }},
	{name: "a header name of 128", change: header(strings.Repeat("n", 126)+".n", "")},
	{name: "a header value of 8,192 bytes", change: header("a", strings.Repeat("ä", 4096))},
	{name: "a header name almost taken", change: header("awsome", "v")},
	{name: "an ordering key of 128", change: func(m *outflow.Message) {
		m.OrderingKey = strings.Repeat("!", 127) +
			"~"
	}},
	{name: "due in 2000", change: func(m *outflow.Message) { m.DueAt = time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC) }},
	{name: "due in 9999", change: func(m *outflow.Message) {
		m.DueAt = time.Date(9999, 12, 31, 23, 59, 59, 0,
			time.UTC)
	}},
	{name: "due in 292 years", change: func(m *outflow.Message) { m.DueIn = 1<<63 - 1 }},
	{name: "expires in 292 years", change: func(m *outflow.Message) { m.ExpiresIn = 1<<63 - 1 }},
	{name: "expires a microsecond after due",
		change: func(m *outflow.Message) { m.DueIn, m.ExpiresIn = time.Hour, time.Hour+time.Microsecond }},
	{name: "expires at the end of 9999", change: func(m *outflow.Message) {
		m.ExpiresAt = time.Date(9999, 12, 31, 23,
			59, 59, 0, time.UTC)
	}},
}

// utc makes the texts that quote a time the same for everybody.
func utc(c *pgxpool.Config) { c.ConnConfig.RuntimeParams["timezone"] = "UTC" }

// moments are the times that a refusal may quote of now.
var moments = regexp.MustCompile(`\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d+)?\+00`)

// TestTableRefuses: the constraints hold against whoever writes around the
// functions.
func TestTableRefuses(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	for _, in := range badInputs {
		if in.check == "" {
			continue
		}
		t.Run(in.name, func(t *testing.T) {
			bad := message("sqs://orders")
			in.change(&bad)
			var pg *pgconn.PgError
			require.True(t, errors.As(insert(t, pool, bad), &pg), "the table takes it")
			require.Equal(t, in.check, pg.ConstraintName)
		})
	}
	require.NoError(t, insert(t, pool, message("sqs://orders")), "the direct insert is fine by itself")
}

const enqueueOne = `SELECT outbox.enqueue(destination => $1, type => $2, payload => $3::bytea, content_type => $4, headers => $5,
	ordering_key => $6, due_at => $7, due_in => $8, expires_at => $9, expires_in => $10, callback => $11, callback_payload => $12)`

// arguments are enqueueOne's for m, in forms that need no knowledge of the
// parameters' types, which the simple protocol has not; a zero field is NULL.
func arguments(m outflow.Message) []any {
	var headers any
	if m.Headers != nil {
		encoded, err := json.Marshal(m.Headers)
		if err != nil {
			panic(err) // a map of strings
		}
		headers = string(encoded)
	}
	return []any{m.Destination, m.Type, m.Payload, orNil(m.ContentType), headers, orNil(m.OrderingKey),
		orNil(m.DueAt), orNil(outboxdb.Interval(m.DueIn)), orNil(m.ExpiresAt), orNil(outboxdb.Interval(m.ExpiresIn)), orNil(m.Callback), orNil(m.CallbackPayload)}
}

func orNil[T comparable](v T) any {
	var zero T
	if v == zero {
		return nil
	}
	return v
}

func mapOrNil(m map[string]string) any {
	if m == nil {
		return nil
	}
	return m
}

// insert writes m around enqueue.
func insert(t *testing.T, pool *pgxpool.Pool, m outflow.Message) error {
	t.Helper()
	given := map[string]any{"id": uuid.Must(uuid.NewV7()), "destination": m.Destination, "type": m.Type,
		"payload":      m.Payload,
		"content_type": orNil(m.ContentType), "headers": mapOrNil(m.Headers), "ordering_key": orNil(m.OrderingKey),
		"due_at": orNil(m.DueAt), "expires_at": orNil(m.ExpiresAt), "callback": orNil(m.Callback), "callback_payload": orNil(m.CallbackPayload)}
	maps.DeleteFunc(given, func(_ string, v any) bool { return v == nil })
	columns := slices.Sorted(maps.Keys(given))
	named := make(pgx.NamedArgs, len(given))
	for column, v := range given {
		named[column] = v
	}
	_, err := pool.Exec(t.Context(), `INSERT INTO outbox.messages (`+strings.Join(columns,
		", ")+`) VALUES (@`+strings.Join(columns, ", @")+`)`, named)
	return err
}

func TestEdges(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	for _, in := range edges {
		t.Run(in.name, func(t *testing.T) {
			m := message("sqs://orders")
			in.change(&m)
			id := enqueue(t, pool, m)[0]
			bySQL := value[uuid.UUID](t, pool, enqueueOne, arguments(m)...)
			if m.Callback == outflow.NoCallback {
				m.Callback = "" // what enqueue makes of it; the table has no word for it
			}
			require.NoError(t, insert(t, pool, m))
			store := outboxdb.New(pool)
			first, err := store.Load(t.Context(), ref(id))
			require.NoError(t, err)
			second, err := store.Load(t.Context(), ref(bySQL))
			require.NoError(t, err)
			require.False(t, first.Expired)
			if m.DueAt.IsZero() { // a delay counts from the enqueue, exactly
				require.Equal(t, first.DueAt.Sub(first.EnqueuedAt), second.DueAt.Sub(second.EnqueuedAt))
			} else {
				require.Equal(t, first.DueAt, second.DueAt)
			}
			first.ID, first.DueAt, first.ExpiresAt = second.ID, second.DueAt, second.ExpiresAt
			require.Equal(t, second.Message, first.Message, "Go and SQL write the same row")
		})
	}
}

func TestRefusalsOfMany(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	t.Run("every refused message is named", func(t *testing.T) {
		msgs := messages("sqs://orders", 4)
		msgs[1].Type, msgs[3].Destination = "", "nowhere"
		inTx(t, pool, func(tx pgx.Tx) {
			_, err := outboxdb.EnqueueIfAbsent(t.Context(), tx, msgs...)
			require.ErrorContains(t, err, "message 1: type: ")
			require.ErrorContains(t, err, "message 3: destination: ")
			require.Zero(t, count(t, tx))
		})
	})
	t.Run("too large together", func(t *testing.T) {
		big := message("https://example.org/")
		big.Payload = make([]byte, 16<<20)
		small := message("https://example.org/")
		small.Headers = map[string]string{"a": "v"}
		var refused *outflow.InvalidMessageError
		inTx(t, pool, func(tx pgx.Tx) {
			_, err := outboxdb.Enqueue(t.Context(), tx, big, big, big, big, small)
			require.ErrorAs(t, err, &refused)
			require.Equal(t, 4, refused.Index)
			require.Contains(t, refused.Wants, "wants at most 67108864 bytes in all messages of one call")
			headersOnly := messages("https://example.org/", 200)
			for i := range headersOnly {
				headersOnly[i].Headers = headers(60)
				for name := range headersOnly[i].Headers {
					headersOnly[i].Headers[name] = strings.Repeat("v", 8192)
				}
			}
			_, err = outboxdb.Enqueue(t.Context(), tx, headersOnly...)
			require.ErrorAs(t, err, &refused, "headers count too")
			require.Zero(t, count(t, tx))
		})
	})
	t.Run("as large as it may be", func(t *testing.T) {
		big := messages("https://example.org/", 4)
		for i := range big {
			big[i].Payload = make([]byte, 16<<20)
		}
		inTx(t, pool, func(tx pgx.Tx) {
			_, err := outboxdb.Enqueue(t.Context(), tx, big...)
			require.NoError(t, err)
		})
	})
}

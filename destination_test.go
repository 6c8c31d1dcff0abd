package outflow_test

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
)

func TestParseDestination(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		given     string
		canonical string
		want      outflow.Destination
	}{
		{"sqs://orders", "sqs://orders", outflow.Destination{Scheme: "sqs", Name: "orders"}},
		{"sqs://orders.fifo?region=eu-west-1&account=123456789012",
			"sqs://orders.fifo?account=123456789012&region=eu-west-1",
			outflow.Destination{Scheme: "sqs", Name: "orders.fifo", Region: "eu-west-1", Account: "123456789012"}},
		{"sns://news?account=123456789012", "sns://news?account=123456789012",
			outflow.Destination{Scheme: "sns", Name: "news", Account: "123456789012"}},
		{"arn:aws:sqs:us-east-2:123456789012:orders", "sqs://orders?account=123456789012&region=us-east-2",
			outflow.Destination{Scheme: "sqs", Name: "orders", Region: "us-east-2", Account: "123456789012"}},
		{"arn:aws-cn:sns:cn-north-1:123456789012:news.fifo", "sns://news.fifo?account=123456789012&region=cn-north-1",
			outflow.Destination{Scheme: "sns", Name: "news.fifo", Region: "cn-north-1", Account: "123456789012"}},
		{"https://sqs.us-gov-west-1.amazonaws.com/123456789012/orders",
			"sqs://orders?account=123456789012&region=us-gov-west-1",
			outflow.Destination{Scheme: "sqs", Name: "orders", Region: "us-gov-west-1", Account: "123456789012"}},
		{"https://us-east-1.queue.amazonaws.com/123456789012/orders",
			"sqs://orders?account=123456789012&region=us-east-1",
			outflow.Destination{Scheme: "sqs", Name: "orders", Region: "us-east-1", Account: "123456789012"}},
		{"http://127.0.0.1:4100/000000000000/orders", "sqs://orders?account=000000000000",
			outflow.Destination{Scheme: "sqs", Name: "orders", Account: "000000000000"}},
		{"rabbitmq://events/user.registered", "rabbitmq://events/user.registered",
			outflow.Destination{Scheme: "rabbitmq", Name: "events", RoutingKey: "user.registered"}},
		{"rabbitmq:///queue", "rabbitmq:///queue", outflow.Destination{Scheme: "rabbitmq", RoutingKey: "queue"}},
		{"rabbitmq://a%2fb/x y/z", "rabbitmq://a%2Fb/x%20y%2Fz",
			outflow.Destination{Scheme: "rabbitmq", Name: "a/b", RoutingKey: "x y/z"}},
		{"http://sqs.eu-central-1.localhost:4566/000000000000/orders",
			"sqs://orders?account=000000000000&region=eu-central-1",
			outflow.Destination{Scheme: "sqs", Name: "orders", Region: "eu-central-1", Account: "000000000000"}},
		{"temporal://orders/ProcessOrder", "temporal://orders/ProcessOrder",
			outflow.Destination{Scheme: "temporal", TaskQueue: "orders", WorkflowType: "ProcessOrder"}},
		{"temporal://a%2fb+c/x:y@$?signal=p=q%20r&namespace=shop%2Eeu",
			"temporal://a%2Fb%2Bc/x:y@$?namespace=shop.eu&signal=p%3Dq%20r",
			outflow.Destination{Scheme: "temporal", TaskQueue: "a/b+c", WorkflowType: "x:y@$", Namespace: "shop.eu",
				Signal: "p=q r"}},
		{"temporal://küche/%C3%84?namespace=shop&existing=use",
			"temporal://k%C3%BCche/%C3%84?existing=use&namespace=shop",
			outflow.Destination{Scheme: "temporal", TaskQueue: "küche", WorkflowType: "Ä", Namespace: "shop",
				UseExisting: true}},
		{"https://Host:443?x=1", "https://host/?x=1", outflow.Destination{Scheme: "https", URL: "https://host/?x=1"}},
		{"https://example.org:8443/hook?a=b", "https://example.org:8443/hook?a=b",
			outflow.Destination{Scheme: "https", URL: "https://example.org:8443/hook?a=b"}},
		{"x-kafka://orders?acks=all", "x-kafka://orders?acks=all",
			outflow.Destination{Scheme: "x-kafka", URL: "x-kafka://orders?acks=all"}},
		{"http://localhost:8080/hook?a=b", "http://localhost:8080/hook?a=b",
			outflow.Destination{Scheme: "http", URL: "http://localhost:8080/hook?a=b"}},
	} {
		t.Run(c.given, func(t *testing.T) {
			t.Parallel()
			d, err := outflow.ParseDestination(c.given)
			require.NoError(t, err)
			require.Equal(t, c.want, d)
			require.Equal(t, c.canonical, d.String())
		})
	}
}

func TestParseDestinationRefuses(t *testing.T) {
	t.Parallel()
	for _, c := range []struct{ given, because string }{
		{"", "no scheme"},
		{"orders", "no scheme (did you mean sqs://orders?)"},
		{"orders.fifo", "no scheme (did you mean sqs://orders.fifo?)"},
		{"localhost:8080/hook", "no scheme (did you mean http://localhost:8080/hook?)"},
		{"example.org/hook?token=hunter2", "no scheme (did you mean https://example.org/hook?)"},
		{"sqs:orders", `a scheme ends in "://" (did you mean sqs://orders?)`},
		{"sqs//orders", `a scheme ends in "://" (did you mean sqs://orders?)`},
		{"https///example.org", `a scheme ends in "://" (did you mean https://example.org?)`},
		{"https:/example.org", `a scheme ends in "://" (did you mean https://example.org?)`},
		{"SQS://orders", "a scheme is in lower case (did you mean sqs://orders?)"},
		{"Https://example.org/?token=hunter2", "a scheme is in lower case (did you mean https://example.org/?)"},
		{"amqp://host/vhost", `unknown scheme "amqp" (did you mean rabbitmq://exchange/routing-key?)`},
		{"sqs://q?reg=x", `unknown parameter "reg"; known are region and account`},
		{"sqs://q?\x1b[31m=x", "unknown parameter; known are region and account"},
		{"sqs://q?region=eu%2Dwest-1", "region wants a form like eu-west-1"},
		{"https://user:hunter2@example.org/", "an address wants no user name or password"},
		{"kafka://orders", `unknown scheme "kafka"`},
		{"x-://orders", "a scheme of your own wants x-"},
		{"x-Kafka://orders", "a scheme of your own wants x-"},
		{"x-kafka-://orders", "a scheme of your own wants x-"},
		{"x-" + strings.Repeat("k", 31) + "://orders", "a scheme of your own wants x-"},
		{"x-kafka://", "a scheme of your own wants x-"},
		{"x-kafka://two words", "a scheme of your own wants x-"},
		{"x-kafka://orders#1", "a scheme of your own wants x-"},
		{"x-kafka://örders", "a scheme of your own wants x-"},
		{"sqs://", "a name in sqs has 1 to 80"},
		{"sqs://" + strings.Repeat("q", 81), "a name in sqs has 1 to 80"},
		{"sns://" + strings.Repeat("t", 257), "a name in sns has 1 to 256"},
		{"sqs://orders.fifo.fifo", "a name in sqs"},
		{"sqs://orders?region=", "parameter region wants one value"},
		{"sqs://orders?region=eu-west-1&region=eu-west-1", "parameter region wants one value"},
		{"sqs://orders?queue=other", `unknown parameter "queue"`},
		{"sqs://orders?%zz", "unknown parameter; known are"},
		{"sqs://orders?region=Ireland", "region wants a form like eu-west-1"},
		{"sqs://orders?account=1234", "account wants 12 digits"},
		{"arn:aws:s3:::bucket", "an ARN wants arn:aws:sqs:"},
		{"arn:aws:sns:eu-west-1:123456789012:news:0190a5b0",
			"arn:aws:sns:REGION:ACCOUNT:TOPIC (did you mean arn:aws:sns:eu-west-1:123456789012:news?)"},
		{"https://host:99999", "a port wants a number from 1 to 65535"},
		{"rabbitmq://exchange", "rabbitmq wants exchange/routing-key"},
		{"rabbitmq://exchange/key?x", "rabbitmq wants exchange/routing-key"},
		{"rabbitmq:///", "default exchange wants a routing key"},
		{"rabbitmq://a/%zz", "rabbitmq's exchange and routing key want"},
		{"rabbitmq://%00/b", "rabbitmq's exchange and routing key want"},
		{"rabbitmq://a/%FF", "at most 255 bytes of UTF-8"},
		{"rabbitmq://a/" + strings.Repeat("k", 256), "at most 255 bytes of UTF-8"},
		{"temporal://orders", "temporal wants task-queue/WorkflowType"},
		{"temporal://orders/a/b", "temporal wants task-queue/WorkflowType"},
		{"temporal://orders/a#b", "temporal wants task-queue/WorkflowType, each percent-encoded, and no fragment"},
		{"temporal:///ProcessOrder", "temporal's task queue and workflow type want UTF-8 of one character or more"},
		{"temporal://orders/", "temporal's task queue and workflow type want"},
		{"temporal://orders/%FF", "temporal's task queue and workflow type want"},
		{"temporal://orders/%0A", "without control characters"},
		{"temporal://orders/%zz", "percent-encoded"},
		{"temporal://orders/T?", "unknown parameter; known are namespace, signal and existing"},
		{"temporal://orders/T?cron=daily", `unknown parameter "cron"; known are namespace, signal and existing`},
		{"temporal://orders/T?namespace=", "parameter namespace wants one value"},
		{"temporal://orders/T?signal=a&signal=b", "parameter signal wants one value"},
		{"temporal://orders/T?signal=a+b", "parameter signal wants UTF-8, percent-encoded, without control characters, " +
			"and %2B for a plus sign"},
		{"temporal://orders/T?namespace=%ff", "parameter namespace wants UTF-8"},
		{"temporal://orders/T?existing=yes", "parameter existing wants use"},
		{"temporal://orders/T?existing=use&signal=a", "parameter existing wants no signal beside it"},
		{"temporal://q/" + strings.Repeat("ä", 900), "longer than 2000 bytes"},
		{"Temporal://orders/T", "a scheme is in lower case (did you mean temporal://orders/T?)"},
		{"temporal:orders/T", `a scheme ends in "://" (did you mean temporal://orders/T?)`},
		{"https://", "an address wants a host"},
		{"https://me@example.org/", "no user name"},
		{"https://example.org/#top", "fragment"},
		{"https://example.org/ä", "printable ASCII"},
		{"https://example.org/%zz", "path and query want"},
		{"https://example.org/" + strings.Repeat("a", 1981), "longer than 2000 bytes"},
		{"http://example.org/", "plain http is for localhost, 127.0.0.0/8 and [::1] alone"},
		{"http://", "an address wants a host"},
		{"http://localhost/%zz", "path and query want"},
		{"http://localhost/#top", "an address wants no fragment"},
		{"http://127.0.0.1/ä", "an http address has printable ASCII"},
	} {
		t.Run(c.given, func(t *testing.T) {
			t.Parallel()
			d, err := outflow.ParseDestination(c.given)
			require.ErrorContains(t, err, c.because)
			require.ErrorContains(t, err, "wants sqs://queue", "it says what is wanted")
			require.NotContains(t, err.Error(), "hunter2")
			require.NotContains(t, err.Error(), "\x1b")
			require.Less(t, len(err.Error()), 1000, "a long input is not repeated whole")
			require.Zero(t, d)
		})
	}
}

func TestDisplayDestination(t *testing.T) {
	t.Parallel()
	for given, want := range map[string]string{
		"https://example.org:8443/hook/a//b@c?token=hunter2": "https://example.org:8443/hook/a//b@c",
		"https://example.org/#hunter2":                       "https://example.org/",
		"https://me:hunter2@example.org/hook":                "https://example.org/hook",
		"HTTPS://a@b@example.org?hunter2":                    "HTTPS://example.org",
		"example.org/hook?token=hunter2":                     "example.org/hook",
		"sqs://orders?account=123456789012":                  "sqs://orders?account=123456789012",
		"rabbitmq://a/b@c":                                   "rabbitmq://a/b@c",
		"temporal://a/b@c?signal=pay":                        "temporal://a/b@c?signal=pay",
		"":                                                   "",
	} {
		require.Equal(t, want, outflow.DisplayDestination(given), given)
	}
}

func TestFIFO(t *testing.T) {
	t.Parallel()
	for given, want := range map[string]bool{
		"sqs://orders.fifo": true, "sns://news.fifo?region=eu-west-1": true, "sqs://orders": false,
		"sqs://fifo": false, "rabbitmq://events/orders.fifo": false, "https://example.org/x.fifo": false,
	} {
		d, err := outflow.ParseDestination(given)
		require.NoError(t, err)
		require.Equal(t, want, d.FIFO(), given)
	}
}

// The canonical form is what the table keeps: it must mean the same destination
// when it is read again.
func FuzzParseDestination(f *testing.F) {
	for _, seed := range []string{
		"sqs://orders?account=123456789012&region=eu-west-1", "sns://news.fifo", "rabbitmq://a%2Fb/%C3%A4 b",
		"rabbitmq:///q",
		"https://example.org:1/a?b=c", "https://sqs.eu-west-1.amazonaws.com/123456789012/orders",
		"http://localhost:4100/000000000000/q",
		"arn:aws:sqs:eu-west-1:123456789012:orders", "https://[::1]/",
		"https://Sqs.eu-west-1.api.aws:443/123456789012/q/", "https://Host:0443?x",
		"http://localhost/queue/us-east-1/000000000000/q", "http://[::1]:8080/a?b",
		"http://127.0.0.1/000000000000/q/", "sqs://q?region=eu%2Dwest-1", "\xff", "rabbitmq://%ff/",
		"temporal://a%2Fb/T?namespace=shop&signal=a%20b", "temporal://k\u00fcche/%c3%84?existing=use",
	} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, given string) {
		d, err := outflow.ParseDestination(given)
		if err != nil {
			require.Zero(t, d)
			return
		}
		again, err := outflow.ParseDestination(d.String())
		require.NoError(t, err, "from %q", given)
		require.Equal(t, d, again)
		require.Equal(t, d.String(), again.String())
	})
}

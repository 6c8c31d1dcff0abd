package outboxdb_test

import (
	"math/rand/v2"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/teststack"
)

// pasted destinations and what is stored; "" is a refusal. (Of RabbitMQ's, Go
// reads some that SQL refuses: a bare slash or space in the routing key.)
var pasted = []struct{ given, stored string }{
	{"sqs://orders", "sqs://orders"},
	{"sqs://orders.fifo", "sqs://orders.fifo"},
	{"sqs://orders?account=123456789012", "sqs://orders?account=123456789012"},
	{"sqs://orders?region=eu-west-1", "sqs://orders?region=eu-west-1"},
	{"sqs://orders?account=123456789012&region=us-gov-west-1",
		"sqs://orders?account=123456789012&region=us-gov-west-1"},
	{"sqs://orders?region=eu-west-1&account=123456789012", "sqs://orders?account=123456789012&region=eu-west-1"},
	{"sns://news?region=ap-southeast-2&account=123456789012", "sns://news?account=123456789012&region=ap-southeast-2"},
	{"arn:aws:sqs:eu-west-1:123456789012:orders", "sqs://orders?account=123456789012&region=eu-west-1"},
	{"arn:aws:sqs:us-east-1:000000000000:orders.fifo", "sqs://orders.fifo?account=000000000000&region=us-east-1"},
	{"arn:aws-cn:sns:cn-north-1:123456789012:news", "sns://news?account=123456789012&region=cn-north-1"},
	{"arn:aws-us-gov:sns:us-gov-east-1:123456789012:news", "sns://news?account=123456789012&region=us-gov-east-1"},
	{"arn:aws-us-gov:sqs:us-gov-west-1:123456789012:orders", "sqs://orders?account=123456789012&region=us-gov-west-1"},
	{"arn:aws-cn:sqs:cn-northwest-1:123456789012:orders", "sqs://orders?account=123456789012&region=cn-northwest-1"},
	{"arn:aws-eusc:sns:eusc-de-east-1:123456789012:news.fifo",
		"sns://news.fifo?account=123456789012&region=eusc-de-east-1"},
	{"arn:aws-eusc:sqs:eusc-de-east-1:123456789012:orders", "sqs://orders?account=123456789012&region=eusc-de-east-1"},
	{"arn:aws-iso:sns:us-iso-east-1:123456789012:news", "sns://news?account=123456789012&region=us-iso-east-1"},
	{"arn:aws-iso:sqs:us-iso-west-1:123456789012:orders", "sqs://orders?account=123456789012&region=us-iso-west-1"},
	{"arn:aws-iso-b:sns:us-isob-east-1:123456789012:news", "sns://news?account=123456789012&region=us-isob-east-1"},
	{"arn:aws-iso-b:sqs:us-isob-west-1:123456789012:orders", "sqs://orders?account=123456789012&region=us-isob-west-1"},
	{"arn:aws-iso-e:sns:eu-isoe-west-1:123456789012:news", "sns://news?account=123456789012&region=eu-isoe-west-1"},
	{"arn:aws-iso-e:sqs:eu-isoe-west-1:123456789012:orders", "sqs://orders?account=123456789012&region=eu-isoe-west-1"},
	{"arn:aws-iso-f:sns:us-isof-south-1:123456789012:news", "sns://news?account=123456789012&region=us-isof-south-1"},
	{"arn:aws-iso-f:sqs:us-isof-east-1:123456789012:orders", "sqs://orders?account=123456789012&region=us-isof-east-1"},
	{"https://sqs.eu-west-1.amazonaws.com/123456789012/orders", "sqs://orders?account=123456789012&region=eu-west-1"},
	{"https://sqs.cn-north-1.amazonaws.com.cn/123456789012/orders",
		"sqs://orders?account=123456789012&region=cn-north-1"},
	{"https://eu-west-1.queue.amazonaws.com/123456789012/orders", "sqs://orders?account=123456789012&region=eu-west-1"},
	{"https://vpce-0a1b-2c3d.sqs.eu-west-1.vpce.amazonaws.com/123456789012/orders.fifo",
		"sqs://orders.fifo?account=123456789012&region=eu-west-1"},
	{"x-kafka://orders", "x-kafka://orders"},
	{"x-my-bus://a.b/c?d=[e]", "x-my-bus://a.b/c?d=[e]"},
	{"x-" + strings.Repeat("k", 30) + "://o", "x-" + strings.Repeat("k", 30) + "://o"},
	{"x-" + strings.Repeat("k", 31) + "://o", ""},
	{"x-://orders", ""},
	{"x-kafka://", ""},
	{"http://localhost:4100/000000000000/orders", "sqs://orders?account=000000000000"},
	{"http://localhost:4100/000000000000/orders/", "sqs://orders?account=000000000000"},

	// Every documented form of AWS's endpoints, each with the region that it names.
	{"http://sqs.eu-west-1.amazonaws.com/123456789012/orders", "sqs://orders?account=123456789012&region=eu-west-1"},
	{"https://SQS.EU-West-1.AmazonAWS.com:443/123456789012/orders/",
		"sqs://orders?account=123456789012&region=eu-west-1"},
	{"http://sqs.eu-west-1.amazonaws.com:80/123456789012/orders", "sqs://orders?account=123456789012&region=eu-west-1"},
	{"https://queue.amazonaws.com/123456789012/orders", "sqs://orders?account=123456789012&region=us-east-1"},
	{"https://cn-north-1.queue.amazonaws.com.cn/123456789012/orders",
		"sqs://orders?account=123456789012&region=cn-north-1"},
	{"https://sqs-fips.us-east-1.amazonaws.com/123456789012/orders",
		"sqs://orders?account=123456789012&region=us-east-1"},
	{"https://sqs.eu-west-1.api.aws/123456789012/orders", "sqs://orders?account=123456789012&region=eu-west-1"},
	{"https://sqs-fips.us-gov-west-1.api.aws/123456789012/orders",
		"sqs://orders?account=123456789012&region=us-gov-west-1"},
	{"https://sqs.cn-north-1.api.amazonwebservices.com.cn/123456789012/orders",
		"sqs://orders?account=123456789012&region=cn-north-1"},
	{"https://sqs.eusc-de-east-1.amazonaws.eu/123456789012/orders",
		"sqs://orders?account=123456789012&region=eusc-de-east-1"},
	{"https://sqs.us-iso-east-1.c2s.ic.gov/123456789012/orders",
		"sqs://orders?account=123456789012&region=us-iso-east-1"},
	{"https://sqs.us-isob-east-1.sc2s.sgov.gov/123456789012/orders",
		"sqs://orders?account=123456789012&region=us-isob-east-1"},
	{"https://sqs.us-isof-south-1.csp.hci.ic.gov/123456789012/orders",
		"sqs://orders?account=123456789012&region=us-isof-south-1"},
	{"https://sqs.eu-isoe-west-1.cloud.adc-e.uk/123456789012/orders",
		"sqs://orders?account=123456789012&region=eu-isoe-west-1"},
	{"https://vpce-0a1b-2c3d-us-east-1a.sqs.us-east-1.vpce.amazonaws.com/123456789012/orders",
		"sqs://orders?account=123456789012&region=us-east-1"},
	{"https://sqs-fips.ca-west-1.api.aws/123456789012/orders", "sqs://orders?account=123456789012&region=ca-west-1"},
	{"https://sqs-fips.cn-north-1.amazonaws.com.cn/123456789012/orders",
		"sqs://orders?account=123456789012&region=cn-north-1"},
	{"https://sqs-fips.cn-north-1.api.amazonwebservices.com.cn/123456789012/orders",
		"sqs://orders?account=123456789012&region=cn-north-1"},
	{"https://sqs.eusc-de-east-1.api.amazonwebservices.eu/123456789012/orders",
		"sqs://orders?account=123456789012&region=eusc-de-east-1"},
	{"https://sqs-fips.eusc-de-east-1.amazonaws.eu/123456789012/orders",
		"sqs://orders?account=123456789012&region=eusc-de-east-1"},
	{"https://sqs.us-iso-west-1.api.aws.ic.gov/123456789012/orders",
		"sqs://orders?account=123456789012&region=us-iso-west-1"},
	{"https://sqs.us-isob-east-1.api.aws.scloud/123456789012/orders",
		"sqs://orders?account=123456789012&region=us-isob-east-1"},
	{"https://sqs.us-isof-east-1.api.aws.hci.ic.gov/123456789012/orders",
		"sqs://orders?account=123456789012&region=us-isof-east-1"},
	{"https://sqs.eu-isoe-west-1.api.cloud-aws.adc-e.uk/123456789012/orders",
		"sqs://orders?account=123456789012&region=eu-isoe-west-1"},
	{"https://sqs-fips.us-iso-east-1.c2s.ic.gov/123456789012/orders",
		"sqs://orders?account=123456789012&region=us-iso-east-1"},
	{"https://us-gov-west-1.queue.amazonaws.com/123456789012/orders.fifo",
		"sqs://orders.fifo?account=123456789012&region=us-gov-west-1"},
	{"http://queue.amazonaws.com:80/123456789012/orders", "sqs://orders?account=123456789012&region=us-east-1"},
	{"https://vpce-0a1b-2c3d.sqs-fips.us-east-1.vpce.amazonaws.com/123456789012/orders",
		"sqs://orders?account=123456789012&region=us-east-1"},
	{"https://vpce-0a1b-2c3d.sqs.cn-north-1.vpce.amazonaws.com.cn/123456789012/orders",
		"sqs://orders?account=123456789012&region=cn-north-1"},
	{"https://vpce-0a1b-2c3d.sqs.us-gov-west-1.vpce.amazonaws.com/123456789012/orders",
		"sqs://orders?account=123456789012&region=us-gov-west-1"},

	// Emulators'.
	{"http://sqs.eu-central-1.localhost:4566/000000000000/orders",
		"sqs://orders?account=000000000000&region=eu-central-1"},
	{"http://sqs.eu-west-1.localhost.localstack.cloud:4566/000000000000/orders",
		"sqs://orders?account=000000000000&region=eu-west-1"},
	{"https://sqs.eu-west-1.localhost.localstack.cloud:4566/000000000000/orders",
		"sqs://orders?account=000000000000&region=eu-west-1"},
	{"http://eu-west-2.queue.localhost.localstack.cloud:4566/000000000000/orders",
		"sqs://orders?account=000000000000&region=eu-west-2"},
	{"https://eu-west-2.queue.localhost.localstack.cloud:4566/000000000000/orders",
		"sqs://orders?account=000000000000&region=eu-west-2"},
	{"http://queue.localhost.localstack.cloud:4566/000000000000/orders", "sqs://orders?account=000000000000"},
	{"http://localhost:4566/queue/us-east-1/000000000000/orders", "sqs://orders?account=000000000000&region=us-east-1"},
	{"https://localstack.internal/queue/us-east-1/000000000000/orders.fifo/",
		"sqs://orders.fifo?account=000000000000&region=us-east-1"},
	{"http://sqs.us-east-1.localhost:4566/queue/us-east-1/000000000000/orders",
		"sqs://orders?account=000000000000&region=us-east-1"},
	{"http://us-east-1.goaws.com:4100/100010001000/orders", "sqs://orders?account=100010001000&region=us-east-1"},
	{"http://us-east-1.goaws:4100/100010001000/orders", "sqs://orders?account=100010001000&region=us-east-1"},
	{"http://eu-west-1.localhost:4100/100010001000/orders", "sqs://orders?account=100010001000&region=eu-west-1"},
	{"https://eu-west-1.localhost/100010001000/orders", "sqs://orders?account=100010001000&region=eu-west-1"},
	{"https://us-east-1.goaws:4100/100010001000/orders", "sqs://orders?account=100010001000&region=us-east-1"},
	{"http://app-elasticmq-1.internal:9324/000000000000/orders", "sqs://orders?account=000000000000"},
	{"http://LocalStack:4566/000000000000/orders", "sqs://orders?account=000000000000"},
	{"http://app-elasticmq-1:9324/000000000000/orders", "sqs://orders?account=000000000000"},
	{"http://10.0.0.5:4566/000000000000/orders", "sqs://orders?account=000000000000"},
	{"https://localhost:4566/000000000000/orders", "sqs://orders?account=000000000000"},
	{"rabbitmq://exchange/routing.key", "rabbitmq://exchange/routing.key"},
	{"rabbitmq:///queue", "rabbitmq:///queue"},
	{"rabbitmq://fanout/", "rabbitmq://fanout/"},
	{"rabbitmq://a%2Fb/%C3%A4%20%25", "rabbitmq://a%2Fb/%C3%A4%20%25"},
	{"rabbitmq://a%2fb/tenant%3A42", "rabbitmq://a%2Fb/tenant:42"}, // as encodeURIComponent writes it
	{"rabbitmq://%61/%24%26%2B%3D%40'*,;()", "rabbitmq://a/$&+=@%27%2A%2C%3B%28%29"},
	{"rabbitmq://a/b/c", "rabbitmq://a/b%2Fc"},
	{"rabbitmq:///größe und mehr", "rabbitmq:///gr%C3%B6%C3%9Fe%20und%20mehr"},
	{"temporal://orders/ProcessOrder", "temporal://orders/ProcessOrder"},
	{"temporal://orders/ProcessOrder?namespace=shop", "temporal://orders/ProcessOrder?namespace=shop"},
	{"temporal://orders/Cart?signal=add%20item&namespace=shop",
		"temporal://orders/Cart?namespace=shop&signal=add%20item"},
	{"temporal://orders/Cart?namespace=shop&existing=use", "temporal://orders/Cart?existing=use&namespace=shop"},
	{"temporal://orders/Cart?existing=u%73e", "temporal://orders/Cart?existing=use"},
	{"temporal://a%2fb%3A+&=c/x:y@$~%2e", "temporal://a%2Fb:%2B%26%3Dc/x:y@$~."},
	{"temporal://k\u00fcche/%c3%84 \U0001F989?signal=\u00e4?=/",
		"temporal://k%C3%BCche/%C3%84%20%F0%9F%A6%89?signal=%C3%A4%3F%3D%2F"},
	{"https://example.org", "https://example.org/"},
	{"https://Example.ORG:443?x=1", "https://example.org/?x=1"},
	{"https://example.org:443/Hook", "https://example.org/Hook"},
	{"https://example.org:80/", "https://example.org:80/"},
	{"https://example.org:1/", "https://example.org:1/"},
	{"https://example.org:65535/", "https://example.org:65535/"},
	{"https://192.0.2.255/", "https://192.0.2.255/"},
	{"https://192.0.2.255:443/", "https://192.0.2.255/"},
	{"https://xn--bcher-kva.example/", "https://xn--bcher-kva.example/"},
	{"https://a_b--c.example.org/", "https://a_b--c.example.org/"},
	{"https://127.0.0.1.nip.io/", "https://127.0.0.1.nip.io/"},
	{"https://" + strings.Repeat("a", 63) + ".org/", "https://" + strings.Repeat("a", 63) + ".org/"},
	{"https://" + strings.Repeat(strings.Repeat("a", 49)+".", 5) + "org/",
		"https://" + strings.Repeat(strings.Repeat("a", 49)+".", 5) + "org/"},
	{"https://localhost:8443/hook", "https://localhost:8443/hook"},
	{"https://[::1]:443/hook", "https://[::1]/hook"},
	{"https://example.org/123456789012/hook", "https://example.org/123456789012/hook"},
	{"https://queue.example.org/123456789012/hook", "https://queue.example.org/123456789012/hook"},
	{"https://queue.example.org/queue/123456789012/hook", "https://queue.example.org/queue/123456789012/hook"},
	{"https://example.org:8443/hook?a=b&c=[1]", "https://example.org:8443/hook?a=b&c=[1]"},
	{"https://abc.execute-api.eu-west-1.amazonaws.com/prod/orders",
		"https://abc.execute-api.eu-west-1.amazonaws.com/prod/orders"},

	// Plain http, on this machine alone. What looks like a queue's URL is a queue.
	{"http://localhost", "http://localhost/"},
	{"http://localhost:8080/hook?a=b&c=[1]", "http://localhost:8080/hook?a=b&c=[1]"},
	{"http://localhost?a=b", "http://localhost/?a=b"},
	{"http://127.0.0.1:8080/hook", "http://127.0.0.1:8080/hook"},
	{"http://127.255.9.10/", "http://127.255.9.10/"},
	{"http://[::1]:8080/hook", "http://[::1]:8080/hook"},
	{"http://[::1]:8080/123456789012/hook", "sqs://hook?account=123456789012"},
	{"http://localhost:8080/123456789012/hook/", "sqs://hook?account=123456789012"},
	{"http://localhost:8080/123456789012/hook/now", "http://localhost:8080/123456789012/hook/now"},
	{"http://localhost:8080/queue/hook", "http://localhost:8080/queue/hook"},
	{"http://LocalHost:80/Hook", "http://localhost/Hook"},
	{"http://localhost:8080/12345678901/hook", "http://localhost:8080/12345678901/hook"},

	// What looks like a queue's URL and can't be read.
	{"https://sqs.Ireland.amazonaws.com/123456789012/orders?x", ""},
	{"https://foo.sqs.eu-west-1.amazonaws.com/123456789012/orders", ""},
	{"https://sqs.eu-west-1.vpce.amazonaws.com/123456789012/orders", ""},
	{"https://sqs.eu-west-1.amazonaws.com:8443/123456789012/orders", ""},
	{"https://sqs.eu-west-1.amazonaws.com/12345678901/orders", ""},
	{"https://sqs.eu-west-1.amazonaws.com/123456789012/orders//", ""},
	{"https://sqs.eu-west-1.amazonaws.com/123456789012/orders?Action=SendMessage", ""},
	{"https://sqs.eu-west-1.amazonaws.com/", ""},
	{"https://sqs.eu-west-1.amazonaws.com", ""},
	{"https://queue.amazonaws.com/hook", ""},
	{"https://sqs.amazonaws.com/123456789012/orders", ""},
	{"https://sqs.eu-west-1.amazonaws.com./123456789012/orders", ""},
	{"http://localhost:8080/123456789012/hook?", ""},
	{"http://localhost:8080/123456789012/hook//", ""},
	{"http://localhost:8080//123456789012/hook", ""},
	{"http://localhost:4566/queue/ireland/000000000000/orders", ""},
	{"http://sqs.ireland.localhost:4566/000000000000/orders", ""},
	{"http://ireland.queue.localhost.localstack.cloud:4566/000000000000/orders", ""},
	{"http://sqs.eu-west-1.localhost:4566/queue/us-east-1/000000000000/orders", ""},
	{"https://localhost:4566/000000000000/orders?a=b", ""},
	{"http://eu-west-1.localhost:4566/queue/us-east-1/000000000000/orders", ""},
	{"https://us-east-1.goaws:4100/100010001000/orders?", ""},
	{"https://sqs-fips.us-east-1.vpce.amazonaws.com/123456789012/orders", ""},
	{"https://sqs.us-iso-east-1.api.aws.ic.gov/123456789012/", ""},
	{"https://eu-west-1.queue.amazonaws.com/orders", ""},
	{"http://localhost:0/000000000000/orders", ""},

	// Ports and hosts that can't be.
	{"https://example.org:0/", ""},
	{"https://example.org:65536/", ""},
	{"https://example.org:99999/", ""},
	{"https://example.org:100000/", ""},
	{"https://example.org:0443/", ""},
	{"https://example.org:/", ""},
	{"https://example.org:x/", ""},
	{"http://localhost:65536/", ""},
	{"https://hooks..example.com/", ""},
	{"https://.example.com/", ""},
	{"https://example.com./", ""},
	{"https://-a.example.com/", ""},
	{"https://a-.example.com/", ""},
	{"https://a~b.example.com/", ""},
	{"https://" + strings.Repeat("a", 64) + ".org/", ""},
	{"https://" + strings.Repeat(strings.Repeat("a", 50)+".", 5) + "org/", ""},
	{"https://256.1.1.1/", ""},
	{"https://1.2.3/", ""},
	{"https://01.2.3.4/", ""},
	{"https://1.2.3.4.5/", ""},
	{"https://2130706433/", ""},
	{"https://0x7f.1/", ""},
	{"https://example.0x7f/", ""},
	{"https://[2001:db8::1]/", ""},
	{"https://[::1/", ""},
	{"https://[]/", ""},
	{"https:///hook", ""},
	{"https://?a=b", ""},
	{"HTTPS://example.org/", ""},
	{"https://me:word@example.org/?token=hunter2", ""},
	{"https://example.org/a#b?token=hunter2", ""},
	{"https://example.org/\"", ""},
	{"https://example.org/?a=%2", ""},
	{"https://example.org?" + strings.Repeat("a", 1980), ""}, // 2,001 bytes with its path
	{"https://sqs.eu-west-1.amazonaws.com/123456789012/or.ders", ""},
	{"https://sqs.ireland.amazonaws.com/123456789012/orders", ""},
	{"http://localhost:4100/000000000000/or:ders", ""},
	{"arn:aws:sqs:eu-west-1:1234:orders", ""},
	{"arn:aws:sqs:eu-west-1:123456789012:orders:extra", ""},
	{"arn:aws:lambda:eu-west-1:123456789012:function", ""},
	{"arn:aws:sns:eu-west-1:123456789012:news:0190a5b0-7c3e-7d50-9a2f-000000000001", ""},
	{"arn:aws:sns:eu-west-1:123456789012:news:", ""},
	{"arn:aws:sns:eu-west-1:123456789012:news:a:b", ""},
	{"arn:aws:sns:eu-west-1:123456789012:n\n:b", ""},
	{"arn:aws:sns:Ireland:123456789012:news", ""},
	{"arn:aws:sns:eu-west-1:123456789012:", ""},
	{"sqs://orders?region=&account=123456789012", ""},
	{"sqs://orders?region=eu-west-1&account=", ""},
	{"sqs://orders?account=123456789012&account=123456789012", ""},
	{"sqs://orders?region=abcde-west-1", ""},
	{"sqs://orders?region=eu-west-123", ""},
	{"temporal://orders", ""},
	{"temporal://orders/a/b", ""},
	{"temporal:///a", ""},
	{"temporal://orders/", ""},
	{"temporal://orders/?signal=a", ""},
	{"temporal://orders/T#a", ""},
	{"temporal://orders/%FF", ""},
	{"temporal://orders/%00", ""},
	{"temporal://orders/%C2%85", ""},
	{"temporal://orders/%ED%A0%80", ""},
	{"temporal://orders/%4", ""},
	{"temporal://orders/T?", ""},
	{"temporal://orders/T?&", ""},
	{"temporal://orders/T?signal", ""},
	{"temporal://orders/T?signal=", ""},
	{"temporal://orders/T?signal=a&signal=b", ""},
	{"temporal://orders/T?signal=a+b", ""},
	{"temporal://orders/T?signal=%0a", ""},
	{"temporal://orders/T?namespace=%zz", ""},
	{"temporal://orders/T?cron=daily", ""},
	{"temporal://orders/T?existing=yes", ""},
	{"temporal://orders/T?existing=use&signal=a", ""},
	{"temporal://orders/T?signal=a&namespace=b&existing=use", ""},
	{"temporal://q/" + strings.Repeat("\u00e4", 900), ""}, // 5,413 bytes, encoded
	{"temporal://q/" + strings.Repeat("\u00e4", 900) + "%0a", ""},
	{"TEMPORAL://orders/T", ""},
	{"rabbitmq://a/%FF", ""},
	{"rabbitmq://a/%C2%85", ""}, // a control character
	{"rabbitmq://a/%ED%A0%80", ""},
	{"https://example.org/%zz", ""},
	{"http://", ""},
	{"http:///hook", ""},
	{"http://:8080/hook", ""},
	{"http://example.com/", ""},
	{"http://127.0.0.1.evil.com/", ""},
	{"http://localhost.evil.com/", ""},
	{"http://evil.com/localhost", ""},
	{"http://evil.com?http://localhost/", ""},
	{"http://foo.localhost/", ""},
	{"http://localhost./", ""},
	{"http://notlocalhost/", ""},
	{"HTTP://localhost/", ""},
	{"http://localhost@evil.com/", ""},
	{"http://localhost:80@evil.com/", ""},
	{"http://me@localhost/", ""},
	{"http://evil.com#@localhost/", ""},
	{"http://localhost\\@evil.com/", ""},
	{"http://localhost\\.evil.com/", ""},
	{"http://localhost%2eevil.com/", ""},
	{"http://%6cocalhost/", ""},
	{"http://localhost%00/", ""},
	{"http://localhost\n.evil.com/", ""},
	{"http://localhost\t/", ""},
	{" http://localhost/", ""},
	{"http:// localhost/", ""},
	{"http://ｌocalhost/", ""},
	{"http://127。0。0。1/", ""},
	{"http://localhost:port/", ""},
	{"http://localhost:-1/", ""},
	{"http://localhost/#top", ""},
	{"http://localhost/%zz", ""},
	{"http://localhost/ä", ""},
	{"http://0x7f.1/", ""},
	{"http://0x7f000001/", ""},
	{"http://2130706433/", ""},
	{"http://017700000001/", ""},
	{"http://127.1/", ""},
	{"http://127.0.0.01/", ""},
	{"http://127.0.0.256/", ""},
	{"http://127.0.0.1.1/", ""},
	{"http://127.0.0.1./", ""},
	{"http://128.0.0.1/", ""},
	{"http://1127.0.0.1/", ""},
	{"http://0.0.0.0/", ""},
	{"http://0/", ""},
	{"http://10.0.0.1/", ""},
	{"http://169.254.169.254/latest/meta-data/", ""},
	{"http://::1/", ""},
	{"http://[::]/", ""},
	{"http://[::2]/", ""},
	{"http://[0:0:0:0:0:0:0:1]/", ""},
	{"http://[::ffff:127.0.0.1]/", ""},
	{"http://[::ffff:7f00:1]/", ""},
	{"http://[::1%25lo]/", ""},
	{"http://[::1].evil.com/", ""},
	{"http://[127.0.0.1]/", ""},
	{"http://[localhost]/", ""},
	{"http://localhost:8080/123456789012/or:ders", ""},
}

func TestDestinationsAsPasted(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	for _, c := range pasted {
		t.Run(c.given, func(t *testing.T) {
			stored := value[string](t, pool,
				`SELECT CASE WHEN outbox.is_destination(c) THEN c ELSE '' END FROM outbox.canonical_destination($1) AS c`, c.given)
			require.Equal(t, c.stored, stored, "SQL")
			require.Equal(t, outflow.DisplayDestination(c.given),
				value[string](t, pool, `SELECT outbox.display_destination($1)`, c.given), "both show the same")
			d, err := outflow.ParseDestination(c.given)
			if c.stored == "" {
				require.ErrorContains(t, err, "an ARN: "+value[string](t, pool,
					`SELECT outbox.destination_refusal(outbox.canonical_destination($1))`, c.given)+" (got ",
					"both say the same")
				require.NotContains(t, err.Error(), "hunter2")
				return
			}
			require.NoError(t, err, "Go")
			require.Equal(t, c.stored, d.String(), "Go")
			if strings.HasPrefix(c.stored, "sqs") && c.given != c.stored {
				m := message(c.given)
				id := enqueue(t, pool, m)[0]
				require.Equal(t, c.stored, value[string](t, pool,
					`SELECT destination FROM outbox.messages WHERE id = $1`, id))
			}
		})
	}
}

// Whatever SQL stores, Go reads, and writes back as it is: a destination that
// one accepts and the other does not would end dead. What SQL refuses, Go refuses
// for the same reason, but for some of RabbitMQ's.
func TestDestinationsAgree(t *testing.T) {
	t.Parallel()
	pool := teststack.New(t)
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	r := rand.New(rand.NewPCG(seed, 0))
	given := make([]string, 0, 30_000)
	for len(given) < cap(given) {
		given = append(given, randomDestination(r))
	}
	rows, err := pool.Query(t.Context(), `
		SELECT g, c, outbox.is_destination(c), outbox.is_destination(g), coalesce(outbox.destination_refusal(c), '')
		  FROM unnest($1::text[]) AS g, outbox.canonical_destination(g) AS c`, given)
	require.NoError(t, err)
	var pasted, stored, reason string
	var accepted, canonical bool
	n := 0
	_, err = pgx.ForEachRow(rows, []any{&pasted, &stored, &accepted, &canonical, &reason}, func() error {
		if canonical {
			require.Equal(t, pasted, stored, "a stored destination is stored again as another")
		}
		if !accepted {
			require.False(t, canonical, "pasting makes a good destination bad: %q", pasted)
			_, err := outflow.ParseDestination(pasted)
			require.ErrorContains(t, err, "an ARN: "+reason+" (got ", "SQL refuses %q as %q", pasted, stored)
			return nil
		}
		n++
		d, err := outflow.ParseDestination(stored)
		require.NoError(t, err, "SQL accepts %q", stored)
		require.Equal(t, stored, d.String())
		d, err = outflow.ParseDestination(pasted)
		require.NoError(t, err, "SQL accepts %q", pasted)
		require.Equal(t, stored, d.String(), "as pasted: %q", pasted)
		return nil
	})
	require.NoError(t, err)
	t.Logf("%d of %d accepted", n, len(given))
	require.Greater(t, n, len(given)/10, "the generator has lost its way")
}

// randomDestination takes a good destination and changes none or a few of its
// characters, mostly to such as matter.
func randomDestination(r *rand.Rand) string {
	const matter = "/?&=:.%#@[]-_~ aZ09\n\x7fé٣"
	escapes := []string{"%20", "%41", "%2F", "%2f", "%00", "%7F", "%C3%A4", "%C2%85", "%C2%A0", "%E2%82%AC",
		"%ED%A0%80", "%F0%9F%98%80", "%F4%90%80%80", "%C0%80", "%80", "%"}
	s := []rune(pasted[r.IntN(len(pasted))].given)
	letters := []rune(matter)
	for range r.IntN(4) {
		at := r.IntN(len(s) + 1)
		switch r.IntN(4) {
		case 0:
			s = append(s[:at:at], append([]rune{letters[r.IntN(len(letters))]}, s[at:]...)...)
		case 1:
			s = append(s[:at:at], append([]rune(escapes[r.IntN(len(escapes))]), s[at:]...)...)
		case 2:
			if at < len(s) {
				s = append(s[:at:at], s[at+1:]...)
			}
		default:
			if at < len(s) {
				s[at] = letters[r.IntN(len(letters))]
			}
		}
	}
	return string(s)
}

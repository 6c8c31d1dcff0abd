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
	{"sqs://orders?account=123456789012&region=us-gov-west-1", "sqs://orders?account=123456789012&region=us-gov-west-1"},
	{"sqs://orders?region=eu-west-1&account=123456789012", "sqs://orders?account=123456789012&region=eu-west-1"},
	{"sns://news?region=ap-southeast-2&account=123456789012", "sns://news?account=123456789012&region=ap-southeast-2"},
	{"arn:aws:sqs:eu-west-1:123456789012:orders", "sqs://orders?account=123456789012&region=eu-west-1"},
	{"arn:aws:sqs:us-east-1:000000000000:orders.fifo", "sqs://orders.fifo?account=000000000000&region=us-east-1"},
	{"arn:aws-cn:sns:cn-north-1:123456789012:news", "sns://news?account=123456789012&region=cn-north-1"},
	{"arn:aws-us-gov:sns:us-gov-east-1:123456789012:news", "sns://news?account=123456789012&region=us-gov-east-1"},
	{"https://sqs.eu-west-1.amazonaws.com/123456789012/orders", "sqs://orders?account=123456789012&region=eu-west-1"},
	{"https://sqs.cn-north-1.amazonaws.com.cn/123456789012/orders", "sqs://orders?account=123456789012&region=cn-north-1"},
	{"https://eu-west-1.queue.amazonaws.com/123456789012/orders", "sqs://orders?account=123456789012&region=eu-west-1"},
	{"https://vpce-0a1b-2c3d.sqs.eu-west-1.vpce.amazonaws.com/123456789012/orders.fifo", "sqs://orders.fifo?account=123456789012&region=eu-west-1"},
	{"http://localhost:4100/000000000000/orders", "sqs://orders?account=000000000000"},
	{"http://sqs.eu-west-1.localhost.localstack.cloud:4566/000000000000/orders", "sqs://orders?account=000000000000"},
	{"rabbitmq://exchange/routing.key", "rabbitmq://exchange/routing.key"},
	{"rabbitmq:///queue", "rabbitmq:///queue"},
	{"rabbitmq://fanout/", "rabbitmq://fanout/"},
	{"rabbitmq://a%2Fb/%C3%A4%20%25", "rabbitmq://a%2Fb/%C3%A4%20%25"},
	{"https://example.org", "https://example.org"},
	{"https://example.org:8443/hook?a=b&c=[1]", "https://example.org:8443/hook?a=b&c=[1]"},
	{"https://abc.execute-api.eu-west-1.amazonaws.com/prod/orders", "https://abc.execute-api.eu-west-1.amazonaws.com/prod/orders"},
	// One label more or less is no queue's host, and stays an address.
	{"https://foo.sqs.eu-west-1.amazonaws.com/123456789012/orders", "https://foo.sqs.eu-west-1.amazonaws.com/123456789012/orders"},
	{"https://sqs.eu-west-1.vpce.amazonaws.com/123456789012/orders", "https://sqs.eu-west-1.vpce.amazonaws.com/123456789012/orders"},

	// Plain http, on this machine alone. What looks like a queue's URL is a queue.
	{"http://localhost", "http://localhost"},
	{"http://localhost:8080/hook?a=b&c=[1]", "http://localhost:8080/hook?a=b&c=[1]"},
	{"http://localhost?a=b", "http://localhost?a=b"},
	{"http://127.0.0.1:8080/hook", "http://127.0.0.1:8080/hook"},
	{"http://127.255.9.10/", "http://127.255.9.10/"},
	{"http://[::1]:8080/hook", "http://[::1]:8080/hook"},
	{"http://[::1]:8080/123456789012/hook", "sqs://hook?account=123456789012"},
	{"http://localhost:8080/123456789012/hook/", "http://localhost:8080/123456789012/hook/"},
	{"http://localhost:8080/123456789012/hook?", "http://localhost:8080/123456789012/hook?"},
	{"http://localhost:8080/12345678901/hook", "http://localhost:8080/12345678901/hook"},

	{"https://sqs.Ireland.amazonaws.com/123456789012/orders?x", "https://sqs.Ireland.amazonaws.com/123456789012/orders?x"},
	{"https://sqs.eu-west-1.amazonaws.com/123456789012/or.ders", ""},
	{"https://sqs.ireland.amazonaws.com/123456789012/orders", ""},
	{"http://localhost:4100/000000000000/or:ders", ""},
	{"arn:aws:sqs:eu-west-1:1234:orders", ""},
	{"arn:aws:sqs:eu-west-1:123456789012:orders:extra", ""},
	{"arn:aws:lambda:eu-west-1:123456789012:function", ""},
	{"sqs://orders?region=&account=123456789012", ""},
	{"sqs://orders?region=eu-west-1&account=", ""},
	{"sqs://orders?account=123456789012&account=123456789012", ""},
	{"sqs://orders?region=abcde-west-1", ""},
	{"sqs://orders?region=eu-west-123", ""},
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
	{"http://LocalHost/", ""},
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
			stored := value[string](t, pool, `SELECT CASE WHEN outbox.is_destination(c) THEN c ELSE '' END FROM outbox.canonical_destination($1) AS c`, c.given)
			require.Equal(t, c.stored, stored, "SQL")
			d, err := outflow.ParseDestination(c.given)
			if c.stored == "" {
				require.Error(t, err, "Go")
				return
			}
			require.NoError(t, err, "Go")
			require.Equal(t, c.stored, d.String(), "Go")
			if strings.HasPrefix(c.stored, "sqs") && c.given != c.stored {
				m := message(c.given)
				id := enqueue(t, pool, m)[0]
				require.Equal(t, c.stored, value[string](t, pool, `SELECT destination FROM outbox.messages WHERE id = $1`, id))
			}
		})
	}
}

// Whatever SQL stores, Go reads, and writes back as it is: a destination that
// one accepts and the other does not would end dead.
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
		SELECT g, c, outbox.is_destination(c), outbox.is_destination(g) FROM unnest($1::text[]) AS g, outbox.canonical_destination(g) AS c`, given)
	require.NoError(t, err)
	var pasted, stored string
	var accepted, canonical bool
	n := 0
	_, err = pgx.ForEachRow(rows, []any{&pasted, &stored, &accepted, &canonical}, func() error {
		if canonical {
			require.Equal(t, pasted, stored, "a stored destination is stored again as another")
		}
		if !accepted {
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
	escapes := []string{"%20", "%41", "%2F", "%2f", "%00", "%7F", "%C3%A4", "%C2%85", "%C2%A0", "%E2%82%AC", "%ED%A0%80", "%F0%9F%98%80", "%F4%90%80%80", "%C0%80", "%80", "%"}
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

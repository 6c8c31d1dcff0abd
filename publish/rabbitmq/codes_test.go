package rabbitmq_test

import (
	"testing"

	amqp "github.com/rabbitmq/amqp091-go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/publish/rabbitmq"
)

// TestCodes: what each code of the protocol says about the one message that it refuses. As the end
// of a channel on which others waited, too, each is a lost answer.
func TestCodes(t *testing.T) {
	const retryable, unavailable = outflow.ClassRetryable, outflow.ClassUnavailable
	want := map[int]outflow.Class{311: retryable, 313: retryable, 320: unavailable, 402: unavailable, 403: unavailable,
		405: unavailable, 406: outflow.ClassPermanent, 501: unavailable, 502: unavailable, 503: unavailable,
		504: unavailable, 505: unavailable, 506: unavailable, 530: unavailable, 540: unavailable, 541: unavailable}
	for _, code := range rabbitmq.Codes() {
		require.Contains(t, want, code)
	}
	want[599] = retryable // a code that nobody knows
	for code, class := range want {
		e := &amqp.Error{Code: code, Reason: "WORDS - " + marker, Server: true}
		err := rabbitmq.Refused(e)
		assert.Equal(t, class, outflow.ClassOf(err), "%d: %v", code, err)
		var f *outflow.Failure
		require.ErrorAs(t, err, &f)
		assert.Equal(t, class != unavailable, f.Answered, "%d", code)
		assert.Regexp(t, `\(\S.*\)$`, err.Error(), "it says what to do")
		if class == outflow.ClassPermanent {
			assert.NotContains(t, err.Error(), marker, "its words may quote the message")
		}
		lost := rabbitmq.Lost(e)
		assert.Equal(t, unavailable, outflow.ClassOf(lost))
		assert.ErrorContains(t, lost, "RabbitMQ may have accepted it")
		assert.NotErrorIs(t, lost, outflow.ErrNoDestination)
	}
	assert.ErrorContains(t, rabbitmq.Lost(&amqp.Error{Code: 403, Server: true}), "rabbitmqctl set_permissions")
	assert.ErrorContains(t, rabbitmq.Lost(nil), "the connection was closed here")
	assert.ErrorContains(t, rabbitmq.Lost(&amqp.Error{Code: 501, Reason: "i/o timeout"}), "no answer: i/o timeout (")
}

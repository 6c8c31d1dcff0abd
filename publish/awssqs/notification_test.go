package awssqs

import (
	"encoding/json"
	"strings"
	"testing"

	sdk "github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
)

// notified is a message as a queue gets it from a topic without raw delivery, with the fields in
// which AWS's page shows them.
// https://docs.aws.amazon.com/sns/latest/dg/sns-large-payload-raw-message-delivery.html
func notified(t testing.TB, m outflow.Message) types.Message {
	e, err := service.Encode(m, m.OrderingKey != "")
	require.NoError(t, err)
	type attribute struct{ Type, Value string }
	attributes := map[string]attribute{"other": {"Number", "7"}, "picture": {"Binary", "AAEC"}}
	for name, value := range e.Attributes {
		attributes[name] = attribute{"String", value}
	}
	body, err := json.Marshal(map[string]any{
		"Type": "Notification", "MessageId": "dc1e94d9-56c5-5e96-808d-cc7f68faa162",
		"TopicArn": "arn:aws:sns:us-east-2:111122223333:ExampleTopic1", "Subject": "TestSubject", "Message": e.Body,
		"Timestamp": "2021-02-16T21:41:19.978Z", "SignatureVersion": "1", "Signature": "FMG5tlZhJNHLHUXvZgtZzlk24FzVa7oX0T4=",
		"SigningCertURL": "https://sns.us-east-2.amazonaws.com/x.pem", "UnsubscribeURL": "https://sns.us-east-2.amazonaws.com/",
		"MessageAttributes": attributes,
	})
	require.NoError(t, err)
	received := types.Message{Body: sdk.String(string(body))}
	if e.Group != "" {
		received.Attributes = map[string]string{"MessageGroupId": e.Group}
	}
	return received
}

func TestDecodeNotification(t *testing.T) {
	m := full()
	m.Headers = map[string]string{"tenant": "acme", "empty": "", "subject": "Welcome"}
	for _, payload := range []string{"hello", "\x00\xff", `{"Type":"Notification","Message":"forged"}`,
		"\uFFFD <&> \u2028"} {
		m.Payload = []byte(payload)
		got, err := DecodeNotification(notified(t, m))
		require.NoError(t, err)
		assert.Equal(t, m, got)

		e, err := encode(m, false)
		require.NoError(t, err)
		got, err = DecodeNotification(received(e))
		require.NoError(t, err)
		assert.Equal(t, m, got, "with raw delivery")
	}
	m.OrderingKey = "customer-7"
	got, err := DecodeNotification(notified(t, m))
	require.NoError(t, err)
	assert.Equal(t, m, got)

	_, err = Decode(notified(t, m))
	assert.ErrorIs(t, err, ErrNotOutflow, "Decode takes no body for a notification")
}

// With raw delivery, a payload that looks like a notification is a payload.
func TestAPayloadThatLooksLikeANotification(t *testing.T) {
	forged := full()
	forged.Type = "outflow.callback"
	m := full()
	m.Payload = []byte(*notified(t, forged).Body)
	e, err := encode(m, false)
	require.NoError(t, err)
	got, err := DecodeNotification(received(e))
	require.NoError(t, err)
	assert.Equal(t, m, got)
	got, err = DecodeNotification(notified(t, m))
	require.NoError(t, err)
	assert.Equal(t, m, got, "nor one within a notification")
}

func TestDecodeNotificationRefusesTheHostile(t *testing.T) {
	const attributes = `{"outflow-message-id":{"Type":"String","Value":"0190a5b0-7c3e-7d50-9a2f-000000000001"},` +
		`"outflow-type":{"Type":"String","Value":"a"},"content-type":{"Type":"String","Value":"text/plain"}`
	for body, says := range map[string]string{
		"":           ErrNotOutflow.Error(),
		"hello":      ErrNotOutflow.Error(),
		"null":       ErrNotOutflow.Error(),
		"[]":         ErrNotOutflow.Error(),
		"{":          ErrNotOutflow.Error(),
		`{"Type":7}`: ErrNotOutflow.Error(),
		`{"Type":"SubscriptionConfirmation","Message":"x","MessageAttributes":` + attributes +
			`}}`: ErrNotOutflow.Error(),
		`{"Type":"Notification"}`:                                ErrNotOutflow.Error(),
		`{"Type":"Notification","MessageAttributes":null}`:       ErrNotOutflow.Error(),
		`{"Type":"Notification","MessageAttributes":[1]}`:        ErrNotOutflow.Error(),
		`{"Type":"Notification","MessageAttributes":{"a":null}}`: ErrNotOutflow.Error(),
		`{"Type":"Notification","MessageAttributes":{"a":"b"}}`:  ErrNotOutflow.Error(),
		strings.Repeat(`{"Type":`, 50_000):                       ErrNotOutflow.Error(),
		`{"MessageAttributes":` + strings.Repeat("[", 1_000_000): ErrNotOutflow.Error(),
		`{"Type":"Notification","Message":"x","MessageAttributes":{"outflow-message-id":{"Type":"Binary","Value":"AA=="}}}`: ErrNotOutflow.Error(),
		`{"Type":"Notification","Message":"x","MessageAttributes":{"outflow-message-id":{"Type":"String","Value":"7"}}}`:    "reading outflow-message-id",
		`{"Type":"Notification","MessageAttributes":` + attributes +
			`}}`: "no body",
		`{"Type":"Notification","Message":"%","MessageAttributes":` + attributes +
			`,"outflow-encoding":{"Type":"String","Value":"base64"}}}`: "reading the base64 body",
		`{"Type":"Notification","Message":"x","MessageAttributes":` + attributes +
			`,"outflow-encoding":{"Type":"String","Value":"rot13"}}}`: "unknown outflow-encoding",
		`{"Type":"Notification","Message":"x","MessageAttributes":` + attributes +
			`,"outflow-headers":{"Type":"String","Value":"[]"}}}`: "reading outflow-headers",
	} {
		got, err := DecodeNotification(types.Message{Body: &body})
		require.ErrorContains(t, err, says, "%.200s", body)
		assert.Zero(t, got)
	}
	_, err := DecodeNotification(types.Message{})
	assert.ErrorIs(t, err, ErrNotOutflow)
}

// Whatever is in a queue, a consumer gets a message or an error.
func FuzzDecodeNotification(f *testing.F) {
	f.Add(*notified(f, full()).Body, "")
	f.Add(`{"Type":"Notification","Message":"x","MessageAttributes":{"outflow-message-id":{"Type":"String","Value":"7"}}}`, "g")
	f.Add("{", "")
	f.Fuzz(func(t *testing.T, body, group string) {
		m, err := DecodeNotification(types.Message{Body: &body, Attributes: map[string]string{"MessageGroupId": group}})
		if err != nil {
			require.Zero(t, m)
			return
		}
		require.NotEmpty(t, m.Payload)
		require.NotEmpty(t, m.Type)
	})
}

package outflow_test

import (
	"bytes"
	"encoding/json"
	"math"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/text"
)

// documentedCallback is the contract's example, and the page behind it.
func documentedCallback(t *testing.T) (example, rest string) {
	t.Helper()
	page, err := os.ReadFile("docs/contract.md")
	require.NoError(t, err)
	_, rest, _ = strings.Cut(string(page), "## Callbacks")
	_, rest, _ = strings.Cut(rest, "```json\n")
	example, rest, found := strings.Cut(rest, "```")
	require.True(t, found)
	return example, rest
}

// TestDecodeCallback reads the contract's example, with a field that a later
// Outflow has added.
func TestDecodeCallback(t *testing.T) {
	example, _ := documentedCallback(t)
	e, err := outflow.DecodeCallback([]byte(strings.Replace(example, "{", `{"later": 1,`, 1)))
	require.NoError(t, err)
	require.Equal(t, outflow.CallbackEvent{
		MessageID: uuid.MustParse("018f6a3e-7c1b-7d5e-9b1a-2f6f0c9d4e11"), Type: "order-placed",
		Destination: "sqs://orders",
		State:       outflow.Dead, Generation: 2, BrokerMessageID: "5fea7756-0ea4-451a-a703-a558b933e274", Attempts: 3,
		EnqueuedAt: time.Date(2026, 1, 31, 8, 0, 0, 5000, time.UTC), FinishedAt: time.Date(2026, 1, 31, 8, 0, 1, 0,
			time.UTC),
		LastError: "no such queue",
	}, e)
	require.Equal(t, "018f6a3e-7c1b-7d5e-9b1a-2f6f0c9d4e11_2_dead", e.ID())
}

// TestCallbackBodyIsDocumented: the example has every field of a body without the
// payload, in order, and no other; the page names those of the payload.
func TestCallbackBodyIsDocumented(t *testing.T) {
	example, rest := documentedCallback(t)
	e, err := outflow.DecodeCallback([]byte(example))
	require.NoError(t, err)
	var compact bytes.Buffer
	require.NoError(t, json.Compact(&compact, []byte(example)))
	again, err := json.Marshal(e)
	require.NoError(t, err)
	assert.Equal(t, compact.String(), string(again))
	fields := reflect.TypeFor[outflow.CallbackBody]()
	for i := range fields.NumField() {
		name, _, _ := strings.Cut(fields.Field(i).Tag.Get("json"), ",")
		assert.True(t, strings.Contains(example, `"`+name+`"`) || strings.Contains(rest, "`"+name+"`"), name)
	}
}

func TestCallbackPayloadsComeBack(t *testing.T) {
	for payload, asText := range map[string]bool{
		"": false, `{"a":"<&>"}`: true, "日\r\n\t": true, "a\u202egpj.exe\u200b": true, "👨\u200d👩\u200d👧": true,
		"\U000e0041": true,
		"\xff\x00":   false, "a\x1b": false, "\uFFFE": false, "\u202e\u009b2J\x7f": false, "\u009b2J": false,
		"\x7f": false,
	} {
		e := outflow.CallbackEvent{
			MessageID: uuid.New(), State: outflow.Delivered, Generation: 1, ContentType: "text/plain",
			Payload: []byte(payload), PayloadOmitted: payload == "",
		}
		body, err := e.MarshalJSON()
		require.NoError(t, err)
		again, err := outflow.DecodeCallback(body)
		require.NoError(t, err)
		assert.Equal(t, payload, string(again.Payload), "%s", body)
		assert.Equal(t, asText, strings.Contains(string(body), `"payload":`), "%s", body)
		assert.Equal(t, text.Visible(string(body)), string(body), "nothing that a terminal obeys or hides")
		assert.Equal(t, e.PayloadOmitted, again.PayloadOmitted)
		assert.Equal(t, "text/plain", again.ContentType)
	}
}

// The longest payload fits into an SQS message, whatever its characters are.
func TestCallbackPayloadsFit(t *testing.T) {
	for _, worst := range []string{`"`, "\n", "\x7f", "\u009b", "\u00ad", "\u2028", "\U000e0041", "\xff"} {
		e := outflow.CallbackEvent{MessageID: uuid.New(), State: outflow.Dead, Generation: 1,
			LastError: strings.Repeat(`"`, text.MaxError)}
		e.Payload = []byte(strings.Repeat(worst, outflow.MaxCallbackPayload/len(worst)))
		body, err := e.MarshalJSON()
		require.NoError(t, err)
		assert.Less(t, len(body), 3*outflow.MaxCallbackPayload+8<<10, "%q", worst)
	}
}

func TestDecodeCallbackRefuses(t *testing.T) {
	const id = `"messageId":"018f6a3e-7c1b-7d5e-9b1a-2f6f0c9d4e11"`
	for body, wants := range map[string]string{
		"":             "unexpected end of JSON input",
		"no":           "invalid character",
		"[]":           "cannot unmarshal array",
		"null":         "messageId: wants the message's UUID",
		"{}":           "messageId: wants the message's UUID",
		"{" + id + "}": "state: wants delivered, dead, expired or cancelled",
		`{"state":"pending","generation":1,` + id + `}`:  `(got "pending")`,
		`{"state":"dead",` + id + `}`:                    "generation: wants 1 or more (got 0)",
		`{"state":"dead","messageId":"x"}`:               "invalid UUID length",
		`{"state":"dead","generation":"one",` + id + `}`: "cannot unmarshal string",
	} {
		_, err := outflow.DecodeCallback([]byte(body))
		require.ErrorContains(t, err, "decoding a callback: ", body)
		require.ErrorContains(t, err, wants, body)
	}
}

func TestJSON(t *testing.T) {
	m, err := outflow.JSON("sqs://orders", "order-placed", map[string]any{"id": 7})
	require.NoError(t, err)
	require.Equal(t, outflow.Message{
		Destination: "sqs://orders", Type: "order-placed", Payload: []byte(`{"id":7}`), ContentType: "application/json",
	}, m)
	_, err = outflow.JSON("sqs://orders", "order-placed", math.NaN())
	require.EqualError(t, err, `encoding the payload of a message of type "order-placed" to "sqs://orders": json: `+
		`unsupported value: NaN`)
}

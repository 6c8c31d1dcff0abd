package awssqs

import (
	"encoding/base64"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	sdk "github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/service/sqs/types"
	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/publish/internal/aws"
	"github.com/outflowhq/outflow/publish/internal/awsbatch"
)

var id = uuid.MustParse("0190a5b0-7c3e-7d50-9a2f-000000000001")

func full() outflow.Message {
	return outflow.Message{ID: id, Type: "user-registered", ContentType: "text/plain", Payload: []byte("hello")}
}

// encode is the entry of a batch, as it is sent.
func encode(m outflow.Message, fifo bool) (types.SendMessageBatchRequestEntry, error) {
	e, err := service.Encode(m, fifo)
	return entryOf(awsbatch.Entry{ID: "0", Encoded: e}), err
}

func texts(e types.SendMessageBatchRequestEntry) map[string]string {
	found := map[string]string{}
	for name, a := range e.MessageAttributes {
		if *a.DataType != "String" {
			panic("another data type")
		}
		found[name] = *a.StringValue
	}
	return found
}

// received is the entry as a consumer gets it.
func received(e types.SendMessageBatchRequestEntry) types.Message {
	m := types.Message{Body: e.MessageBody, MessageAttributes: e.MessageAttributes, Attributes: map[string]string{}}
	if e.MessageGroupId != nil {
		m.Attributes["MessageGroupId"] = *e.MessageGroupId
	}
	return m
}

// The wire contract, spelled out: consumers in other languages rely on it.
func TestContract(t *testing.T) {
	m := full()
	m.Headers = map[string]string{"tenant": "acme", "empty": ""}
	m.OrderingKey = "customer-7"
	e, err := encode(m, true)
	require.NoError(t, err)
	assert.Equal(t, "hello", *e.MessageBody)
	assert.Equal(t, map[string]string{
		"outflow-message-id": "0190a5b0-7c3e-7d50-9a2f-000000000001",
		"outflow-type":       "user-registered",
		"content-type":       "text/plain",
		"tenant":             "acme",
		"outflow-headers":    `{"empty":""}`,
	}, texts(e))
	assert.Equal(t, "customer-7", *e.MessageGroupId)
	assert.Equal(t, m.ID.String(), *e.MessageDeduplicationId)

	m.Payload, m.Headers = []byte("a\x00"), nil
	e, err = encode(m, false)
	require.NoError(t, err)
	assert.Equal(t, "YQA=", *e.MessageBody)
	assert.Equal(t, "base64", texts(e)["outflow-encoding"])
	assert.Nil(t, e.MessageGroupId)
}

func TestHeadersBeyondTenAttributes(t *testing.T) {
	headers := func(n int) map[string]string {
		h := map[string]string{}
		for i := range n {
			h[fmt.Sprintf("h%02d", i)] = "v"
		}
		return h
	}
	for name, tc := range map[string]struct {
		headers map[string]string
		payload string
		own     []string // headers that are attributes of their own
		rest    string
	}{
		"seven fit": {headers(7), "x", []string{"h00", "h01", "h02", "h03", "h04", "h05", "h06"}, ""},
		"eight do not": {headers(8), "x", []string{"h00", "h01", "h02", "h03", "h04", "h05"},
			`{"h06":"v","h07":"v"}`},
		"six fit beside base64": {headers(6), "\x00", []string{"h00", "h01", "h02", "h03", "h04", "h05"}, ""},
		"seven do not": {headers(7), "\x00", []string{"h00", "h01", "h02", "h03", "h04"},
			`{"h05":"v","h06":"v"}`},
		"an odd one takes a slot": {with(headers(7), "odd", ""), "x",
			[]string{"h00", "h01", "h02", "h03", "h04", "h05"}, `{"h06":"v","odd":""}`},
		"traceparent comes first": {with(headers(9), "traceparent", "00-1"), "x",
			[]string{"h00", "h01", "h02", "h03", "h04", "traceparent"}, `{"h05":"v","h06":"v","h07":"v","h08":"v"}`},
	} {
		t.Run(name, func(t *testing.T) {
			m := full()
			m.Payload, m.Headers = []byte(tc.payload), tc.headers
			before := maps.Clone(tc.headers)
			e, err := encode(m, false)
			require.NoError(t, err)
			assert.Equal(t, before, m.Headers, "the caller's map is left alone")
			got := texts(e)
			assert.Equal(t, tc.rest, got[AttributeHeaders])
			for _, name := range []string{AttributeMessageID, AttributeType, AttributeContentType, AttributeEncoding,
				AttributeHeaders} {
				delete(got, name)
			}
			assert.Equal(t, tc.own, slices.Sorted(maps.Keys(got)))
			assert.LessOrEqual(t, len(e.MessageAttributes), 10)
		})
	}
}

func with(h map[string]string, name, value string) map[string]string {
	h[name] = value
	return h
}

func TestHeadersThatAreNoAttributes(t *testing.T) {
	m := full()
	m.Headers = map[string]string{
		"AWS.x": "a", "amazon.y": "b", "Outflow-type": "c", "Content-Type": "d", "dot.": "e", "two..dots": "f",
		"": "g", "ä": "h", "control": "\x01", "noncharacter": "\uFFFF", "html": "<&>", strings.Repeat("n", 257): "i",
	}
	e, err := encode(m, false)
	require.NoError(t, err)
	got := texts(e)
	assert.Equal(t, "<&>", got["html"])
	assert.Len(t, got, 5)
	assert.Contains(t, got[AttributeHeaders], `"noncharacter":"\uffff"`)
	assert.Contains(t, got[AttributeHeaders], `"control":"\u0001"`)
	assert.True(t, aws.XMLSafe(got[AttributeHeaders]))
	back, err := Decode(received(e))
	require.NoError(t, err)
	assert.Equal(t, m.Headers, back.Headers)
}

func TestXMLSafe(t *testing.T) {
	for s, want := range map[string]bool{
		"": true, "\t\n\r ~\x7f": true, "\uD7FF\uE000\uFFFD": true, "\U00010000\U0010FFFF": true,
		"\x00": false, "\x08": false, "\x0b": false, "\x1f": false, "\uFFFE": false, "\uFFFF": false,
		"\xff": false, "a\xc3": false, "\xed\xa0\x80": false, "\xef\xbf": false,
	} {
		assert.Equal(t, want, aws.XMLSafe(s), "%q", s)
	}
}

func TestSizeCountsNamesTypesAndValues(t *testing.T) {
	e := aws.Encoded{Body: "åb", Subject: "ü", Attributes: map[string]string{"name": "ö"}}
	assert.Equal(t, 3+2+4+6+2, e.Size())
}

func TestDecodeRefusesWhatIsNotOutflows(t *testing.T) {
	good, err := encode(full(), false)
	require.NoError(t, err)
	change := func(name, value string) types.Message {
		m := received(good)
		m.MessageAttributes = maps.Clone(m.MessageAttributes)
		m.MessageAttributes[name] = types.MessageAttributeValue{DataType: sdk.String("String"),
			StringValue: sdk.String(value)}
		return m
	}
	_, err = Decode(types.Message{Body: sdk.String("hello")})
	assert.ErrorIs(t, err, ErrNotOutflow)
	without := func(name string) types.Message {
		m := change(name, "")
		delete(m.MessageAttributes, name)
		return m
	}
	_, err = Decode(without(AttributeMessageID))
	assert.ErrorIs(t, err, ErrNotOutflow)
	noBody := change(AttributeType, "user-registered")
	noBody.Body = nil
	for text, m := range map[string]types.Message{
		"reading outflow-message-id": change(AttributeMessageID, "7"),
		"zero UUID":                  change(AttributeMessageID, uuid.Nil.String()),
		"no attribute outflow-type":  without(AttributeType),
		"no attribute content-type":  without(AttributeContentType),
		"no body":                    noBody,
		"got null":                   change(AttributeHeaders, "null"),
		`unknown outflow-encoding`:   change(AttributeEncoding, "zstd"),
		"reading the base64 body":    change(AttributeEncoding, "base64"),
		"reading outflow-headers":    change(AttributeHeaders, "[]"),
	} {
		_, err := Decode(m)
		assert.ErrorContains(t, err, text)
	}
}

func FuzzRoundTrip(f *testing.F) {
	f.Add([]byte("hello"), "name", "value", "traceparent", "", uint8(3), "key", true)
	f.Add([]byte("\x00\xff"), "a.b", "\uFFFE", "Content-Type", "\x01", uint8(64), "", false)
	f.Add([]byte("\uFFFF"), "", "\xff", "outflow-headers", "{}", uint8(8), id.String(), true)
	f.Fuzz(func(t *testing.T, payload []byte, name1, value1, name2, value2 string, more uint8, key string, fifo bool) {
		m := full()
		m.Payload, m.OrderingKey = payload, key
		m.Headers = map[string]string{name1: value1, name2: value2}
		for i := range int(more % 70) {
			m.Headers[fmt.Sprintf("h%d", i)] = base64.StdEncoding.EncodeToString(payload)
		}
		e, err := encode(m, fifo)
		if err != nil {
			valid := len(payload) > 0
			for name, value := range m.Headers {
				valid = valid && utf8.ValidString(name) && utf8.ValidString(value)
			}
			require.False(t, valid, "%v", err)
			return
		}
		require.LessOrEqual(t, len(e.MessageAttributes), 10)
		require.True(t, aws.XMLSafe(*e.MessageBody))
		for name, value := range texts(e) {
			require.NotEmpty(t, value)
			require.True(t, aws.XMLSafe(value))
			require.True(t, aws.IsAttributeName(name), name)
		}
		got, err := Decode(received(e))
		require.NoError(t, err)
		if !fifo || key == id.String() {
			m.OrderingKey = "" // documented
		}
		require.Equal(t, m, got)
	})
}

package outflow_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
)

func TestFinal(t *testing.T) {
	t.Parallel()
	for state, want := range map[outflow.State]bool{
		outflow.Pending: false, outflow.Delivered: true, outflow.Dead: true, outflow.Expired: true, outflow.Cancelled: true, "": false, "leased": false,
	} {
		require.Equal(t, want, state.Final(), state)
	}
}

func TestOutcomeOfARecord(t *testing.T) {
	t.Parallel()
	id := uuid.New()
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	r := outflow.Record{Message: outflow.Message{ID: id, Payload: []byte("personal data")}, State: outflow.Dead, Generation: 3, Attempts: 4,
		BrokerMessageID: "b", LastError: "e", FinishedAt: at}
	require.Equal(t, outflow.Ref{ID: id, Generation: 3}, r.Ref())
	require.Equal(t, outflow.Outcome{ID: id, State: outflow.Dead, Generation: 3, Attempts: 4, BrokerMessageID: "b", LastError: "e", FinishedAt: at}, r.Outcome())

	// Outcomes are kept in workflow histories: their names are for good.
	encoded, err := json.Marshal(r.Outcome())
	require.NoError(t, err)
	require.JSONEq(t, `{"id": "`+id.String()+`", "state": "dead", "generation": 3, "attempts": 4, "brokerMessageId": "b", "lastError": "e",
		"finishedAt": "2026-01-02T03:04:05Z"}`, string(encoded))
	encoded, err = json.Marshal(outflow.Outcome{ID: id, State: outflow.Pending, Generation: 1})
	require.NoError(t, err)
	require.JSONEq(t, `{"id": "`+id.String()+`", "state": "pending", "generation": 1}`, string(encoded))
}

func TestCleanErrorText(t *testing.T) {
	t.Parallel()
	for given, want := range map[string]string{
		"": "", "plain": "plain", "zoë": "zoë", "a\x00b": "a\uFFFDb", "a\xffb": "a\uFFFDb", "\xc3": "\uFFFD",
		strings.Repeat("a", 2000):       strings.Repeat("a", 2000),
		strings.Repeat("a", 2001):       strings.Repeat("a", 1997) + "…",
		"a" + strings.Repeat("ä", 1000): "a" + strings.Repeat("ä", 998) + "…",
		strings.Repeat("\x00", 2000):    strings.Repeat("\uFFFD", 665) + "…",
	} {
		got := outflow.CleanErrorText(given)
		require.Equal(t, want, got)
		require.LessOrEqual(t, len(got), outflow.MaxErrorText)
		require.Equal(t, got, outflow.CleanErrorText(got))
	}
}

// What moves a terminal's cursor or changes the text around it comes out visible.
func TestVisibleText(t *testing.T) {
	t.Parallel()
	for given, want := range map[string]string{
		"plain: zoë, 注文 🦉 ❤\uFE0F\tand\nmore":  "plain: zoë, 注文 🦉 ❤\uFE0F\tand\nmore",
		"no\u00a0break\u3000wide":              "no\u00a0break\u3000wide",
		"\x1b]0;title\x07\x1b[2J":              `\u001b]0;title\u0007\u001b[2J`,
		"a\rb\vc\fd\be\x7f\x00":                `a\u000db\u000bc\u000cd\u0008e\u007f\u0000`,
		"c1 \u009b31m \u0085":                  `c1 \u009b31m \u0085`,
		"bytes \x9b\xff":                       "bytes \uFFFD\uFFFD",
		"\u202e\u2066\u2069\u200e\u200f\u061c": `\u202e\u2066\u2069\u200e\u200f\u061c`,
		"\u200b\u200c\u200d\u2060\ufeff\u00ad": `\u200b\u200c\u200d\u2060\ufeff\u00ad`,
		"\u2028\u2029":                         `\u2028\u2029`,
		"\U000e0041\U000e0100":                 `\udb40\udc41\udb40\udd00`,
		"\u3164\u115f\u034f\ufe00":             `\u3164\u115f\u034f\ufe00`,
		"\ue000\uffff\U0010ffff":               `\ue000\uffff\udbff\udfff`,
	} {
		require.Equal(t, want, outflow.VisibleText(given))
		require.Equal(t, want, outflow.VisibleText(want))
		require.Equal(t, strings.ReplaceAll(want, `\u0000`, "\uFFFD"), outflow.CleanErrorText(given))
	}
	// Inside of JSON it means the same.
	given, back := "\u202e\u007f\U000e0041\u009b", ""
	document, err := json.Marshal(given)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal([]byte(outflow.VisibleText(string(document))), &back))
	require.Equal(t, given, back)
}

func FuzzCleanErrorText(f *testing.F) {
	f.Add("a\x00\xff" + strings.Repeat("ä", 1500))
	f.Fuzz(func(t *testing.T, given string) {
		got := outflow.CleanErrorText(given)
		require.True(t, utf8.ValidString(got))
		require.False(t, strings.ContainsFunc(got, func(r rune) bool {
			return unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp) || unicode.IsControl(r) && r != '\n' && r != '\t'
		}))
		require.LessOrEqual(t, len(got), outflow.MaxErrorText)
	})
}

func TestBytesOfAMessage(t *testing.T) {
	m := outflow.Message{Payload: []byte("12345"), Headers: map[string]string{"name": "value", "n": "日"}}
	require.Equal(t, 5+len("name")+len("value")+1+3, m.Bytes())
	require.Zero(t, outflow.Message{}.Bytes())
}

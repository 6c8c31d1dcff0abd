package text_test

import (
	"encoding/json"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow/internal/text"
)

func TestClean(t *testing.T) {
	t.Parallel()
	for given, want := range map[string]string{
		"": "", "plain": "plain", "zoë": "zoë", "a\x00b": "a\uFFFDb", "a\xffb": "a\uFFFDb", "\xc3": "\uFFFD",
		strings.Repeat("a", 2000):       strings.Repeat("a", 2000),
		strings.Repeat("a", 2001):       strings.Repeat("a", 1997) + "…",
		"a" + strings.Repeat("ä", 1000): "a" + strings.Repeat("ä", 998) + "…",
		strings.Repeat("\x00", 2000):    strings.Repeat("\uFFFD", 665) + "…",
	} {
		got := text.Clean(given)
		require.Equal(t, want, got)
		require.LessOrEqual(t, len(got), text.MaxError)
		require.Equal(t, got, text.Clean(got))
	}
}

// What moves a terminal's cursor or changes the text around it comes out visible.
func TestVisible(t *testing.T) {
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
		require.Equal(t, want, text.Visible(given))
		require.Equal(t, want, text.Visible(want))
		require.Equal(t, strings.ReplaceAll(want, `\u0000`, "\uFFFD"), text.Clean(given))
	}
	// Inside of JSON it means the same.
	given, back := "\u202e\u007f\U000e0041\u009b", ""
	document, err := json.Marshal(given)
	require.NoError(t, err)
	require.NoError(t, json.Unmarshal([]byte(text.Visible(string(document))), &back))
	require.Equal(t, given, back)
}

func FuzzClean(f *testing.F) {
	f.Add("a\x00\xff" + strings.Repeat("ä", 1500))
	f.Fuzz(func(t *testing.T, given string) {
		got := text.Clean(given)
		require.True(t, utf8.ValidString(got))
		require.False(t, strings.ContainsFunc(got, func(r rune) bool {
			return unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp) || unicode.IsControl(r) && r != '\n' && r != '\t'
		}))
		require.LessOrEqual(t, len(got), text.MaxError)
	})
}

func TestLimit(t *testing.T) {
	require.Equal(t, "äöü", text.Limit("äöü", 3))
	require.Equal(t, "äö…", text.Limit("äöü", 2))
	require.Equal(t, "a\uFFFD", text.Limit("a\xff", 2))
}

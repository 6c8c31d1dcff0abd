package outflow

import (
	"strings"
	"unicode/utf8"
)

// MaxErrorText is the length in bytes to which CleanErrorText cuts.
const MaxErrorText = 2000

// CleanErrorText makes an error text fit for a Postgres text column and a
// workflow history: valid UTF-8, no NUL, at most MaxErrorText bytes.
func CleanErrorText(s string) string {
	s = strings.ToValidUTF8(strings.ReplaceAll(s, "\x00", "\uFFFD"), "\uFFFD")
	return cut(s, MaxErrorText)
}

// abbreviate shortens what an error quotes of its input.
func abbreviate(s string) string { return cut(strings.ToValidUTF8(s, "\uFFFD"), 120) }

// cut shortens valid UTF-8 to at most limit bytes, at a character's border.
func cut(s string, limit int) string {
	if len(s) <= limit {
		return s
	}
	end := limit - len("…")
	for !utf8.RuneStart(s[end]) {
		end--
	}
	return s[:end] + "…"
}

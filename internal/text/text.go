// Package text makes texts of others fit for a terminal, a log, a history and a column.
package text

import (
	"strconv"
	"strings"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"
)

// MaxError is the length in bytes to which Clean cuts.
const MaxError = 2000

// Clean makes an error text fit for a Postgres text column, a workflow
// history and a terminal: Visible without NUL, at most MaxError bytes.
func Clean(s string) string {
	return cut(Visible(strings.ReplaceAll(s, "\x00", "\uFFFD")), MaxError)
}

// Visible writes the characters that a terminal obeys or hides in the form \u001b,
// and bytes that are no UTF-8 as U+FFFD. Those characters are the control characters
// but line feed and tab; what turns the direction of a text, has no width or ends a
// line; and what Unicode has not assigned. The form is JSON's, so JSON stays JSON. The
// rest, spaces of every width among it, stays as it is.
func Visible(s string) string {
	if strings.IndexFunc(s, hidden) < 0 && utf8.ValidString(s) {
		return s
	}
	var b strings.Builder
	for _, r := range s { // U+FFFD for each byte that is no UTF-8
		switch high, low := utf16.EncodeRune(r); {
		case !hidden(r):
			b.WriteRune(r)
		case high != unicode.ReplacementChar:
			escape(&b, high)
			escape(&b, low)
		default:
			escape(&b, r)
		}
	}
	return b.String()
}

// escape writes a UTF-16 code unit as JSON does. Workflow code runs it, so it does
// without package fmt, which workflowcheck can't follow.
func escape(b *strings.Builder, unit rune) {
	digits := strconv.FormatInt(int64(unit), 16)
	b.WriteString(`\u` + strings.Repeat("0", 4-len(digits)) + digits)
}

// ignorable are letters and marks that have no form of their own.
var ignorable = []*unicode.RangeTable{unicode.Other_Default_Ignorable_Code_Point, unicode.Variation_Selector}

// emojiForm follows many an emoji, and does nothing else.
const emojiForm = '\uFE0F'

// hidden reports whether a terminal would not show r as a character of its own.
func hidden(r rune) bool {
	switch {
	case r == '\n' || r == '\t' || r == emojiForm || r >= ' ' && r <= '~':
		return false
	case unicode.Is(unicode.Zs, r):
		return false
	}
	return !unicode.IsPrint(r) || unicode.In(r, ignorable...)
}

// Abbreviate shortens what an error quotes of its input.
func Abbreviate(s string) string { return cut(strings.ToValidUTF8(s, "\uFFFD"), 120) }

// Limit makes s valid UTF-8 of at most limit characters, and "…" where it was longer.
func Limit(s string, limit int) string {
	s = strings.ToValidUTF8(s, "\uFFFD")
	if runes := []rune(s); len(runes) > limit {
		return string(runes[:limit]) + "…"
	}
	return s
}

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

package text

import (
	"regexp"
	"strings"
	"time"
	"unicode/utf8"
)

// Storable reports whether Postgres can keep s in a text column.
func Storable(s string) bool { return utf8.ValidString(s) && !strings.Contains(s, "\x00") }

// Stamp writes a time in UTC, to the second.
func Stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05Z") }

var plainWord = regexp.MustCompile(`^[A-Za-z0-9._:/@%+=-]+$`)

// ShellWord makes s one word of a POSIX shell.
func ShellWord(s string) string {
	if plainWord.MatchString(s) {
		return s
	}
	return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'"
}

package database

import (
	"fmt"
	"unicode/utf8"
)

// asciiArguments escapes, in args that are text, every character that is not ASCII. A
// database whose encoding is not UTF8 may lack it. The text of a broker's error must not
// keep a row from being written.
func asciiArguments(args []any) []any {
	plain := make([]any, 0, len(args))
	for _, arg := range args {
		switch a := arg.(type) {
		case string:
			arg = asciiText(a)
		case []string:
			texts := make([]string, 0, len(a))
			for _, text := range a {
				texts = append(texts, asciiText(text))
			}
			arg = texts
		case *string:
			arg = asciiPointer(a)
		case []*string:
			texts := make([]*string, 0, len(a))
			for _, text := range a {
				texts = append(texts, asciiPointer(text))
			}
			arg = texts
		}
		plain = append(plain, arg)
	}
	return plain
}

func asciiPointer(text *string) *string {
	if text == nil {
		return nil
	}
	plain := asciiText(*text)
	return &plain
}

// asciiText escapes a character of at most 16 bits as JSON does, any other as Go does.
func asciiText(text string) string {
	plain := make([]byte, 0, len(text))
	for _, r := range text {
		switch {
		case r < utf8.RuneSelf:
			plain = append(plain, byte(r))
		case r <= 0xffff:
			plain = fmt.Appendf(plain, `\u%04x`, r)
		default:
			plain = fmt.Appendf(plain, `\U%08x`, r)
		}
	}
	return string(plain)
}

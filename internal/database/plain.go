package database

import (
	"fmt"
	"unicode/utf8"
)

// plainArguments are args with no character in a text that a database of another
// encoding than UTF8 may not have: the words of a broker's error must not keep a
// message from its end.
func plainArguments(args []any) []any {
	plain := make([]any, 0, len(args))
	for _, arg := range args {
		switch a := arg.(type) {
		case string:
			arg = plainText(a)
		case []string:
			texts := make([]string, 0, len(a))
			for _, text := range a {
				texts = append(texts, plainText(text))
			}
			arg = texts
		case *string:
			arg = plainPointer(a)
		case []*string:
			texts := make([]*string, 0, len(a))
			for _, text := range a {
				texts = append(texts, plainPointer(text))
			}
			arg = texts
		}
		plain = append(plain, arg)
	}
	return plain
}

func plainPointer(text *string) *string {
	if text == nil {
		return nil
	}
	plain := plainText(*text)
	return &plain
}

// plainText writes what is not ASCII as JSON does, beyond 16 bits as Go does.
func plainText(text string) string {
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

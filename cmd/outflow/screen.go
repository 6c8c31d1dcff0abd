package main

import (
	"io"
	"unicode/utf8"

	"github.com/outflowhq/outflow"
)

// screen is where everything goes that a command says: what producers, receivers and
// other operators wrote comes out visible, and moves no cursor. JSON stays JSON. A
// command writes it from one goroutine.
type screen struct {
	out io.Writer
	// rest is the begun character at the end of the last write.
	rest []byte
}

// Write writes the visible form of p. It says that all of p is written, or nothing.
func (s *screen) Write(p []byte) (int, error) {
	text := append(s.rest, p...)
	whole := len(text)
	for i := 1; i < utf8.UTFMax && i <= len(text); i++ {
		if last := text[len(text)-i:]; utf8.RuneStart(last[0]) {
			if !utf8.FullRune(last) {
				whole -= i
			}
			break
		}
	}
	if _, err := io.WriteString(s.out, outflow.VisibleText(string(text[:whole]))); err != nil {
		return 0, err
	}
	s.rest = append([]byte(nil), text[whole:]...)
	return len(p), nil
}

// raw is what w writes to, for bytes that must arrive as they are.
func raw(w io.Writer) io.Writer {
	if s, ok := w.(*screen); ok {
		return s.out
	}
	return w
}

package main

import (
	"io"
	"unicode/utf8"

	"github.com/outflowhq/outflow/internal/text"
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
	visible := append(s.rest, p...)
	whole := len(visible)
	for i := 1; i < utf8.UTFMax && i <= len(visible); i++ {
		if last := visible[len(visible)-i:]; utf8.RuneStart(last[0]) {
			if !utf8.FullRune(last) {
				whole -= i
			}
			break
		}
	}
	if _, err := io.WriteString(s.out, text.Visible(string(visible[:whole]))); err != nil {
		return 0, err
	}
	s.rest = append([]byte(nil), visible[whole:]...)
	return len(p), nil
}

// raw is what w writes to, for bytes that must arrive as they are.
func raw(w io.Writer) io.Writer {
	if s, ok := w.(*screen); ok {
		return s.out
	}
	return w
}

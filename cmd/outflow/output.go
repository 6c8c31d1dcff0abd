package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"unicode/utf8"

	"github.com/outflowhq/outflow/internal/program"
	"github.com/outflowhq/outflow/internal/text"
)

// The exit codes beside 0, 1 and 2.
const (
	exitRefused   = 3 // a message is not, or does not become, what was asked for
	exitUndecided = 4 // the time to wait was over before that was known
)

// isTerminal reports whether f is a terminal: a character device, but not the null device, which
// scripts give to a command that must not ask.
func isTerminal(f *os.File) bool {
	info, err := f.Stat()
	if err != nil || info.Mode()&os.ModeCharDevice == 0 {
		return false
	}
	null, err := os.Stat(os.DevNull)
	return err != nil || !os.SameFile(info, null)
}

// maxAnswer bounds the line that answers a question.
const maxAnswer = 1000

// confirm asks the person at the terminal. Elsewhere only -yes will do.
func (cl commandLine) confirm(command, question string) error {
	if !cl.terminal {
		return usageError("%s: wants -yes: %s", command, question)
	}
	fmt.Fprintf(cl.stderr, "%s [y/N] ", question)
	line, err := bufio.NewReader(io.LimitReader(cl.stdin, maxAnswer)).ReadString('\n')
	if err != nil && !errors.Is(err, io.EOF) {
		return fmt.Errorf("reading the answer: %w", err)
	}
	switch strings.ToLower(strings.TrimSpace(line)) {
	case "y", "yes":
		return nil
	}
	return program.ExitError{Code: exitRefused, Err: errors.New("nothing was done")}
}

// writeLine writes v as one line of JSON.
func writeLine(out io.Writer, v any) error { return json.NewEncoder(out).Encode(v) }

// writeLines writes each of all as one line of JSON.
func writeLines[T any](out io.Writer, all []T) error {
	for _, v := range all {
		if err := writeLine(out, v); err != nil {
			return err
		}
	}
	return nil
}

// writeDocument writes v as JSON for people and programs.
func writeDocument(out io.Writer, v any) error {
	encoder := json.NewEncoder(out)
	encoder.SetEscapeHTML(false)
	encoder.SetIndent("", "  ")
	return encoder.Encode(v)
}

// short makes s one line of at most n visible characters.
func short(s string, n int) string {
	s = text.Visible(strings.Join(strings.Fields(s), " "))
	if runes := []rune(s); len(runes) > n {
		return string(runes[:n-1]) + "…"
	}
	return s
}

func orEmpty[T ~string](p *T) string {
	if p == nil {
		return ""
	}
	return string(*p)
}

// screen is what a command writes to. It makes visible what producers, receivers and other
// operators wrote, so that none of it moves the cursor. JSON stays JSON. A command writes to it
// from one goroutine.
type screen struct {
	out io.Writer
	// rest is the incomplete character at the end of the last write.
	rest []byte
}

// Write writes the visible form of p. It reports that all of p is written, or nothing.
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

// raw returns what w writes to, for bytes that must arrive as they are.
func raw(w io.Writer) io.Writer {
	if s, ok := w.(*screen); ok {
		return s.out
	}
	return w
}

package main

import (
	"bytes"
	"context"
	"io"
	"strings"
	"sync"
)

// lines splits a process's output into lines. Only one goroutine may write to it.
type lines struct {
	to   io.Writer
	each func(to io.Writer, line string)
	rest []byte
}

func (l *lines) Write(p []byte) (int, error) {
	l.rest = append(l.rest, p...)
	for {
		line, rest, found := bytes.Cut(l.rest, []byte("\n"))
		if !found {
			return len(p), nil
		}
		l.each(l.to, string(line))
		l.rest = rest
	}
}

// flush passes on a last line without a newline. Call it after the last Write.
func (l *lines) flush() {
	if len(l.rest) > 0 {
		l.each(l.to, string(l.rest))
		l.rest = nil
	}
}

// mark waits for a line that shows that a process is ready.
type mark struct {
	text string
	once sync.Once
	seen chan struct{}
	tail string
}

func newMark(text string) *mark { return &mark{text: text, seen: make(chan struct{})} }

func (m *mark) see(line string) {
	if _, tail, found := strings.Cut(line, m.text); found {
		m.once.Do(func() {
			m.tail = tail
			close(m.seen)
		})
	}
}

func (m *mark) wait(ctx context.Context) error {
	select {
	case <-m.seen:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// rest returns what follows the text in its line. Call it after wait.
func (m *mark) rest() string { return m.tail }

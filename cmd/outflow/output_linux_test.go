package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"
	"unsafe"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow/internal/teststack"
)

// terminal opens a pseudo terminal: what is written to shown can be read from seen.
func terminal(t *testing.T) (shown, seen *os.File) {
	t.Helper()
	seen, err := os.OpenFile("/dev/ptmx", os.O_RDWR|syscall.O_NOCTTY, 0)
	require.NoError(t, err)
	t.Cleanup(func() { _ = seen.Close() })
	var unlock, number int32
	for request, value := range map[uintptr]*int32{syscall.TIOCSPTLCK: &unlock, syscall.TIOCGPTN: &number} {
		_, _, failed := syscall.Syscall(syscall.SYS_IOCTL, seen.Fd(), request, uintptr(unsafe.Pointer(value)))
		require.Zero(t, failed)
	}
	shown, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	require.NoError(t, err)
	t.Cleanup(func() { _ = shown.Close() })
	return shown, seen
}

// The command itself knows a terminal from a pipe.
func TestPayloadOnATerminalAndInAPipe(t *testing.T) {
	pool := teststack.New(t)
	getenv := func(name string) string {
		return map[string]string{"DATABASE_URL": pool.Config().ConnString(), "TEMPORAL_ADDRESS": "127.0.0.1:1"}[name]
	}
	var id bytes.Buffer
	require.NoError(t, run(context.Background(), []string{"send", "-destination", "sqs://orders", "-type", "a",
		"-payload", "\x1b[2J\u202e|the end|"}, getenv, &id, io.Discard))
	words := []string{"show", strings.TrimSpace(id.String()), "-payload"}

	shown, seen := terminal(t)
	require.True(t, isTerminal(shown))
	done := make(chan error, 1)
	go func() { done <- run(context.Background(), words, getenv, shown, io.Discard) }()
	lines := bufio.NewReader(seen)
	for line := ""; !strings.Contains(line, "|the end|"); {
		var err error
		line, err = lines.ReadString('\n')
		require.NoError(t, err)
		shows(t, strings.ReplaceAll(line, "\r\n", "\n"), "a line on the terminal")
	}
	require.NoError(t, <-done)

	reader, writer, err := os.Pipe()
	require.NoError(t, err)
	require.False(t, isTerminal(writer))
	go func() { done <- run(context.Background(), words, getenv, writer, io.Discard); _ = writer.Close() }()
	piped, err := io.ReadAll(reader)
	require.NoError(t, err)
	require.NoError(t, <-done)
	assert.True(t, strings.HasSuffix(string(piped), "\n\n\x1b[2J\u202e|the end|\n"), "%q", piped)
}

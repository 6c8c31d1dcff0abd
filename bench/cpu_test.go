package main

import (
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestParseStat(t *testing.T) {
	const rest = " S 41 42 42 0 -1 4194560 100 0 5 0 250 50 30 7 20 0 9 0 1000 0 0"
	want := process{pid: 4242, parent: 41, own: 3 * time.Second, reaped: 370 * time.Millisecond}
	for name, line := range map[string]string{
		"plain":               "4242 (postgres)" + rest,
		"spaces and brackets": "4242 (postgres: a (b) c)" + rest,
	} {
		t.Run(name, func(t *testing.T) {
			got, err := parseStat(line)
			require.NoError(t, err)
			require.Equal(t, want, got)
		})
	}
	for _, bad := range []string{"", "4242 postgres S 1", "4242 (postgres) S 41 42"} {
		_, err := parseStat(bad)
		require.Error(t, err, bad)
	}
}

func TestUsageSumsByPart(t *testing.T) {
	second := time.Second
	all := map[int]process{
		1:  {pid: 1},
		10: {pid: 10, parent: 1, own: 1 * second, reaped: 900 * second},  // bench
		20: {pid: 20, parent: 10, own: 2 * second, reaped: 900 * second}, // the stack: initdb is not Postgres's work
		21: {pid: 21, parent: 20, own: 4 * second, reaped: 8 * second},   // the postmaster and its backends that ended
		22: {pid: 22, parent: 21, own: 16 * second},
		30: {pid: 30, parent: 10, own: 32 * second},
		40: {pid: 40, parent: 10, own: 64 * second},
		41: {pid: 41, parent: 10, own: 128 * second},
		99: {pid: 99, parent: 1, own: 900 * second},
	}
	got := usage(all, 20, 30, []int{40, 41})
	require.Equal(t, cpu{postgres: 28 * second, temporal: 2 * second, queue: 32 * second, dispatcher: 192 * second},
		got)
	require.Equal(t, 254*second, got.sum())
	require.Equal(t, cpu{postgres: 27 * second, temporal: second, queue: 31 * second, dispatcher: 191 * second},
		got.minus(cpu{second, second, second, second, 0, 0}))
}

func TestOthersShareOfTheMachine(t *testing.T) {
	busy, all, err := parseMachine("cpu  100 0 50 200 50 10 20 70 0 0\ncpu0 1 2 3\n")
	require.NoError(t, err)
	require.Equal(t, 2500*time.Millisecond, busy)
	require.Equal(t, 5*time.Second, all)
	require.InDelta(t, 0.3, cpu{temporal: time.Second, busy: busy, all: all}.others(), 1e-9)
	require.Zero(t, cpu{temporal: 9 * time.Second, busy: busy, all: all}.others())
	require.Zero(t, cpu{}.others())
	for _, bad := range []string{"", "intr 1 2 3 4 5 6 7 8", "cpu 1 2 3", "cpu a b c d e f g h"} {
		_, _, err := parseMachine(bad)
		require.Error(t, err, bad)
	}
}

func TestProcessesFindsItself(t *testing.T) {
	if runtime.GOOS != "linux" {
		t.Skip("CPU times are read from /proc, which Linux has")
	}
	all, err := processes()
	require.NoError(t, err)
	require.Equal(t, os.Getppid(), all[os.Getpid()].parent)
}

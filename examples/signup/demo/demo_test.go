package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestLinesAreSplit(t *testing.T) {
	var got []string
	l := &lines{each: func(_ io.Writer, line string) { got = append(got, line) }}
	for _, part := range []string{"on", "e\ntwo\n", "\nthree"} {
		_, err := l.Write([]byte(part))
		require.NoError(t, err)
	}
	assert.Equal(t, []string{"one", "two", ""}, got)
	l.flush()
	assert.Equal(t, "three", got[3])
}

func TestEachPersonHasAnotherAddress(t *testing.T) {
	seen := map[string]bool{}
	for n := range 100 {
		p := personAt(n)
		assert.False(t, seen[p.Email], p.Email)
		seen[p.Email] = true
	}
	assert.True(t, seen["ada@example.com"])
}

func TestEarlyEndFailsWithTheLastLines(t *testing.T) {
	ctx, fail := context.WithCancelCause(t.Context())
	f := newFamily(io.Discard, io.Discard, fail)
	require.NoError(t, f.start("child", func(string) {}, "/bin/sh", "-c", "echo one; echo two >&2; exit 3"))
	<-ctx.Done()
	var early earlyEnd
	require.ErrorAs(t, context.Cause(ctx), &early)
	assert.ErrorContains(t, early, "child ended early (exit status 3)")
	assert.ErrorContains(t, early, "one")
	assert.ErrorContains(t, early, "two")
	assert.NoError(t, f.stop())
}

// currentProcess returns the member's process.
func currentProcess(t *testing.T, f *family, name string) *child {
	t.Helper()
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, m := range f.members {
		if m.name == name {
			return m.process
		}
	}
	require.FailNow(t, "no such member", name)
	return nil
}

// TestEndedProcessIsStartedAgain: after allReady, however it ended, with the arguments that
// allReady set.
func TestEndedProcessIsStartedAgain(t *testing.T) {
	ctx, fail := context.WithCancelCause(t.Context())
	var out bytes.Buffer
	f, first, second := newFamily(&out, io.Discard, fail), newMark("begins 1"), newMark("begins 2")
	restarted := make(chan struct{}, 1)
	f.restarted = func() { restarted <- struct{}{} }
	const script = "echo begins $0; sleep 60 & wait"
	require.NoError(t, f.start("child", func(line string) { first.see(line); second.see(line) },
		"/bin/sh", "-c", script, "1"))
	waiting, cancel := context.WithTimeout(ctx, 20*time.Second)
	defer cancel()
	require.NoError(t, first.wait(waiting))
	f.allReady(map[string][]string{"child": {"-c", script, "2"}})
	before := currentProcess(t, f, "child")
	before.signal(syscall.SIGKILL)
	require.NoError(t, second.wait(waiting))
	<-restarted
	require.NoError(t, ctx.Err(), "it is no failure")
	after := f.String()
	require.NoError(t, f.stop())
	assert.NotContains(t, after, fmt.Sprint(before.pid()))
	assert.Contains(t, out.String(), fmt.Sprintf("child    | pid %d ended (signal: killed); starting it again\n",
		before.pid()))
	assert.Contains(t, out.String(), "child    | runs again (pid ")
}

// While the family stops, no member is started, and none is reported as running again.
func TestNothingIsStartedDuringAStop(t *testing.T) {
	ctx, fail := context.WithCancelCause(t.Context())
	var out bytes.Buffer
	f := newFamily(&out, io.Discard, fail)
	f.restarted = func() { t.Error("it was counted again") }
	close(f.stopping)
	m := &member{name: "child", path: "/bin/true", process: newChild("child", "/bin/true", nil, nil)}
	require.NoError(t, m.process.start())
	<-m.process.done
	for range 100 { // the end of the pause and that of the family are seen in any order
		require.False(t, f.restart(m, 0))
	}
	require.NoError(t, f.start("late", func(string) {}, "/bin/true"))
	assert.Empty(t, f.members)
	assert.Empty(t, out.String())
	require.NoError(t, ctx.Err())
}

func TestStopEndsWhatRuns(t *testing.T) {
	ctx, fail := context.WithCancelCause(t.Context())
	var out bytes.Buffer
	f, ready := newFamily(&out, io.Discard, fail), newMark("ready ")
	require.NoError(t, f.start("child", ready.see, "/bin/sh", "-c", "echo ready at once; sleep 60 & wait"))
	waiting, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	require.NoError(t, ready.wait(waiting))
	assert.Equal(t, "at once", ready.rest())
	assert.NoError(t, f.stop())
	assert.NoError(t, ctx.Err(), "the end after stop is no failure")
	assert.Equal(t, "child    | ready at once\n", out.String())
}

func TestRunRefusesMistakes(t *testing.T) {
	noSettings := func(string) string { return "" }
	for _, args := range [][]string{{"now"}, {"-once", "-people", "9"}, {"-time-limit", "0s"}, {"-fast"},
		{"-once", "-own", "env"}} {
		var mistake usageError
		assert.ErrorAs(t, run(t.Context(), args, noSettings, io.Discard, io.Discard), &mistake, args)
	}
	assert.ErrorContains(t, run(t.Context(), nil, noSettings, io.Discard, io.Discard), "DATABASE_URL, TEMPORAL_ADDRESS")
}

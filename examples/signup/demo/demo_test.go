package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
)

func TestLinesAreWhole(t *testing.T) {
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

func TestArrivalsAreCountedByMessageID(t *testing.T) {
	a, id := newArrivals(), uuid.Must(uuid.NewV7())
	a.see(fmt.Sprintf("welcome e-mail to Ada <ada@example.com>  %s  after   41 ms", id))
	a.see("no message at all")
	assert.Equal(t, 1, a.of(id))
	assert.Zero(t, a.of(uuid.Must(uuid.NewV7())))
}

func TestEverybodyHasAnAddressOfTheirOwn(t *testing.T) {
	seen := map[string]bool{}
	for n := range 100 {
		p := somebody(n)
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
	assert.NoError(t, ctx.Err(), "an end that was asked for is no failure")
	assert.Equal(t, "child    | ready at once\n", out.String())
}

func TestRunRefusesMistakes(t *testing.T) {
	noSettings := func(string) string { return "" }
	for _, args := range [][]string{{"now"}, {"-once", "-people", "9"}, {"-time-limit", "0s"}, {"-fast"}} {
		var mistake usageError
		assert.ErrorAs(t, run(t.Context(), args, noSettings, io.Discard, io.Discard), &mistake, args)
	}
	assert.ErrorContains(t, run(t.Context(), nil, noSettings, io.Discard, io.Discard), "DATABASE_URL, TEMPORAL_ADDRESS")
}

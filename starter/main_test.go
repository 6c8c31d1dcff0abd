package main

import (
	"bytes"
	"flag"
	"io"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow/internal/program"
)

func TestCommandLine(t *testing.T) {
	call := func(args ...string) (string, error) {
		var stdout bytes.Buffer
		err := run(t.Context(), args, func(string) string { return "" }, &stdout, io.Discard)
		return stdout.String(), err
	}
	help, err := call("-help")
	require.ErrorIs(t, err, flag.ErrHelp)
	for _, want := range []string{"-once", "-time-limit", "OUTFLOW_IN_FLIGHT"} {
		assert.Contains(t, help, want)
	}
	var usage program.UsageError
	_, err = call("-once", "-time-limit", "0s")
	require.ErrorAs(t, err, &usage)
	assert.ErrorContains(t, err, "-time-limit: wants more than 0")
	_, err = call("once")
	require.ErrorAs(t, err, &usage)

	t.Setenv("PGHOST", "")
	_, err = call("-once")
	require.ErrorContains(t, err, "DATABASE_URL")
	assert.NotErrorAs(t, err, &usage)
}

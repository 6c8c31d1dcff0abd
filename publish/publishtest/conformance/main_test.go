package main

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow/publish/publishtest"
)

// lines are the events of one publisher whose cases all end alike, but for some.
func lines(t *testing.T, pkg, variant string, otherwise map[string]event) string {
	t.Helper()
	var b strings.Builder
	write := func(e event) {
		line, err := json.Marshal(e)
		require.NoError(t, err)
		b.WriteString(string(line) + "\n")
	}
	for _, name := range slices.Sorted(maps.Keys(publishtest.Cases)) {
		e, ok := otherwise[name]
		if !ok {
			e = event{Action: "pass"}
		}
		e.Package, e.Test = pkg, "TestConformance"+variant+"/"+strings.ReplaceAll(name, " ", "_")
		if e.Output != "" {
			write(event{Action: "output", Package: e.Package, Test: e.Test, Output: e.Output})
			e.Output = ""
		}
		write(e)
	}
	return b.String()
}

func TestTable(t *testing.T) {
	skipped := map[string]event{
		publishtest.CaseClose: {Action: "skip", Output: "    publishtest.go:12: it holds nothing: no closing\n"},
	}
	var b strings.Builder
	require.NoError(t, run(strings.NewReader(
		lines(t, "example.com/publish/letters", "", skipped)+lines(t, "example.com/publish/queues", "/fifo", nil)), &b))
	assert.Contains(t, b.String(), "| case | letters | queues fifo |\n")
	assert.Contains(t, b.String(), "| "+publishtest.CaseClose+" | skipped (1) | passed |\n")
	assert.Contains(t, b.String(), "\n1. it holds nothing: no closing\n")
}

func TestWhatFailedIsSaid(t *testing.T) {
	for name, c := range map[string]struct{ given, want string }{
		"failed": {lines(t, "p", "", map[string]event{publishtest.CaseSlow: {Action: "fail"}}), "1 cases failed"},
		"did not run": {
			lines(t, "p", "", map[string]event{publishtest.CaseSlow: {Action: "run"}}), "1 cases failed or did not run",
		},
		"not built": {
			`{"Action":"fail","Package":"example.com/publish/queues"}` + "\n" + lines(t, "p", "", nil),
			"go test failed in example.com/publish/queues",
		},
		"nothing ran": {"", "no test of a conformance suite ran"},
		"no JSON":     {"FAIL\n", `reading the line "FAIL"`},
	} {
		t.Run(name, func(t *testing.T) {
			var b strings.Builder
			assert.ErrorContains(t, run(strings.NewReader(c.given), &b), c.want)
		})
	}
}

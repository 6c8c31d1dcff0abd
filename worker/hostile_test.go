package main

import (
	"bytes"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow/internal/program"
)

// TestHostileCommandLines: each mistake is printed whole, and before the settings
// are read, which are missing here.
func TestHostileCommandLines(t *testing.T) {
	for line, says := range map[string]string{
		"now":              `unexpected argument "now"`,
		"-":                `unexpected argument "-"`,
		"-once":            "flag provided but not defined: -once",
		"-time-limit 1m":   "flag provided but not defined: -time-limit",
		"--=":              "bad flag syntax: --=",
		"-version=perhaps": `invalid boolean value "perhaps" for -version: parse error`,
		"-- -help":         `unexpected argument "-help"`,
	} {
		t.Run(line, func(t *testing.T) {
			var stdout bytes.Buffer
			err := run(t.Context(), strings.Fields(line), func(string) string { return "" }, &stdout, io.Discard)
			require.EqualError(t, err, says)
			var usage program.UsageError
			require.ErrorAs(t, err, &usage)
			assert.Empty(t, stdout.String())
		})
	}
}

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
		"now":                           `unexpected argument "now"`,
		"-":                             `unexpected argument "-"`,
		"-- -once":                      `unexpected argument "-once"`,
		"-twice":                        "flag provided but not defined: -twice",
		"-ｏnce":                         "flag provided but not defined: -ｏnce",
		"---once":                       "bad flag syntax: ---once",
		"-=":                            "bad flag syntax: -=",
		"-once=maybe":                   `invalid boolean value "maybe" for -once: parse error`,
		"-once now":                     `unexpected argument "now"`,
		"-version=2":                    `invalid boolean value "2" for -version: parse error`,
		"-time-limit":                   "flag needs an argument: -time-limit",
		"-time-limit soon":              `invalid value "soon" for flag -time-limit: parse error`,
		"-time-limit 60":                `invalid value "60" for flag -time-limit: parse error`,
		"-time-limit 2562048h":          `invalid value "2562048h" for flag -time-limit: parse error`,
		"-once -time-limit 0s":          "-time-limit: wants more than 0, such as 1m (got 0s)",
		"-time-limit -1ns -once":        "-time-limit: wants more than 0, such as 1m (got -1ns)",
		"-time-limit 1m":                "-time-limit: is for a single pass: give -once beside it",
		"-once -time-limit=1m trailing": `unexpected argument "trailing"`,
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

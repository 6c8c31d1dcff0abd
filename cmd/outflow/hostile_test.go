package main

import (
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow/internal/program"
)

// TestHostileCommandLines: each mistake is said whole, exits 2, and touches
// neither the database nor Temporal, which can't be reached here.
func TestHostileCommandLines(t *testing.T) {
	const down = "migrate down wants -yes: it can drop messages that are not delivered"
	for line, says := range map[string]string{
		"":                            "wants a command",
		"deliver":                     `unknown command "deliver"`,
		"MIGRATE up":                  `unknown command "MIGRATE"`,
		"-v":                          `unknown command "-v"`,
		"--":                          `unknown command "--"`,
		"migrate":                     "migrate wants up, status or down",
		"migrate sideways":            "migrate wants up, status or down",
		"migrate -up":                 "migrate wants up, status or down",
		"migrate úp":                  "migrate wants up, status or down",
		"migrate up now":              `migrate up: unexpected argument "now"`,
		"migrate up -yes":             `migrate up: unexpected argument "-yes"`,
		"migrate status -v":           `migrate status: unexpected argument "-v"`,
		"migrate down":                down,
		"migrate down yes":            down,
		"migrate down -y":             down,
		"migrate down -yes=false":     down,
		"migrate down -yes all":       `migrate down: unexpected argument "all"`,
		"setup now":                   `setup: unexpected argument "now"`,
		"setup -force":                "setup: flag provided but not defined: -force",
		"setup -":                     `setup: unexpected argument "-"`,
		"setup ---print":              "setup: bad flag syntax: ---print",
		"setup -=1":                   "setup: bad flag syntax: -=1",
		"setup -print=perhaps":        `setup: invalid boolean value "perhaps" for -print: parse error`,
		"setup -wait":                 "setup: flag needs an argument: -wait",
		"setup -wait soon":            `setup: invalid value "soon" for flag -wait: parse error`,
		"setup -wait 60":              `setup: invalid value "60" for flag -wait: parse error`,
		"setup -wait 999ms":           "setup: -wait wants at least 1s (got 999ms)",
		"setup -wait 0":               "setup: -wait wants at least 1s (got 0s)",
		"setup -wait -1m":             "setup: -wait wants at least 1s (got -1m0s)",
		"setup -wait 2562048h":        `setup: invalid value "2562048h" for flag -wait: parse error`,
		"setup -wait １m":              `setup: invalid value "１m" for flag -wait: parse error`,
		"grants":                      "grants: wants -producer, -dispatcher or -operator with a role",
		"grants -apply":               "grants: wants -producer, -dispatcher or -operator with a role",
		"grants -producer":            "grants: flag needs an argument: -producer",
		"grants -producer=":           `grants: invalid value "" for flag -producer: wants a role's name`,
		"grants -dispatcher= -apply":  `grants: invalid value "" for flag -dispatcher: wants a role's name`,
		"grants -operator=":           `grants: invalid value "" for flag -operator: wants a role's name`,
		"grants -consumer shop":       "grants: flag provided but not defined: -consumer",
		"grants shop":                 `grants: unexpected argument "shop"`,
		"grants -producer a b":        `grants: unexpected argument "b"`,
		"grants -apply=2 -producer a": `grants: invalid boolean value "2" for -apply: parse error`,
	} {
		t.Run(line, func(t *testing.T) {
			out, err := call(nowhere, strings.Fields(line)...)
			require.EqualError(t, err, says)
			var usage program.UsageError
			require.ErrorAs(t, err, &usage)
			assert.Empty(t, out)
		})
	}
}

// A role's name goes to Postgres as data, which says what it has not.
func TestHostileRoles(t *testing.T) {
	for role, says := range map[string]string{
		"a\x00b": `checking the roles: wants names of Postgres roles (got "a\x00b")`,
		"\xff":   `checking the roles: wants names of Postgres roles (got "\xff")`,
	} {
		_, err := call(nowhere, "grants", "-producer", role)
		require.EqualError(t, err, says)
	}
}

package main

import (
	"bytes"
	"io"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow/internal/config"
)

// TestSettingsPage: docs/settings.md says "outflow" of those daemons' settings that a
// command reads. Doctor reads all of these, and names one that is wrong.
func TestSettingsPage(t *testing.T) {
	page, err := os.ReadFile("../../docs/settings.md")
	require.NoError(t, err)
	for _, s := range config.Settings {
		t.Run(s.Name, func(t *testing.T) {
			t.Parallel()
			row := regexp.MustCompile("(?m)^\\| `" + s.Name + "` \\| .*$").FindString(string(page))
			require.NotEmpty(t, row)
			settings := map[string]string{
				"DATABASE_URL": nowhere, "TEMPORAL_ADDRESS": "no address", // nobody is waited for
				s.Name: "wrong\x00value",
			}
			var out bytes.Buffer
			err := commandLine{getenv: func(name string) string { return settings[name] }, stdout: &out,
				stderr: io.Discard}.run(t.Context(), []string{"doctor", "-json"})
			require.Error(t, err)
			assert.Equal(t, strings.HasSuffix(row, "outflow |"), strings.Contains(out.String(), s.Name+": "), "%s\n%s",
				row, out.String())
		})
	}
}

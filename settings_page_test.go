package outflow_test

import (
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow/internal/config"
	"github.com/outflowhq/outflow/scanner"
	"github.com/outflowhq/outflow/scanner/trigger"
)

// settingRow is a row of the table in docs/settings.md: name, default, read by.
var settingRow = regexp.MustCompile("(?m)^\\| `([A-Z_]+)` \\| `([^`]*)` \\| ([a-z, ]+) \\|$")

// TestSettingsPage holds the table to internal/config: names, their order, defaults, and
// whether a setting changes the starter alone. What "outflow" reads is held by its own
// tests in cmd/outflow.
func TestSettingsPage(t *testing.T) {
	page, err := os.ReadFile("docs/settings.md")
	require.NoError(t, err)
	rows := settingRow.FindAllStringSubmatch(string(page), -1)
	require.Greater(t, len(rows), len(config.Settings))
	for i, s := range config.Settings {
		assert.Equal(t, s.Name, rows[i][1])
		assert.Equal(t, s.Default, rows[i][2], s.Name)
		readBy := "starter, worker"
		if changesScanner(t, s.Name) {
			readBy = "starter"
		}
		assert.Equal(t, readBy, strings.TrimSuffix(rows[i][3], ", outflow"), s.Name)
		assert.Greater(t, strings.Count(string(page), "`"+s.Name+"`"), 1, "%s: a section says what it does", s.Name)
	}
	for _, row := range rows[len(config.Settings):] {
		assert.Equal(t, "outflow", row[3], "%s is a setting of the command alone", row[1])
	}
}

// changesScanner reports whether a setting changes options that only a scanner has, which
// no worker runs. The outbox and its task queue are the worker's, too.
func changesScanner(t *testing.T, name string) bool {
	t.Helper()
	type starters struct {
		scanner scanner.Options
		trigger trigger.Kind
		listen  string
	}
	load := func(value string) (starters, error) {
		c, err := config.Load(t.Context(), func(variable string) string {
			return map[string]string{"DATABASE_URL": "postgres://127.0.0.1/shop", name: value}[variable]
		})
		if err != nil {
			return starters{}, err
		}
		c.Scanner.Outbox, c.Scanner.TaskQueue = "", ""
		return starters{c.Scanner, c.Trigger, c.Listen.ConnString()}, nil
	}
	before, err := load("")
	require.NoError(t, err)
	for _, value := range []string{"2", "45s", "wal", "postgres://127.0.0.1/direct"} {
		if after, err := load(value); err == nil && !assert.ObjectsAreEqual(before, after) {
			return true
		}
	}
	return false
}

package config_test

import (
	"bytes"
	"log/slog"
	"os"
	"path/filepath"
	"regexp"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow/internal/config"
)

func TestUnknownVariablesAreNamed(t *testing.T) {
	for name, says := range map[string]string{
		"OUTFLOW_WEBHOOK_HOST": "OUTFLOW_WEBHOOK_HOST: no setting has this name; did you mean " +
			"OUTFLOW_WEBHOOK_HOSTS?",
		"OUTFLOW_INFLIGHT": "OUTFLOW_INFLIGHT: no setting has this name; did you mean OUTFLOW_IN_FLIGHT?",
		"OUTFLOW_KEEP_CANCELED": "OUTFLOW_KEEP_CANCELED: no setting has this name; did you mean " +
			"OUTFLOW_KEEP_CANCELLED?",
		"Outflow_Lease":                 "Outflow_Lease: no setting has this name; did you mean OUTFLOW_LEASE?",
		"OUTFLOW_DATABASE_URL":          "OUTFLOW_DATABASE_URL: no setting has this name",
		"OUTFLOW_":                      "OUTFLOW_: no setting has this name",
		"OUTFLOW_WHO":                   "",
		"OUTFLOW_TEMPORAL_UI":           "",
		"OUTFLOW_LEASE":                 "",
		"OUTFLOWER":                     "",
		"OUTFLOW_STARTER_PORT":          "",
		"OUTFLOW_SERVICE_HOST":          "",
		"OUTFLOW_A_SERVICE_PORT":        "",
		"OUTFLOW_A_SERVICE_PORT_PROBES": "",
		"OUTFLOW_A_PORT_8086_TCP_ADDR":  "",
		"OUTFLOW_STARTER_PORT_8086_TCP": "",
		"OUTFLOW_WEBHOOK_SECRETS": "OUTFLOW_WEBHOOK_SECRETS: no setting has this name; did you mean " +
			"OUTFLOW_WEBHOOK_SECRET?",
	} {
		t.Run(name, func(t *testing.T) {
			t.Setenv(name, "hidden")
			got := config.Unknown(func(asked string) string {
				if asked == name {
					return "hidden"
				}
				return ""
			})
			if says == "" {
				assert.Empty(t, got)
				return
			}
			assert.Equal(t, []string{says}, got)
		})
	}
}

// The daemons warn, and go on.
func TestUnknownVariablesAreWarnedOf(t *testing.T) {
	t.Setenv("OUTFLOW_LEESE", "1m")
	c, err := load(t, enough(map[string]string{"OUTFLOW_LEESE": "1m"}))
	require.NoError(t, err)
	var said bytes.Buffer
	c.WarnTo(slog.New(slog.NewTextHandler(&said, nil)))
	assert.Contains(t, said.String(), `level=WARN msg=settings warning="OUTFLOW_LEESE: no setting has this name; `+
		`did you mean OUTFLOW_LEASE?"`)
}

// Every variable that the programs' sources name is known.
func TestEveryVariableIsKnown(t *testing.T) {
	found := 0
	for _, folder := range []string{"../../cmd/outflow", "../../starter", "../../worker", "../service", "../program",
		"../brokers", "."} {
		files, err := filepath.Glob(filepath.Join(folder, "*.go"))
		require.NoError(t, err)
		for _, file := range files {
			if ok, _ := filepath.Match("*_test.go", filepath.Base(file)); ok {
				continue
			}
			text, err := os.ReadFile(file)
			require.NoError(t, err)
			for _, name := range regexp.MustCompile(`"(OUTFLOW_[A-Z_]+[A-Z])"`).FindAllStringSubmatch(string(text),
				-1) {
				found++
				t.Setenv(name[1], "x")
				for _, warning := range config.Unknown(os.Getenv) {
					assert.NotContains(t, warning, name[1]+":", file)
				}
			}
		}
	}
	assert.Greater(t, found, len(config.Settings)/2)
}

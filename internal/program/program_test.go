package program

import (
	"bytes"
	"errors"
	"flag"
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow/internal/config"
)

func TestExitCodes(t *testing.T) {
	usage := UsageError{Err: errors.New("unknown word")}
	for _, c := range []struct {
		name   string
		err    error
		code   int
		stderr string
	}{
		{"success", nil, 0, ""},
		{"help", flag.ErrHelp, 0, ""},
		{"a failure", errors.New("no database"), 1, "p: no database\n"},
		{"a mistake", usage, 2, "p: unknown word\nSee \"p -help\".\n"},
		{"a code of its own", fmt.Errorf("waiting: %w", ExitError{4, errors.New("not yet")}), 4,
			"p: waiting: not yet\n"},
		{"a mistake, with its help", UsageError{Err: errors.New("unknown word"), Help: "Words: one"}, 2,
			"p: unknown word\nWords: one\n"},
		{"words of a stranger", errors.New("certificate is valid for \x1b[2J\u202e.example"), 1,
			"p: certificate is valid for \\u001b[2J\\u202e.example\n"},
		{"a mistake, wrapped", fmt.Errorf("parsing: %w", usage), 2, "p: parsing: unknown word\nSee \"p -help\".\n"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var stderr bytes.Buffer
			assert.Equal(t, c.code, exitCode("p", c.err, &stderr))
			assert.Equal(t, c.stderr, stderr.String())
		})
	}
}

func TestParse(t *testing.T) {
	for _, c := range []struct {
		name string
		args []string
		help bool
		bad  string
	}{
		{"nothing", nil, false, ""},
		{"-help", []string{"-help"}, true, ""},
		{"-h", []string{"-h"}, true, ""},
		{"-version", []string{"-version"}, true, ""},
		{"an unknown flag", []string{"-nope"}, false, "nope"},
		{"a bad value", []string{"-version=perhaps"}, false, "perhaps"},
		{"an argument", []string{"now"}, false, `unexpected argument "now"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			var stdout bytes.Buffer
			err := Parse(Flags("p", "does it."), c.args, &stdout)
			var usage UsageError
			switch {
			case c.help:
				require.ErrorIs(t, err, flag.ErrHelp)
				assert.NotEmpty(t, stdout.String())
			case c.bad != "":
				require.ErrorAs(t, err, &usage)
				assert.Contains(t, err.Error(), c.bad)
				assert.Equal(t, c.name != "an argument", strings.Contains(usage.Help, "  -version\n"),
					"a mistake in the flags lists them")
				assert.Empty(t, stdout.String())
			default:
				require.NoError(t, err)
				assert.Empty(t, stdout.String())
			}
		})
	}
}

func TestHelpListsEverySetting(t *testing.T) {
	var stdout bytes.Buffer
	require.ErrorIs(t, Parse(Flags("p", "does it."), []string{"-help"}, &stdout), flag.ErrHelp)
	help := stdout.String()
	assert.True(t, strings.HasPrefix(help, "p does it.\n"))
	for _, name := range []string{"DATABASE_URL", "TEMPORAL_ADDRESS", "AWS_REGION", "-version"} {
		assert.Contains(t, help, name)
	}
	require.NotEmpty(t, config.Settings)
	for _, s := range config.Settings {
		assert.True(t, strings.HasPrefix(s.Name, "OUTFLOW_"), s.Name)
		assert.NotEmpty(t, s.Default, s.Name)
		var line string
		for l := range strings.Lines(help) {
			if strings.HasPrefix(strings.TrimSpace(l), s.Name+" ") {
				line = l
			}
		}
		assert.Contains(t, line, s.Default)
		assert.Contains(t, line, s.Meaning)
	}
}

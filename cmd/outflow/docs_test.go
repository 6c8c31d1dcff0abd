package main

import (
	"bytes"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow/internal/program"
	"github.com/outflowhq/outflow/internal/teststack"
)

const commandsPage = "../../docs/commands.md"

// The page has every command's help as it is printed, and the help every flag.
func TestTheDocsHaveEveryCommandAndFlag(t *testing.T) {
	page, err := os.ReadFile(commandsPage)
	require.NoError(t, err)
	for _, c := range preparing {
		t.Run(c.name, func(t *testing.T) {
			assert.Contains(t, string(page), "### "+c.name+"\n\n```\n"+c.usage+"```\n")
			assert.Contains(t, usage, "outflow "+c.name)
		})
	}
	for _, c := range commands {
		t.Run(c.name, func(t *testing.T) {
			assert.Contains(t, string(page), "### "+c.name+"\n\n```\n"+c.usage+"```\n")
			assert.Contains(t, usage, "outflow "+c.name)
			var out bytes.Buffer
			flags := 0
			cl := commandLine{getenv: func(string) string { return "" }, stdout: &out, stderr: io.Discard,
				observeFlags: func(set *flag.FlagSet) {
					set.VisitAll(func(f *flag.Flag) {
						flags++
						assert.Regexp(t, `(?m)^  (-who, )?-`+f.Name+`[ ,]`, c.usage, "its flag -%s", f.Name)
					})
				}}
			require.NoError(t, cl.run(t.Context(), []string{c.name, "-help"}))
			assert.Equal(t, c.usage, out.String())
			assert.Positive(t, flags)
			// And none that is not there.
			for _, named := range regexp.MustCompile(`(?m)^  -([a-z-]+)`).FindAllStringSubmatch(c.usage, -1) {
				assert.Contains(t, flagNames(t, c), named[1])
			}
		})
	}
}

func flagNames(t *testing.T, c command) (names []string) {
	t.Helper()
	cl := commandLine{getenv: func(string) string { return "" }, stdout: io.Discard, stderr: io.Discard,
		observeFlags: func(set *flag.FlagSet) {
			set.VisitAll(func(f *flag.Flag) { names = append(names, f.Name) })
		}}
	require.NoError(t, cl.run(t.Context(), []string{c.name, "-help"}))
	return names
}

// The page's session is what the commands print, but for the times.
func TestTheDocsSessionRunsAsWritten(t *testing.T) {
	page, err := os.ReadFile(commandsPage)
	require.NoError(t, err)
	_, rest, found := strings.Cut(string(page), "```console\n")
	require.True(t, found)
	session, _, found := strings.Cut(rest, "```\n")
	require.True(t, found)
	settings := map[string]string{"DATABASE_URL": teststack.New(t).Config().ConnString(),
		"TEMPORAL_ADDRESS": "127.0.0.1:1", "OUTFLOW_WHO": "ada"}

	var printed strings.Builder
	for line := range strings.Lines(session) {
		words, isCommand := strings.CutPrefix(line, "$ outflow ")
		if !isCommand {
			continue
		}
		printed.WriteString(line)
		err := commandLine{getenv: func(name string) string { return settings[name] }, stdin: strings.NewReader(""),
			stdout: &printed, stderr: io.Discard}.
			run(context.Background(), shellWords(t, words))
		if err != nil {
			var exit program.ExitError
			require.ErrorAs(t, err, &exit, "%s", line)
			fmt.Fprintf(&printed, "outflow: %v\nexit %d\n", err, exit.Code)
		}
	}
	times := regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ`)
	assert.Equal(t, times.ReplaceAllString(session, "TIME"), times.ReplaceAllString(printed.String(), "TIME"))
}

// shellWords splits a line as a shell does, with single quotes only.
func shellWords(t *testing.T, line string) (words []string) {
	t.Helper()
	for _, word := range regexp.MustCompile(`'[^']*'|[^' \n]+`).FindAllString(line, -1) {
		words = append(words, strings.Trim(word, "'"))
	}
	require.NotEmpty(t, words)
	return words
}

func TestMistakesOnTheCommandLine(t *testing.T) {
	const id = "0198f3a2-5b1c-7000-8000-000000000001"
	for _, c := range []struct {
		line  string
		wants string
	}{
		{"status now", `unexpected argument "now"`},
		{"status -bound 0", "-bound wants 1 or more"},
		{"list -state lost", "-state wants pending, delivered"},
		{"list -state dead -retrying", "pending ones"},
		{"list -since 2h", "want -state"},
		{"list -since soon -state dead", "wants how long ago"},
		{"list -callback lost", "-callback wants due, sent or failed"},
		{"list -limit 0", "-limit wants"},
		{"list -destination nonsense", "wants sqs://queue"},
		{"show", "wants one message ID"},
		{"show nonsense", "wants message IDs such as"},
		{"show " + id + " " + id + " x", "wants one message ID"},
		{"wait " + id + " -timeout -1s", "-timeout wants"},
		{"doctor now", "unexpected argument"},
		{"send -type a -payload x", "wants -destination"},
		{"send -destination sqs://q -payload x", "wants -type"},
		{"send -destination sqs://q -type a -payload x -payload-file y", "not both"},
		{"send -destination sqs://q -type a -payload-file /nowhere/at/all", "-payload-file"},
		{"send -destination sqs://q -type a -payload-file /dev/zero", "-payload-file: wants at most 16777216 bytes"},
		{"send -destination sqs://q -type a -payload x -header nonsense", "name=value"},
		{"send -destination sqs://q -type a -payload x -id 7", "wants a UUID"},
		{"send -destination sqs://q -type a -payload x -id=", "wants a UUID"},
		{"send -destination sqs://q -type a -payload x -id 00000000-0000-0000-0000-000000000000", "not all zeros"},
		{"send -destination sqs://q -type a -payload x -due-in -1s", "wants at least 0s"},
		{"retry", "wants message IDs, or -state, -retrying or -dismissed"},
		{"retry -destination sqs://q", "wants message IDs, or -state"},
		{"retry " + id + " -state dead", "not both"},
		{"retry -state delivered", `-state wants dead, expired or cancelled (got "delivered"): "outflow resend ID…" sends copies`},
		{"retry -state pending", "-state wants dead, expired or cancelled"},
		{"retry -state dead -limit 0", "-limit wants"},
		{"retry -state dead -rate -1", "-rate wants"},
		{"retry -state dead -type=", "-type: wants a message type"},
		{"cancel -state pending -type= -yes", "-type: wants a message type"},
		{"retry " + id + " -limit 1", "-limit is for a filter"},
		{"retry " + id + " -rate -5", "-rate wants"},
		{"send -destination sqs://q -type a -payload=", "-payload wants a payload"},
		{"send -destination sqs://q -type a -payload= -payload-file y", "not both"},
		{"send -destination sqs://q -type a -payload-file=", "-payload-file wants"},
		{"send -destination sqs://q -type a -payload x -who=", "-who: wants a name"},
		{"purge -state dead -older-than 1d -yes -who=", "-who: wants a name"},
		{"retry " + id + " -who=", "-who: wants a name"},
		{"dismiss " + id, "wants -why"},
		{"dismiss -why gone", "wants message IDs, or -state"},
		{"dismiss -state expired -why gone", "-state wants dead (got "},
		{"dismiss -dismissed -why gone", "-undo is for -dismissed"},
		{"dismiss -undo -state dead -why gone", "-undo is for -dismissed"},
		{"dismiss -undo -dismissed -state expired -why gone", "-dismissed messages are dead ones"},
		{"retry -dismissed -state expired", "-dismissed messages are dead ones"},
		{"list -dismissed -retrying", "-dismissed messages are dead ones"},
		{"list -dismissed -state delivered", "-dismissed messages are dead ones"},
		{"purge -state expired -dismissed -older-than 1d -yes", "-dismissed wants -state dead"},
		{"purge -state dead -dismissed -older-than 1d",
			"wants -yes: delete dead messages that were dismissed more than 24h0m0s ago?"},
		{"resend", "wants message IDs"},
		{"resend -state delivered", "not defined"},
		{"cancel -state dead", "-state wants pending (got "},
		{"cancel " + id + " -wait -1s", "-wait wants"},
		{"redirect " + id, "wants -to"},
		{"redirect " + id + " -to nonsense", "wants sqs://queue"},
		{"redirect -state delivered -to sqs://q", "-state wants "},
		{"reschedule " + id, "wants -in or -at"},
		{"reschedule " + id + " -in 1h -at 2026-01-31", "wants -in or -at"},
		{"reschedule " + id + " -at soon", "wants a time such as"},
		{"reschedule -in 1h", "wants message IDs"},
		{"callback", "wants retry, set, unset or rules"},
		{"callback " + id, "wants retry, set, unset or rules"},
		{"callback retry", "callback retry: wants message IDs"},
		{"callback retry nonsense", "wants message IDs such as"},
		{"callback retry " + id + " -who=", "-who: wants a name"},
		{"callback set sqs://r -who=", "-who: wants a name"},
		{"callback unset -who=", "-who: wants a name"},
		{"callback set -force sqs://r", "not defined: -force"},
		{"callback retry " + id + " -type a", "callback retry: has no flag -type"},
		{"route", "route wants set, unset or list"},
		{"route ste", "route wants set, unset or list: did you mean set?"},
		{"route set sqs://q", "route set: wants -type"},
		{"route set -type= sqs://q", "-type: wants a message type"},
		{"route set -type a", "route set: wants one destination, or none"},
		{"route set -type a sqs://q sqs://r", "route set: wants one destination, or none"},
		{"route set -type a -force sqs://q", "route set: has no flag -force"},
		{"route set -type a sqs://q -who=", "-who: wants a name"},
		{"route set -type a routes", "the destination wants none, or: wants sqs://queue"},
		{"route unset -type a nonsense", "the destination wants none, or: wants sqs://queue"},
		{"route unset sqs://q", "route unset: wants -type"},
		{"route list sqs://q", `route list: unexpected argument "sqs://q"`},
		{"route list -force", "route list: has no flag -force"},
		{"stream", "stream wants list, set, unset, start or stop"},
		{"stream lsit", "stream wants list, set, unset, start or stop: did you mean list?"},
		{"stream list sqs://q", `stream list: unexpected argument "sqs://q"`},
		{"stream list -above 5", "stream list: has no flag -above"},
		{"stream set -above 5", "stream set: wants one destination"},
		{"stream set -destination sqs://q", "stream set: wants -above"},
		{"stream set -destination sqs://q -above 0", "-above: wants off, or a whole number from 1 to 100000"},
		{"stream set -destination sqs://q -above 100001", "-above: wants off, or a whole number"},
		{"stream set -destination sqs://q -above 5 sqs://r", "stream set: wants one destination"},
		{"stream set -destination nonsense -above 5", "wants sqs://queue"},
		{"stream unset", "stream unset: wants one destination"},
		{"stream unset -destination sqs://q -above 5", "stream unset: has no flag -above"},
		{"stream start", "stream start: wants one destination"},
		{"stream start https://shop.example/in", "stream start: destination: https takes one message a call"},
		{"stream set https://shop.example/in -above 5", "stream set: destination: https takes one message a call"},
		{"stream start nonsense", "stream start: wants sqs://queue"},
		{"stream stop sqs://q sqs://r", "stream stop: wants one destination"},
		{"stream stop sqs://q -who=", "-who: wants a name"},
		{"list -group nonsense", "-group: wants the ID that an enqueue by route returned"},
		{"list -group 00000000-0000-0000-0000-000000000000", "-group: wants the ID"},
		{"retry -group " + id, "wants message IDs, or -state"},
		{"retry " + id + " -group " + id, "not both"},
		{"purge -state pending -older-than 1d -yes", "-state wants delivered"},
		{"purge -state dead -yes", "wants -older-than"},
		{"purge -state dead -older-than 1d -limit -1 -yes", "-limit wants"},
		{"purge -state dead -older-than 1d -rate -1 -yes", "-rate wants"},
		{"purge -state dead -older-than 1d -rate NaN -yes", "-rate wants"},
		{"purge -state dead -older-than 1d", "wants -yes: delete dead messages that ended more than 24h0m0s ago?"},
		{"purge -state dead -older-than 1d -history",
			"wants -yes: move dead messages that ended more than 24h0m0s ago?"},
	} {
		t.Run(c.line, func(t *testing.T) {
			out, err := call(nowhere, strings.Fields(c.line)...)
			var mistake program.UsageError
			require.ErrorAs(t, err, &mistake)
			assert.ErrorContains(t, err, c.wants)
			assert.Empty(t, out)
			assert.False(t, errors.Is(err, flag.ErrHelp))
		})
	}
}

package main

import (
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow/internal/program"
	"github.com/outflowhq/outflow/internal/teststack"
)

func TestHelpOfACommand(t *testing.T) {
	for _, c := range slices.Concat(commands, preparing) {
		out, err := call(nowhere, "help", c.name)
		require.NoError(t, err)
		assert.Equal(t, c.usage, out)
	}
	for line, says := range map[string]string{
		"help staus":        `unknown command "staus": did you mean status?`,
		"help status retry": "help wants one command",
	} {
		_, err := call(nowhere, strings.Fields(line)...)
		require.EqualError(t, err, says)
		assert.Equal(t, 2, code(err))
	}
}

func TestCommandsThatWereMistyped(t *testing.T) {
	for word, says := range map[string]string{
		"staus":   `unknown command "staus": did you mean status?`,
		"Status":  `unknown command "Status": did you mean status?`,
		"stat":    `unknown command "stat": did you mean status?`,
		"re":      `unknown command "re"`,
		"resned":  `unknown command "resned": did you mean resend?`,
		"grant":   `unknown command "grant": did you mean grants?`,
		"deliver": `unknown command "deliver"`,
	} {
		_, err := call(nowhere, word)
		require.EqualError(t, err, says)
		assert.Equal(t, 2, code(err))
	}
}

// A flag that there is not brings those that there are; any other mistake says where
// they stand.
func TestMistakesBringTheFlags(t *testing.T) {
	help := func(line string) string {
		_, err := call(nowhere, strings.Fields(line)...)
		var mistake program.UsageError
		require.ErrorAs(t, err, &mistake, line)
		return mistake.Help
	}
	for _, c := range slices.Concat(commands, preparing) {
		if c.name == "migrate" { // its flag -yes is read by hand
			continue
		}
		said := help(c.name + " -foo")
		for line := range strings.Lines(c.usage) {
			if strings.HasPrefix(line, "  -") {
				assert.Contains(t, said, line, c.name)
			}
		}
		assert.True(t, strings.HasSuffix(said, "See \"outflow "+c.name+" -help\"."), said)
		assert.NotContains(t, said, "Exit codes")
	}
	_, err := call(nowhere, "list", "-detsination", "sqs://orders")
	require.EqualError(t, err, "list: flag provided but not defined: -detsination: did you mean -destination?")
	assert.Contains(t, help("status -bound x"), "  -bound  how many")
	assert.Equal(t, `See "outflow send -help".`, help("send -type a -payload x"))
	assert.Equal(t, `See "outflow migrate -help".`, help("migrate sideways"))
}

// A filter that found nothing says whether it names anything that there is.
func TestFiltersThatNameNothingKnown(t *testing.T) {
	pool := teststack.New(t)
	settings := map[string]string{"DATABASE_URL": pool.Config().ConnString(), "TEMPORAL_ADDRESS": "127.0.0.1:1"}
	for _, d := range []string{"sqs://typo", "sqs://letters", "https://shop.example/in?token=hunter2",
		"https://shop.example/in?token=hunter3"} {
		_, err := pool.Exec(t.Context(), `SELECT outbox.enqueue($1, 'order-placed', '{}')`, d)
		require.NoError(t, err)
	}
	_, err := pool.Exec(t.Context(), `INSERT INTO outbox.destinations (destination, delivered_at) VALUES ('sqs://emptied', now())`)
	require.NoError(t, err)
	const query = ": messages there have another query, or none; outflow list -json shows it"
	for line, says := range map[string]string{
		"list -destination sqs://tpyo":                                        "no message to sqs://tpyo is known here: did you mean sqs://typo?\n",
		"list -destination sqs://emptied":                                     "",
		"list -state dead -destination sqs://letters":                         "",
		"list -destination sqs://far-away":                                    "no message to sqs://far-away is known here\n",
		"list -type order-plaecd -json":                                       "none of the newest messages is of type order-plaecd: did you mean order-placed?\n",
		"list -state dead -type order-placed":                                 "",
		"retry -state dead -destination sqs://tpyo":                           "no message to sqs://tpyo is known here: did you mean sqs://typo?\nmessages selected: 0\n",
		"cancel -state pending -type order-palced":                            "none of the newest messages is of type order-palced: did you mean order-placed?\nmessages selected: 0\n",
		"dismiss -state dead -destination sqs://leters -why x":                "no message to sqs://leters is known here: did you mean sqs://letters?\nmessages selected: 0\n",
		"list -state dead -destination https://shop.example/in?token=hunter2": "",
		"list -destination https://shop.exmaple/in":                           "no message to https://shop.exmaple/in is known here: did you mean https://shop.example/in?\n",
		"list -destination https://shop.example/in":                           "no message to https://shop.example/in is known here" + query + "\n",
		"retry -state dead -destination https://shop.example/in?token=hunter": "no message to https://shop.example/in is known here" + query + "\nmessages selected: 0\n",
	} {
		out, errs, err := with(t, settings, "", line)
		require.NoError(t, err, line)
		assert.Equal(t, says, errs, line)
		assert.NotContains(t, out, "sqs://")
	}
	// It adds nothing where the filter finds messages.
	out, errs, err := with(t, settings, "", "list -destination sqs://typo")
	require.NoError(t, err)
	assert.Contains(t, out, "sqs://typo")
	assert.Empty(t, errs)
}

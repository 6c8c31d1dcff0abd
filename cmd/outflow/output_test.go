package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strings"
	"testing"
	"unicode"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/internal/text"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/outboxdb"
)

// hostileText clears a screen, sets its title, turns text around and hides some.
const hostileText = "\x1b[2J\x1b]0;owned\x07 \u202epay\u2066\u200b\u061c\u0085\u2028\x7f\u009b31m\U000e0041"

// shows fails where a text would do something to a terminal.
func shows(t *testing.T, text, what string) {
	t.Helper()
	assert.False(t, strings.ContainsFunc(text, func(r rune) bool {
		return unicode.IsControl(r) && r != '\n' && r != '\t' || unicode.In(r, unicode.Cf, unicode.Zl, unicode.Zp)
	}), "%s: %q", what, text)
}

// Whatever producers, receivers and operators wrote, no command sends it to a terminal
// as it is; what programs read means the same as before.
func TestHostileTextOnATerminal(t *testing.T) {
	pool := teststack.New(t)
	settings := map[string]string{"DATABASE_URL": pool.Config().ConnString(), "TEMPORAL_ADDRESS": "127.0.0.1:1",
		"OUTFLOW_WHO": "ada" + hostileText}
	line := func(onScreen bool, words ...string) (string, string, error) {
		var out, errs bytes.Buffer
		err := commandLine{getenv: func(name string) string { return settings[name] }, stdin: strings.NewReader(""),
			stdout: &out, stderr: &errs, onScreen: onScreen}.
			run(t.Context(), words)
		return out.String(), errs.String(), err
	}
	payload := "line one\n" + hostileText
	id, _, err := line(true, "send", "-destination", "sqs://orders", "-type", "order-placed", "-header",
		"note="+hostileText, "-payload", payload)
	require.NoError(t, err)
	id = strings.TrimSpace(id)
	_, err = pool.Exec(t.Context(), `UPDATE outbox.messages SET state = 'dead', finished_at = now(), broker_message_id = $1, last_error = $1`, hostileText)
	require.NoError(t, err, "as an owner writes by hand")
	_, err = pool.Exec(t.Context(), `SELECT outbox.enqueue('sqs://orders', 'a', '{}')`)
	require.NoError(t, err)
	_, err = pool.Exec(t.Context(), `INSERT INTO outbox.destinations (destination, failures, failing_since, last_error) VALUES ('sqs://orders', 1, now(), $1)`, hostileText)
	require.NoError(t, err)

	for _, words := range [][]string{
		{"list"}, {"list", "-json"}, {"show", id}, {"show", id, "-payload"}, {"show", id, "-payload",
			"-json"}, {"status"}, {"status", "-json"}, {"wait", id},
		{"doctor"}, {"doctor", "-json"}, {"retry", id, "-why", hostileText}, {"show", id}, {"list", "-state",
			hostileText}, {"show", hostileText}, {hostileText},
		{"status", "-" + hostileText}, {"callback", "set", hostileText}, {"list", "-destination",
			"sqs://" + hostileText}, {"purge", hostileText},
	} {
		out, errs, err := line(true, words...)
		shows(t, out, fmt.Sprintf("%q prints", words))
		shows(t, errs, fmt.Sprintf("%q says", words))
		if len(words) > 1 && words[len(words)-1] == "-json" {
			document := json.NewDecoder(strings.NewReader(out))
			for document.More() {
				require.NoError(t, document.Decode(new(any)), "%q: %s", words, out)
			}
		}
		if err != nil {
			continue // its text goes through internal/program, which is tested there
		}
		assert.NotEmpty(t, out+errs)
	}
	out, _, err := line(true, "show", id, "-payload")
	require.NoError(t, err)
	assert.Contains(t, out, "\n\nline one\n"+text.Visible(hostileText)+"\n")
	assert.Contains(t, out, `header note`)

	// A program gets what the producer wrote.
	out, _, err = line(false, "show", id, "-payload")
	require.NoError(t, err)
	table, rest, found := strings.Cut(out, "\n\n")
	require.True(t, found)
	assert.Equal(t, payload+"\n", rest)
	shows(t, table, "the table")
	out, _, err = line(false, "show", id, "-payload", "-json")
	require.NoError(t, err)
	var document shown
	require.NoError(t, json.Unmarshal([]byte(out), &document))
	assert.Equal(t, payload, document.Payload)
	assert.Equal(t, hostileText, document.Message.Headers["note"])
}

// What the daemons write of a receiver's words is clean in the table already, so in
// callbacks, too.
func TestHostileTextInTheTable(t *testing.T) {
	pool := teststack.New(t)
	store := outboxdb.New(pool)
	tx, err := pool.Begin(t.Context())
	require.NoError(t, err)
	ids, err := outboxdb.Enqueue(t.Context(), tx,
		outflow.Message{Destination: "sqs://orders", Type: "a", Payload: []byte("{}"), Callback: "sqs://replies"})
	require.NoError(t, err)
	require.NoError(t, tx.Commit(t.Context()))
	outcome, err := store.Finish(t.Context(),
		outbox.Ending{Ref: outbox.Ref{ID: ids[0], Generation: 1}, State: outflow.Dead, LastError: hostileText})
	require.NoError(t, err)
	shows(t, outcome.LastError, "last_error")
	assert.Equal(t, text.Visible(hostileText), outcome.LastError)
}

// Characters that come in pieces, as from a table's writer, stay whole.
func TestScreenTakesPieces(t *testing.T) {
	var out bytes.Buffer
	s := &screen{out: &out}
	const given = "a\u202eb🦉\U000e0041\xff\xc3(ü\n"
	for i := range len(given) {
		n, err := io.WriteString(s, given[i:i+1])
		require.NoError(t, err)
		require.Equal(t, 1, n)
	}
	assert.Equal(t, text.Visible(given), out.String())
}

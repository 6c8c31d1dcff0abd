package outflow_test

import (
	"encoding/json"
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
)

func TestFinal(t *testing.T) {
	t.Parallel()
	for state, want := range map[outflow.State]bool{
		outflow.Pending: false, outflow.Delivered: true, outflow.Dead: true, outflow.Expired: true, outflow.Cancelled: true, "": false, "leased": false,
	} {
		require.Equal(t, want, state.Final(), state)
	}
}

func TestOutcomeOfARecord(t *testing.T) {
	t.Parallel()
	id := uuid.New()
	at := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	r := outflow.Record{Message: outflow.Message{ID: id, Payload: []byte("personal data")}, State: outflow.Dead, Generation: 3, Attempts: 4,
		BrokerMessageID: "b", LastError: "e", FinishedAt: at}
	require.Equal(t, outflow.Ref{ID: id, Generation: 3}, r.Ref())
	require.Equal(t, outflow.Outcome{ID: id, State: outflow.Dead, Generation: 3, Attempts: 4, BrokerMessageID: "b", LastError: "e", FinishedAt: at}, r.Outcome())

	// Outcomes are kept in workflow histories: their names are for good.
	encoded, err := json.Marshal(r.Outcome())
	require.NoError(t, err)
	require.JSONEq(t, `{"id": "`+id.String()+`", "state": "dead", "generation": 3, "attempts": 4, "brokerMessageId": "b", "lastError": "e",
		"finishedAt": "2026-01-02T03:04:05Z"}`, string(encoded))
	encoded, err = json.Marshal(outflow.Outcome{ID: id, State: outflow.Pending, Generation: 1})
	require.NoError(t, err)
	require.JSONEq(t, `{"id": "`+id.String()+`", "state": "pending", "generation": 1}`, string(encoded))
}

func TestCleanErrorText(t *testing.T) {
	t.Parallel()
	for given, want := range map[string]string{
		"": "", "plain": "plain", "zoë": "zoë", "a\x00b": "a\uFFFDb", "a\xffb": "a\uFFFDb", "\xc3": "\uFFFD",
		strings.Repeat("a", 2000):       strings.Repeat("a", 2000),
		strings.Repeat("a", 2001):       strings.Repeat("a", 1997) + "…",
		"a" + strings.Repeat("ä", 1000): "a" + strings.Repeat("ä", 998) + "…",
		strings.Repeat("\x00", 2000):    strings.Repeat("\uFFFD", 665) + "…",
	} {
		got := outflow.CleanErrorText(given)
		require.Equal(t, want, got)
		require.LessOrEqual(t, len(got), outflow.MaxErrorText)
		require.Equal(t, got, outflow.CleanErrorText(got))
	}
}

func FuzzCleanErrorText(f *testing.F) {
	f.Add("a\x00\xff" + strings.Repeat("ä", 1500))
	f.Fuzz(func(t *testing.T, given string) {
		got := outflow.CleanErrorText(given)
		require.True(t, utf8.ValidString(got))
		require.NotContains(t, got, "\x00")
		require.LessOrEqual(t, len(got), outflow.MaxErrorText)
	})
}

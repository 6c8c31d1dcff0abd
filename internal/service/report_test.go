package service

import (
	"bytes"
	"io"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow/outboxdb"
)

func TestReport(t *testing.T) {
	for _, c := range []struct {
		name      string
		counts    []outboxdb.PendingCounts
		callbacks outboxdb.CallbackCounts
		out       string
		err       string
	}{
		{"nothing", nil, outboxdb.CallbackCounts{}, "once: left 0 in backoff, 0 delayed, 0 not started\n", ""},
		{"delayed and in backoff is fine", []outboxdb.PendingCounts{
			{Destination: "sqs://mails", Delayed: 2},
			{Destination: "sqs://orders", Retrying: 3, LastError: "connection refused"},
		}, outboxdb.CallbackCounts{}, "once: left 3 in backoff, 2 delayed, 0 not started\n  sqs://orders: 3 in" +
			" backoff; last error: connection refused\n", ""},
		{"due is not", []outboxdb.PendingCounts{{Destination: "sqs://a", Due: 2},
			{Destination: "sqs://b", Leased: 1, Retrying: 1, LastError: "x"}}, outboxdb.CallbackCounts{},
			"once: left 1 in backoff, 0 delayed, 3 not started\n  sqs://b: 1 in backoff; last error: x\n", "3 messages are due"},
		{"behind another message is fine", []outboxdb.PendingCounts{{Destination: "sqs://a", Followers: 2}},
			outboxdb.CallbackCounts{}, "once: left 0 in backoff, 0 delayed, 0 not started\n" +
				"once: left 2 that wait for the message before them of their ordering key\n", ""},
		{"callbacks in backoff are fine", nil, outboxdb.CallbackCounts{Backoff: 2, LastError: "503"},
			"once: left 0 in backoff, 0 delayed, 0 not started\nonce: left 2 callbacks in backoff, 0 not tried\n " +
				" last error of a callback: 503\n", ""},
		{"callbacks that were not tried are not", nil, outboxdb.CallbackCounts{Untried: 1},
			"once: left 0 in backoff, 0 delayed, 0 not started\nonce: left 0 callbacks in backoff, 1 not tried\n", "1 callbacks are due"},
	} {
		t.Run(c.name, func(t *testing.T) {
			var out bytes.Buffer
			err := report(&out, c.counts, c.callbacks, false)
			assert.Equal(t, c.out, out.String())
			if c.err == "" {
				require.NoError(t, err)
			} else {
				require.ErrorContains(t, err, c.err)
			}
		})
	}
}

// A pass that somebody stopped is no success while anything is left to send.
func TestReportOfAStoppedPass(t *testing.T) {
	counts := []outboxdb.PendingCounts{{Destination: "sqs://a", Due: 2, Delayed: 1, Retrying: 3, Waiting: 4,
		LastError: "503"}}
	err := report(io.Discard, counts, outboxdb.CallbackCounts{Untried: 1}, true)
	require.EqualError(t, err, "2 messages are due and were not delivered before the pass was stopped\n"+
		"7 messages are in backoff and were not delivered before the pass was stopped\n"+
		"1 callbacks are due and were not tried before the pass was stopped")
	require.NoError(t, report(io.Discard, []outboxdb.PendingCounts{{Delayed: 1}}, outboxdb.CallbackCounts{}, true))
}

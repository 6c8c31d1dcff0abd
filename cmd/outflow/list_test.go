package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow/operator"
)

// fakeList has so many messages, in pages.
type fakeList struct {
	messages []operator.MessageStatus
	filters  []operator.ListFilter
}

func (f *fakeList) List(_ context.Context, filter operator.ListFilter) ([]operator.MessageStatus, string, error) {
	f.filters = append(f.filters, filter)
	from := 0
	if filter.After != "" {
		if _, err := fmt.Sscan(filter.After, &from); err != nil {
			return nil, "", fmt.Errorf("listing: %w", operator.ErrCursor)
		}
	}
	page := f.messages[from:min(from+filter.Limit, len(f.messages))]
	if from+len(page) < len(f.messages) {
		return page, fmt.Sprint(from + len(page)), nil
	}
	return page, "", nil
}

// A query may hold a token: what operators copy into tickets does not show it. The
// row itself is what "outflow show" and "outflow list -json" print.
func TestAWebhooksQueryIsNotInTables(t *testing.T) {
	const secret = "https://shop.example/in?token=hunter2"
	m := statusOf("dead")
	m.Destination = secret
	rule := operator.CallbackRule{Destination: secret, Callback: secret}
	var out bytes.Buffer
	require.NoError(t, listMessages(t.Context(), &fakeList{messages: []operator.MessageStatus{m}},
		operator.ListFilter{Limit: 2}, false, &out, &out))
	for _, asJSON := range []bool{false, true} {
		require.NoError(t, showStatus(t.Context(), fakeStatus{
			counts:   []operator.PhaseCount{{Destination: secret, Phase: "dead", Messages: 1, LastError: "gone"}},
			breakers: []operator.BreakerStatus{{Destination: secret, Failures: 7, LastError: "gone"}},
		}, 10, asJSON, &out))
	}
	fmt.Fprint(&out, messagesOf(rule))
	assert.NotContains(t, out.String(), "hunter2")
	assert.Equal(t, 7, strings.Count(out.String(), "https://shop.example/in"))
}

func (f *fakeList) KnownDestinations(context.Context, string) ([]string, error) { return nil, nil }

func (f *fakeList) KnownTypes(context.Context) ([]string, error) { return nil, nil }

func TestListMessages(t *testing.T) {
	store := &fakeList{messages: []operator.MessageStatus{statusOf("dead"), statusOf("retrying"), statusOf("due")}}
	var out bytes.Buffer
	require.NoError(t, listMessages(t.Context(), store, operator.ListFilter{Limit: 2}, false, &out, io.Discard))
	assert.Equal(t, `ID                                    STATE     DESTINATION   TYPE          ATTEMPTS  ENQUEUED              ENDED                 LAST ERROR
0198f3a2-5b1c-7000-8000-000000000001  dead      sqs://orders  order-placed  3         2026-01-31T08:00:00Z  2026-01-31T08:00:01Z  no such queue
0198f3a2-5b1c-7000-8000-000000000001  retrying  sqs://orders  order-placed  3         2026-01-31T08:00:00Z  -                     -
more: -after 2
`, out.String())
	out.Reset()
	require.NoError(t, listMessages(t.Context(), store, operator.ListFilter{Limit: 2}, true, &out, io.Discard))
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	require.Len(t, lines, 3)
	assert.Contains(t, lines[0], `{"id":"0198f3a2-5b1c-7000-8000-000000000001","destination":"sqs://orders"`)
	assert.Equal(t, `{"next":"2"}`, lines[2])

	err := listMessages(t.Context(), store, operator.ListFilter{Limit: 2, After: "nonsense"}, false, &out, io.Discard)
	assert.Equal(t, 2, code(err))
	out.Reset()
	require.NoError(t, listMessages(t.Context(), &fakeList{}, operator.ListFilter{Limit: 2}, false, &out, io.Discard))
	assert.Equal(t, "no messages\n", out.String())
}

package main

import (
	"bytes"
	"encoding/json"
	"testing"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow/operator"
	"github.com/outflowhq/outflow/outbox"
)

// A message that a stream has in hand or had shows the stream's run, and no lease of a day.
func TestShowAStreamsMessage(t *testing.T) {
	shown := func(m operator.MessageStatus, share operator.StreamShare) string {
		var out bytes.Buffer
		d := operator.Details{Message: m, WorkflowID: "outbox/stream/q", Stream: share,
			Run: &operator.Run{WorkflowID: "outbox/stream/q", RunID: "run-1", Status: "Running", StartedAt: someAt}}
		s := shownOf(d, "http://ui.example/", "shop")
		assert.Equal(t, "outbox/stream/q", s.Stream)
		require.NoError(t, s.write(&out, false))
		return out.String()
	}
	held := statusOf("leased")
	held.InPage = true
	out := shown(held, operator.StreamHolds)
	assert.Contains(t, out, `due          2026-01-31T08:00:00Z
stream       outbox/stream/q has it in a page
run          Running run-1, started 2026-01-31T08:00:00Z
web          http://ui.example/namespaces/shop/workflows/outbox%2Fstream%2Fq/run-1/history
`)
	assert.NotContains(t, out, "leased until")
	out = shown(statusOf("delivered"), operator.StreamEnded)
	assert.Contains(t, out, "stream       outbox/stream/q had it: it has no run of its own\n")
}

func TestShowMessage(t *testing.T) {
	retrying := statusOf("retrying")
	retrying.LastError, retrying.Headers = ptr("throttled"), map[string]string{"tenant": "a"}
	d := operator.Details{
		Message: retrying, WorkflowID: "outbox/x",
		Run: &operator.Run{
			WorkflowID: "outbox/x", RunID: "run-1", Status: "Running", StartedAt: someAt,
			Activities: []operator.Activity{{
				ID: "publish", State: "Scheduled", Attempt: 4, NextAttemptAt: &someAt, LastFailure: "throttled",
			}},
		},
		Audit: []operator.AuditEntry{{
			At: someAt, Act: "retry", Who: "ada", Login: "ops", Why: "it is back", Detail: json.RawMessage(`{"was": "dead"}`),
		}},
	}
	shown := func(d operator.Details, asJSON bool) string {
		var out bytes.Buffer
		s := shownOf(d, "http://ui.example/", "shop")
		if asJSON {
			require.NoError(t, writeDocument(&out, s))
		} else {
			require.NoError(t, s.write(&out, false))
		}
		return out.String()
	}
	assert.Equal(t, `message        0198f3a2-5b1c-7000-8000-000000000001
state          retrying
destination    sqs://orders
type           order-placed
payload        11 bytes, application/json
header tenant  a
generation     2
attempts       3 (claims: 0)
enqueued       2026-01-31T08:00:00Z
due            2026-01-31T08:00:00Z
leased until   2026-01-31T08:00:00Z
last error     throttled
run            Running run-1, started 2026-01-31T08:00:00Z
activity       publish: Scheduled, attempt 4, next 2026-01-31T08:00:00Z
its failure    throttled
web            http://ui.example/namespaces/shop/workflows/outbox%2Fx/run-1/history
audit          2026-01-31T08:00:00Z retry by ada (login ops): it is back {"was": "dead"}
`, shown(d, false))

	for name, c := range map[string]struct {
		payload string
		asJSON  bool
		noRun   string
		want    []string
	}{
		"the payload": {`{"order":7}`, false, "", []string{"\n{\"order\":7}\n"}},
		"bytes":       {"\xff\x00", false, "", []string{`base64 "/wA="`}},
		"a document": {`{"order":7}`, true, "",
			[]string{`"payload": "{\"order\":7}"`, `"status": "Running"`, `"act": "retry"`}},
		"a document with bytes": {"\xff\x00", true, "", []string{`"payloadBase64": "/wA="`}},
		"no run": {"x", false, "none: not started yet", []string{
			"run            none: not started yet", "/namespaces/shop/workflows?query=WorkflowId%3D%22outbox%2Fx%22",
		}},
		"no Temporal": {"x", true, "connection refused", []string{`"noRun": "connection refused"`}},
	} {
		t.Run(name, func(t *testing.T) {
			d := d
			d.Payload = []byte(c.payload)
			if c.noRun != "" {
				d.Run, d.NoRun = nil, c.noRun
			}
			out := shown(d, c.asJSON)
			for _, want := range c.want {
				assert.Contains(t, out, want)
			}
		})
	}
	d.Message.Callback, d.Message.CallbackState = ptr("https://shop.example/done"), ptr(outbox.CallbackFailed)
	d.Message.CallbackAttempts, d.Message.CallbackError = 4, ptr("410 gone")
	assert.Contains(t, shown(d, false), "callback       https://shop.example/done failed\nits attempts   4\nits error      410 gone\n")
}

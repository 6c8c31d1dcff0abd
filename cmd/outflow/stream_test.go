package main

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/operator"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/outboxdb"
	"github.com/outflowhq/outflow/workflows"
)

func TestStreamBounds(t *testing.T) {
	pool := teststack.New(t)
	settings := map[string]string{"DATABASE_URL": pool.Config().ConnString(), "TEMPORAL_ADDRESS": "127.0.0.1:1"}
	_, _, err := with(t, settings, "", "send -destination sqs://orders -type a -payload x")
	require.NoError(t, err)
	unknown := "no message to sqs://ordrs is known here: did you mean sqs://orders?\n"
	for _, c := range []struct {
		line, out, errs string
		code            int
		says            string
	}{
		{"list", "no streams\n", "", 0, ""},
		{"list -json", "", "", 0, ""},
		{"set -destination sqs://orders -above 1000 -who ada -why asked",
			"sqs://orders: starters begin a stream above 1000 due messages\n", "", 0, ""},
		{"set -destination sqs://orders -above 1000",
			"sqs://orders: starters begin a stream above 1000 due messages\n", "", 0, ""},
		{"set -destination sqs://orders -above off", "sqs://orders: starters begin no stream, was 1000\n", "", 0, ""},
		{"set -destination sqs://orders -above 5", "sqs://orders: starters begin a stream above 5 due messages, was off\n",
			"", 0, ""},
		{"set -destination sqs://ordrs -above off -json", `{"destination":"sqs://ordrs","above":0}` + "\n", unknown, 0, ""},
		{"set -destination https://shop.example/in?token=hunter2 -above 5", "", "", 2,
			"stream set: destination: https takes one message a call: a stream would be no faster"},
		{"list", `DESTINATION   ABOVE  STREAM  SINCE  DELIVERED  DEAD  HANDED OVER  RATE
sqs://orders  5      none    -      0          0     0            -
sqs://ordrs   off    none    -      0          0     0            -
`, "", 0, ""},
		{"unset -destination sqs://other", "", "", 3, "sqs://other: there is no bound of its own"},
		{"unset -destination sqs://ordrs",
			"sqs://ordrs: starters begin a stream as their OUTFLOW_STREAM_ABOVE says\n", "", 0, ""},
		{"unset -destination sqs://orders -json", `{"destination":"sqs://orders"}` + "\n", "", 0, ""},
		{"list", "no streams\n", "", 0, ""},
		{"start sqs://ordrs", "", "", 3, strings.TrimSpace(unknown)},
		{"start sqs://orders", "", "", 1, "no starter or worker has worked on this database yet"},
		{"stop sqs://orders", "", "", 1, "connecting to Temporal at 127.0.0.1:1"},
	} {
		out, errs, err := with(t, settings, "", "stream "+c.line)
		assert.Equal(t, c.code, code(err), "%s: %v", c.line, err)
		if c.says != "" {
			assert.ErrorContains(t, err, c.says, c.line)
			assert.NotContains(t, err.Error(), "hunter2")
		}
		assert.Equal(t, c.out, out, c.line)
		assert.Equal(t, c.errs, errs, c.line)
	}
	assert.Equal(t, []string{"set-stream by ada: asked"}, teststack.Values[string](t, pool,
		`SELECT act || ' by ' || who || ': ' || why FROM outbox.audit WHERE who = 'ada'`))

	store := outboxdb.New(pool)
	require.NoError(t, store.NoteStream(t.Context(), outbox.StreamState{Destination: "sqs://orders",
		Progress: outbox.Progress{Delivered: 120_000, Dead: 2, HandedOver: 7, PerSecond: 9_500}}, true))
	require.NoError(t, store.NoteStream(t.Context(), outbox.StreamState{Destination: "sqs://a",
		Progress: outbox.Progress{Delivered: 8, PerSecond: 1}, Ended: outbox.StreamDrained}, true))
	teststack.Execute(t, pool, `UPDATE outbox.streams SET started_at = $1::timestamptz, ended_at = $1::timestamptz + interval '1 minute'
		WHERE started_at IS NOT NULL`, someAt)
	out, _, err := with(t, settings, "", "stream list")
	require.NoError(t, err)
	assert.Equal(t, `DESTINATION   ABOVE    STREAM   SINCE                 DELIVERED  DEAD  HANDED OVER  RATE
sqs://a       default  drained  2026-01-31T08:01:00Z  8          0     0            -
sqs://orders  default  running  2026-01-31T08:00:00Z  120000     2     7            9500/s
`, out)
	out, _, err = with(t, settings, "", "stream list -json")
	require.NoError(t, err)
	assert.Equal(t, 2, strings.Count(out, "\n"))
	assert.Contains(t, out, `"state":"running"`)
	assert.Contains(t, out, `"workflowId":"`+workflows.StreamID("outbox", "sqs://orders")+`"`)
}

// playedStreams answer a start and a stop as a test says.
type playedStreams struct {
	streams
	started   operator.StartedStream
	queue     string
	err, stop error
}

func (p *playedStreams) KnownDestinations(context.Context, string) ([]string, error) {
	return []string{"sqs://orders"}, nil
}

func (p *playedStreams) StartStream(
	_ context.Context, destination, taskQueue string, _ operator.Actor,
) (operator.StartedStream, error) {
	p.started.Destination, p.started.WorkflowID, p.queue = destination, "outbox/stream/"+destination, taskQueue
	return p.started, p.err
}

func (p *playedStreams) StopStream(context.Context, string, operator.Actor) error { return p.stop }

func TestStreamStartsAndStops(t *testing.T) {
	const id = "outbox/stream/sqs://orders"
	run := func(act string, p *playedStreams, asJSON bool) (string, error) {
		var out bytes.Buffer
		a := streamAct{name: act, taskQueue: "outflow-outbox", json: asJSON, out: &out, errs: &out}
		require.NoError(t, a.read([]string{"sqs://orders"}))
		err := a.do(t.Context(), p)
		return out.String(), err
	}
	nobody := ", and no worker goes on with it yet: workflow " + id + "\n" +
		`  "outflow doctor" says whether a worker polls task queue outflow-outbox-streams` + "\n"
	for _, c := range []struct {
		runID, state, out string
	}{
		{"run-1", operator.StreamRuns, "sqs://orders: a stream delivers what is due: workflow " + id + "\n"},
		{"run-1", operator.StreamSilent, "sqs://orders: started" + nobody},
		{"", operator.StreamRuns, "sqs://orders: a stream runs already: workflow " + id + "\n"},
		{"", operator.StreamSilent, "sqs://orders: its run is open already" + nobody},
		{"", string(outbox.StreamPaused), "sqs://orders: its run is open already, and paused: workflow " + id + "\n" +
			"  temporal activity unpause --activity-id stream -w " + id + "\n"},
	} {
		p := &playedStreams{started: operator.StartedStream{RunID: c.runID, State: c.state}}
		out, err := run("start", p, false)
		require.NoError(t, err)
		assert.Equal(t, c.out, out)
		assert.Equal(t, "outflow-outbox", p.queue)
	}
	out, err := run("start", &playedStreams{started: operator.StartedStream{RunID: "run-1", State: operator.StreamRuns}}, true)
	require.NoError(t, err)
	assert.Equal(t, `{"destination":"sqs://orders","workflowId":"`+id+`","runId":"run-1","state":"running"}`+"\n", out)
	_, err = run("start", &playedStreams{err: errAway}, false)
	assert.Equal(t, 1, code(err))

	out, err = run("stop", &playedStreams{}, false)
	require.NoError(t, err)
	assert.Equal(t, "sqs://orders: its stream was asked to end; starters deliver what is left\n"+
		"  A minute later they may begin another, above the bound; to keep them from it:\n"+
		"  outflow stream set sqs://orders -above off\n", out)
	out, err = run("stop", &playedStreams{}, true)
	require.NoError(t, err)
	assert.Equal(t, `{"destination":"sqs://orders"}`+"\n", out)
	_, err = run("stop", &playedStreams{stop: operator.ErrNoRun}, false)
	assert.EqualError(t, err, "sqs://orders: no stream runs")
	assert.Equal(t, 3, code(err))
	_, err = run("stop", &playedStreams{stop: errAway}, false)
	assert.Equal(t, 1, code(err))
}

// The command asks the Temporal of its settings, on the task queue of streams.
func TestStreamStartsARun(t *testing.T) {
	pool := teststack.New(t)
	name := "stream-" + uuid.NewString()
	settings := map[string]string{"DATABASE_URL": pool.Config().ConnString(), "TEMPORAL_ADDRESS": teststack.Temporal(t),
		"OUTFLOW_OUTBOX": name}
	_, err := outboxdb.New(pool).DatabaseID(t.Context())
	require.NoError(t, err)
	_, _, err = with(t, settings, "", "send -destination sqs://orders -type a -payload x")
	require.NoError(t, err)
	out, _, err := with(t, settings, "", "stream start sqs://orders -why backlog")
	require.NoError(t, err)
	assert.Contains(t, out, "started, and no worker goes on with it yet: workflow "+workflows.StreamID(name, "sqs://orders"))
	assert.Contains(t, out, "task queue outflow-"+name+"-streams\n")
	out, _, err = with(t, settings, "", "stream start sqs://orders")
	require.NoError(t, err)
	assert.Contains(t, out, "its run is open already")
	_, _, err = with(t, settings, "", "stream stop sqs://orders")
	require.NoError(t, err)
}

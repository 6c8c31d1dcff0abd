package main

import (
	"bytes"
	"context"
	"encoding/json"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow/operator"
)

type fakeStatus struct {
	counts   []operator.PhaseCount
	breakers []operator.BreakerStatus
	running  []operator.RunningProcess
	blocked  []operator.BlockedKeys
	streams  []operator.Stream
	backlogs []operator.Backlog
}

func (f fakeStatus) Streams(context.Context) ([]operator.Stream, error) { return f.streams, nil }

func (f fakeStatus) Backlogs(
	context.Context, []operator.PhaseCount, []operator.BreakerStatus, []operator.Stream,
) ([]operator.Backlog, error) {
	return f.backlogs, nil
}

func (f fakeStatus) Blocked(context.Context) ([]operator.BlockedKeys, error) { return f.blocked, nil }

// Running returns a process that publishes anywhere where the test says of none.
func (f fakeStatus) Running(context.Context) ([]operator.RunningProcess, error) {
	if f.running == nil {
		return []operator.RunningProcess{{Silent: true}}, nil
	}
	return f.running, nil
}

func (f fakeStatus) Status(context.Context, int) ([]operator.PhaseCount, []operator.BreakerStatus, error) {
	return f.counts, f.breakers, nil
}

func TestShowStatus(t *testing.T) {
	store := fakeStatus{
		counts: []operator.PhaseCount{
			{Destination: "sqs://b", Phase: "delivered", Messages: 9_990, AtLeast: true},
			{Destination: "sqs://a", Phase: "due", Messages: 3, OldestSeconds: 90},
			{Destination: "sqs://a", Phase: "retrying", Messages: 2, OldestSeconds: 3700, LastError: "throttled"},
			{Destination: "sqs://b", Phase: "dead", Messages: 1, OldestSeconds: 7, LastError: "no such\nqueue"},
			{Destination: "sqs://d", Phase: "waiting", Messages: 4, OldestSeconds: 60, LastError: "no AWS region"},
		},
		breakers: []operator.BreakerStatus{
			{Destination: "sqs://a", Failures: 7, FailingSince: &someAt, OpenUntil: ptr(someAt.Add(time.Minute)),
				Open: true, LastError: "throttled"},
			{Destination: "sqs://d", SlowUntil: &someAt},
			{Destination: "sqs://c", Failures: 1, FailingSince: &someAt, LastError: "reset"},
		},
		blocked: []operator.BlockedKeys{{Destination: "https://b.example/in?token=x", Keys: 2, OldestSeconds: 90}},
	}
	var out bytes.Buffer
	require.NoError(t, showStatus(t.Context(), store, 10, false, &out))
	assert.Equal(t, `DESTINATION  DUE  DELAYED  LEASED  WAITING  RETRYING  OLDEST   DEAD  DISMISSED  EXPIRED  CANCELLED  DELIVERED
sqs://a      3    0        0       0        2         1h1m40s  0     0          0        0          0
sqs://b      0    0        0       0        0         -        1     0          0        0          9990+
sqs://c      0    0        0       0        0         -        0     0          0        0          0
sqs://d      0    0        0       4        0         1m0s     0     0          0        0          0

sqs://a: 7 failures since 2026-01-31T08:00:00Z, breaker open until 2026-01-31T08:01:00Z
  throttled

sqs://b: 1 dead
  no such queue

sqs://c: 1 failures since 2026-01-31T08:00:00Z
  reset

sqs://d: slow to answer until 2026-01-31T08:00:00Z, or longer: messages leave the fast path unsent

sqs://d: 4 waiting
  no AWS region

https://b.example/in: dead messages block 2 ordering keys; the oldest message behind them has been due for 1m30s
  "outflow retry", "redirect" or "skip" the dead ones
`, out.String())

	out.Reset()
	require.NoError(t, showStatus(t.Context(), store, 10, true, &out))
	var document struct {
		Bound        int
		Destinations []destinationStatus
	}
	require.NoError(t, json.Unmarshal(out.Bytes(), &document))
	assert.Equal(t, 10, document.Bound)
	require.Len(t, document.Destinations, 4)
	assert.Equal(t, 3, document.Destinations[0].Messages["due"].Messages)
	assert.True(t, document.Destinations[1].Messages["delivered"].AtLeast)

	out.Reset()
	require.NoError(t, showStatus(t.Context(), fakeStatus{}, 10, false, &out))
	assert.Equal(t, "no messages\n", out.String())
}

// flaky fails at some looks.
type flaky struct {
	fakeStatus
	looks int
	fails func(look int) bool
}

func (f *flaky) Status(ctx context.Context, bound int) ([]operator.PhaseCount, []operator.BreakerStatus, error) {
	f.looks++
	if f.fails(f.looks) {
		return nil, nil, errAway
	}
	return f.fakeStatus.Status(ctx, bound)
}

// A watcher outlives an outage of the database; one that never saw it does not begin.
func TestWatchStatus(t *testing.T) {
	watch := func(asJSON bool, fails func(look int) bool) (looks int, stdout, stderr string, err error) {
		synctest.Test(t, func(t *testing.T) {
			ctx, stop := context.WithTimeout(t.Context(), 5*watchEvery-time.Millisecond)
			defer stop()
			store := &flaky{fakeStatus: fakeStatus{counts: []operator.PhaseCount{{Destination: "sqs://a", Phase: "due",
				Messages: 3}}}, fails: fails}
			var out, said bytes.Buffer
			err = watchStatus(ctx, commandLine{stdout: &out, stderr: &said}, store, 10, asJSON)
			looks, stdout, stderr = store.looks, out.String(), said.String()
		})
		return looks, stdout, stderr, err
	}
	const clear = "\x1b[H\x1b[2J"
	looks, stdout, stderr, err := watch(false, func(look int) bool { return look == 2 || look == 3 })
	require.NoError(t, err, "Ctrl-C is how it ends")
	assert.Equal(t, 5, looks)
	assert.Equal(t, 5, strings.Count(stdout, clear))
	assert.Equal(t, 3, strings.Count(stdout, "sqs://a"))
	assert.Equal(t, strings.Repeat("outflow status: "+errAway.Error()+"; trying again\n", 2), stderr)

	looks, stdout, _, err = watch(true, func(int) bool { return false })
	require.NoError(t, err)
	assert.Equal(t, 5, looks)
	assert.NotContains(t, stdout, clear)
	for document := json.NewDecoder(strings.NewReader(stdout)); looks > 0; looks-- {
		require.NoError(t, document.Decode(new(map[string]any)), "programs read one document after another")
	}

	looks, _, _, err = watch(false, func(int) bool { return true })
	require.ErrorIs(t, err, errAway)
	assert.Equal(t, 1, looks)
}

// A host and its new paths have a breaker each, and different names.
func TestBreakerNames(t *testing.T) {
	assert.Equal(t, "https://shop.example (new paths)", breakerName("https://shop.example#new"))
	assert.Equal(t, "https://shop.example", breakerName("https://shop.example"))
	assert.Equal(t, "https://shop.example/in", breakerName("https://shop.example/in?token=hunter2"))
}

// A destination that does not exist says so, whatever else its breaker counts; and so does a scheme that
// nobody publishes to.
func TestStatusOfWhatIsMissing(t *testing.T) {
	store := fakeStatus{
		counts: []operator.PhaseCount{
			{Destination: "sqs://missing", Phase: "due", Messages: 3, OldestSeconds: 5},
			{Destination: "sns://news", Phase: "due", Messages: 2, OldestSeconds: 5},
			{Destination: "sns://more", Phase: "waiting", Messages: 1, OldestSeconds: 5},
			{Destination: "rabbitmq://events/a", Phase: "delayed", Messages: 1},
			{Destination: "https://a.example/", Phase: "delivered", Messages: 1},
		},
		breakers: []operator.BreakerStatus{{
			Destination: "sqs://missing", Failures: 7, FailingSince: &someAt, OpenUntil: &someAt, Open: true,
			LastError: "503", MissingSince: &someAt, MissingReason: "no such queue (create the queue)",
		}},
		running: []operator.RunningProcess{
			{Name: "outflow-starter", Host: "web-1", Schemes: []string{"http", "https", "sqs"}, Scans: true},
			{Name: "outflow-worker", Host: "web-2", Schemes: []string{"sqs"}},
		},
	}
	var out bytes.Buffer
	require.NoError(t, showStatus(t.Context(), store, 10, false, &out))
	_, below, _ := strings.Cut(out.String(), "\n\n")
	assert.Equal(t, `sqs://missing: missing since 2026-01-31T08:00:00Z: its messages wait for it, and end dead after OUTFLOW_MISSING_GRACE
  no such queue (create the queue)

sns://: 3 messages are due, and no running starter or worker publishes there
  running: outflow-starter on web-1: http, https, sqs; outflow-worker on web-2: sqs
`, below)

	store.running = []operator.RunningProcess{}
	out.Reset()
	require.NoError(t, showStatus(t.Context(), store, 10, false, &out))
	assert.Contains(t, out.String(), "sqs://: 3 messages are due, and no running starter or worker publishes there\n"+
		"  no starter or worker has said within the last minute that it runs\n")
	assert.NotContains(t, out.String(), "rabbitmq://: ", "nothing is due there")

	out.Reset()
	require.NoError(t, showStatus(t.Context(), store, 10, true, &out))
	var document struct {
		Processes []operator.RunningProcess
		Unserved  []operator.UnservedScheme
	}
	require.NoError(t, json.Unmarshal(out.Bytes(), &document))
	assert.Empty(t, document.Processes)
	assert.Equal(t, []operator.UnservedScheme{{Scheme: "sns", Messages: 3}, {Scheme: "sqs", Messages: 3}},
		document.Unserved)
}

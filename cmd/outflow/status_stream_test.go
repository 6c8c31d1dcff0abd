package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow/operator"
	"github.com/outflowhq/outflow/outbox"
)

func TestStatusOfStreams(t *testing.T) {
	due := operator.PhaseCount{Destination: "sqs://a", Phase: "due", Messages: 40_210, OldestSeconds: 90}
	leased := operator.PhaseCount{Destination: "sqs://a", Phase: "leased", Messages: 5_700}
	ended := func(why outbox.StreamEnd) operator.Stream {
		return operator.Stream{State: string(why), StartedAt: &someAt, EndedAt: ptr(someAt.Add(time.Minute)), Recent: true}
	}
	running := operator.Stream{State: operator.StreamRuns, StartedAt: &someAt, PerSecond: 1_900, Delivered: 7}
	slow := running
	slow.PerSecond = 0
	silent := ended(operator.StreamSilent)
	old := ended(outbox.StreamFailing)
	old.Recent = false
	for name, c := range map[string]struct {
		counts  []operator.PhaseCount
		stream  operator.Stream
		backlog *operator.Backlog
		want    string // below the table
	}{
		"it runs": {[]operator.PhaseCount{due}, running, nil,
			"sqs://a: a stream delivers 1,900 messages a second since 2026-01-31T08:00:00Z: 40,210 due, 21s at this rate\n" +
				"  workflow outbox/stream/a\n"},
		"it has just begun": {[]operator.PhaseCount{due}, slow, nil,
			"sqs://a: a stream delivers 0 messages a second since 2026-01-31T08:00:00Z: 40,210 due\n" +
				"  workflow outbox/stream/a\n"},
		"it waits for more, and all is purged": {nil, running, nil,
			"sqs://a: a stream delivers 1,900 messages a second since 2026-01-31T08:00:00Z: 0 due\n" +
				"  workflow outbox/stream/a\n"},
		"some are in its pages": {[]operator.PhaseCount{due, leased}, running, nil,
			"sqs://a: a stream delivers 1,900 messages a second since 2026-01-31T08:00:00Z: 40,210 due, 5,700 in its " +
				"pages, 24s at this rate\n  workflow outbox/stream/a\n"},
		"a worker was lost with the last of them": {[]operator.PhaseCount{leased}, slow, nil,
			"sqs://a: a stream delivers 0 messages a second since 2026-01-31T08:00:00Z: 0 due, 5,700 in its pages " +
				"(those of a lost worker come back after a minute)\n  workflow outbox/stream/a\n"},
		"it is paused": {[]operator.PhaseCount{due}, ended(outbox.StreamPaused), nil,
			"sqs://a: its stream is paused: starters start a run for each message meanwhile\n" +
				"  temporal activity unpause --activity-id stream -w outbox/stream/a\n"},
		"it drained": {[]operator.PhaseCount{due}, ended(outbox.StreamDrained), nil, ""},
		"it failed": {[]operator.PhaseCount{due}, ended(outbox.StreamFailing), nil,
			"sqs://a: its last stream ended at 2026-01-31T08:01:00Z: the destination failed; starters deliver what is left\n"},
		"it was cancelled": {nil, ended(outbox.StreamCancelled), nil,
			"sqs://a: its last stream ended at 2026-01-31T08:01:00Z: its run was cancelled, terminated or reset; " +
				"starters deliver what is left\n"},
		"its worker was lost": {[]operator.PhaseCount{due}, silent, nil,
			"sqs://a: its stream was to be heard of by 2026-01-31T08:01:00Z: no worker goes on with it, or its run was " +
				"terminated (\"outflow doctor\" says whether a worker takes streams); starters deliver what is left\n"},
		"an end that this command does not know": {[]operator.PhaseCount{due}, ended("bored"), nil,
			"sqs://a: its last stream ended at 2026-01-31T08:01:00Z: bored; starters deliver what is left\n"},
		"it failed long ago": {[]operator.PhaseCount{due}, old, nil, ""},
		"it had better begin": {[]operator.PhaseCount{due}, operator.Stream{State: operator.StreamNone},
			&operator.Backlog{Destination: "sqs://a", Due: 40_210, PerSecond: 12.4, Seconds: 3242.7},
			"sqs://a: 40,210 due, 54m3s at 12 messages a second, a run for each\n" +
				"  \"outflow stream start sqs://a\" delivers them by one run, faster by far\n"},
		"of a slow destination a part of the rate is shown": {[]operator.PhaseCount{due}, operator.Stream{State: operator.StreamNone},
			&operator.Backlog{Destination: "sqs://a", Due: 1_000, PerSecond: 0.5, Seconds: 2000},
			"sqs://a: 1,000 due, 33m20s at 0.5 messages a second, a run for each\n" +
				"  \"outflow stream start sqs://a\" delivers them by one run, faster by far\n"},
	} {
		t.Run(name, func(t *testing.T) {
			c.stream.Destination, c.stream.WorkflowID = "sqs://a", "outbox/stream/a"
			store := fakeStatus{counts: c.counts, streams: []operator.Stream{c.stream}}
			if c.backlog != nil {
				store.backlogs = []operator.Backlog{*c.backlog}
			}
			var out bytes.Buffer
			require.NoError(t, showStatus(t.Context(), store, 10, false, &out))
			_, below, found := strings.Cut(out.String(), "\n\n")
			assert.Equal(t, c.want != "", found, out.String())
			assert.Equal(t, c.want, below)

			out.Reset()
			require.NoError(t, showStatus(t.Context(), store, 10, true, &out))
			var document struct{ Destinations []destinationStatus }
			require.NoError(t, json.Unmarshal(out.Bytes(), &document))
			require.Len(t, document.Destinations, 1)
			require.NotNil(t, document.Destinations[0].Stream)
			assert.Equal(t, c.stream.State, document.Destinations[0].Stream.State)
			assert.Equal(t, c.backlog, document.Destinations[0].Backlog)
		})
	}
	// A bound alone makes no line.
	var out bytes.Buffer
	require.NoError(t, showStatus(t.Context(), fakeStatus{streams: []operator.Stream{{Destination: "sqs://a",
		State: operator.StreamNone, Above: ptr(5)}}}, 10, false, &out))
	assert.Equal(t, "no messages\n", out.String())
}

func TestGrouped(t *testing.T) {
	for n, want := range map[int]string{0: "0", 999: "999", 1000: "1,000", 123_456: "123,456", 1_234_567: "1,234,567"} {
		assert.Equal(t, want, grouped(n))
	}
}

package main

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestWindowRate(t *testing.T) {
	// A hundred arrivals each 10 ms, and a pause after three seconds.
	var marks []int64
	for i := range 1000 {
		at := time.Duration(i) * 10 * time.Millisecond
		if at > 3*time.Second {
			at += time.Minute
		}
		marks = append(marks, int64(at))
	}
	rate, err := windowRate(marks, growthSkip, 2*time.Second)
	require.NoError(t, err)
	require.InDelta(t, 10_000, rate, 1)
	rate, err = windowRate(marks, growthSkip, 10*time.Second)
	require.NoError(t, err)
	require.InDelta(t, 10_000, rate, 1, "what comes after the window does not count")
	_, err = windowRate(marks[:growthSkip/markEvery], growthSkip, time.Second)
	require.ErrorContains(t, err, "1000 arrivals are too few")
	_, err = windowRate(nil, growthSkip, time.Second)
	require.Error(t, err)
}

func TestReportGrowth(t *testing.T) {
	s := settings{rounds: 2, only: []string{floor, tracked, riverPeer}}
	found := growthRates{
		tracked:   {"10k": {100, 200}, "100k": {100, 200}, "1m": {90, 190}, "delivered": {100, 190}},
		riverPeer: {"10k": {1000, 1000}, "100k": {900, 900}, "1m": {500, 500}, "delivered": {1000, 1000}},
	}
	var out bytes.Buffer
	require.NoError(t, reportGrowth(&out, s, found))
	require.Regexp(t, `(?m)^ *river +1000 +900 +500 +1000 *$`, out.String())
	for _, line := range []string{"ratio growth-river-1m 0.50\n", "ratio growth-tracked-delivered 0.97\n"} {
		require.Contains(t, out.String(), line)
	}
	require.NotContains(t, out.String(), floor)
	require.NotContains(t, out.String(), "-10k ")
}

func TestChosenKeepsTheOrder(t *testing.T) {
	require.Equal(t, []string{tracked, stream}, chosen([]string{stream, floor, tracked}, grow))
	require.Len(t, grow, 5, "it is not changed")
}

func TestLoads(t *testing.T) {
	for _, size := range payloadSizes {
		for _, body := range (load{messages: 2, size: size}).bodies() {
			require.Len(t, body, size)
		}
	}
	events := load{messages: 3}.bodies()
	require.Len(t, events, 3)
	require.NotEqual(t, events[0], events[1])
	require.InDelta(t, 256, len(events[0]), 64, "about the size of the event of 256 bytes")
}

// Watermill's rows go to all topics, in transactions of their own.
func TestFills(t *testing.T) {
	all := watermillWaiting("q", 2500)
	require.Len(t, all, 3)
	require.Contains(t, all[2], "generate_series(1, 500)")
	require.Contains(t, all[1], watermillTable(watermillTopic(1))+" ")
	for variant, fill := range fills {
		for _, statement := range append(fill.waiting("the-queue", 7), fill.done("the-queue", 7)...) {
			require.False(t, strings.Contains(statement, "%!"), "%s: %s", variant, statement)
		}
		require.Contains(t, strings.Join(fill.waiting("the-queue", 7), ""), "the-queue", variant)
	}
}

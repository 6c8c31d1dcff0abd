package main

import (
	"bytes"
	"flag"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// The table stays fast while messages pass through it and are purged.
// Autovacuum looks every second, as seldom beside so few messages as every
// minute beside millions.
func TestTheTableStaysFast(t *testing.T) {
	var out bytes.Buffer
	defer func() { t.Logf("\n%s", &out) }()
	s := settings{messages: 120_000, looks: 6, backlog: 10_000, keep: time.Second, naptime: time.Second}
	looks, err := soakAlone(t.Context(), s, &out)
	require.NoError(t, err)
	summary(&out, looks)
	require.GreaterOrEqual(t, len(looks), s.looks)
	last := looks[len(looks)-1]
	require.Positive(t, last.vacuums, "autovacuum did nothing: this test shows nothing")
	require.NoError(t, judge(looks, 1.5))
	require.Less(t, last.live, int64(s.messages/2), "the purge has kept up")
	require.Less(t, last.dead, int64(s.messages), "a third of what died; autovacuum has kept up")
	// Without autovacuum it is ten times the start's.
	require.Less(t, last.table, 4*looks[0].table, "its place is used again")
}

func TestParse(t *testing.T) {
	s, err := parse(nil, nil)
	require.NoError(t, err)
	require.Equal(t, settings{messages: 5_000_000, looks: 20, backlog: 10_000, keep: 10 * time.Second, bound: 1.5,
		durable: true}, s)
	var usage usageError
	_, err = parse([]string{"-messages", "5", "-looks", "1", "-backlog", "2", "-keep", "-1s", "-bound", "0.5", "more"},
		nil)
	require.ErrorAs(t, err, &usage)
	for _, part := range []string{"-looks: wants", "-backlog: wants", "-keep and -naptime",
		"-bound: wants 1 or more, or 0 for any (got 0.5)", `unexpected argument "more"`} {
		require.ErrorContains(t, err, part)
	}
	_, err = parse([]string{"-messages", "19999"}, nil)
	require.ErrorContains(t, err, "-messages: wants twice")
	for _, bound := range []string{"NaN", "Inf", "-1"} {
		_, err = parse([]string{"-bound", bound}, nil)
		require.ErrorAs(t, err, &usage, bound)
	}
	s, err = parse([]string{"-bound", "0"}, nil)
	require.NoError(t, err)
	require.Zero(t, s.bound)
	var help bytes.Buffer
	_, err = parse([]string{"-help"}, &help)
	require.ErrorIs(t, err, flag.ErrHelp)
	require.Contains(t, help.String(), "-naptime")
}

func TestRatio(t *testing.T) {
	looks := []look{{buffers: 100}, {buffers: 900}, {buffers: 150}, {buffers: 200}, {buffers: 900}}
	require.Equal(t, 2.0, ratio(looks, pages))
}

func TestJudge(t *testing.T) {
	later := func(buffers int64) []look { // a minute each, because other work slows the machine
		return []look{{buffers: 1000, claim: time.Millisecond}, {buffers: 5000}, {buffers: buffers, claim: time.Minute},
			{buffers: buffers, claim: time.Minute}}
	}
	require.NoError(t, judge(later(1500), 1.5), "up to the bound")
	require.EqualError(t, judge(later(1510), 1.5),
		"a claim touches 1.51 times the pages of the start: the bound is 1.5")
	require.NoError(t, judge(later(1510), 1.6))
	require.NoError(t, judge(later(1_000_000), 0), "no bound")
	require.NoError(t, judge(later(10), 1.5), "less is better")
	require.ErrorContains(t, judge([]look{{}, {buffers: 1000}}, 1.5), "nothing to compare")
	require.ErrorContains(t, judge(later(0), 1.5), "nothing to compare")
}

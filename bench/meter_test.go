package main

import (
	"bytes"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestParsePeak(t *testing.T) {
	got, err := parsePeak("Name:\tpostgres\nVmPeak:\t  9000 kB\nVmHWM:\t    2048 kB\nVmRSS:\t    1024 kB\n")
	require.NoError(t, err)
	require.EqualValues(t, 2<<20, got)
	for _, bad := range []string{"", "VmRSS:\t1 kB\n", "VmHWM:\tmuch kB\n"} {
		_, err := parsePeak(bad)
		require.Error(t, err, bad)
	}
	if runtime.GOOS != "linux" {
		t.Skip("the peak of memory is read from /proc, which Linux has")
	}
	own, err := os.ReadFile("/proc/self/status")
	require.NoError(t, err)
	got, err = parsePeak(string(own))
	require.NoError(t, err)
	require.Greater(t, got, int64(1<<20))
}

// The producer's inserts are in the log's bytes, and not in the statements.
func TestMeteredSince(t *testing.T) {
	inserting := meter{statements: 10, wal: 1000, temporal: 100}
	committing := meter{statements: 14, wal: 5000, temporal: 120}
	done := meter{statements: 34, wal: 9000, temporal: 500}
	require.Equal(t, metered{statements: 2, wal: 800, temporal: 40}, meteredSince(inserting, committing, done, 10))
}

func TestReportCosts(t *testing.T) {
	s := settings{rounds: 1, only: []string{floor, riverPeer, queueAlone}}
	second := time.Second
	results := map[string][]result{
		floor: {{messages: 100, seconds: 1, cpu: cpu{postgres: second, temporal: second},
			metered: metered{wal: 4000, temporal: 3900, memory: 64 << 20}}},
		riverPeer: {{messages: 2000, seconds: 1, cpu: cpu{postgres: second, dispatcher: 3 * second},
			metered: metered{statements: 0.25, wal: 700, memory: 32 << 20}}},
		queueAlone: {{messages: 10, seconds: 1}},
	}
	var out bytes.Buffer
	require.NoError(t, reportCosts(&out, s, results))
	require.Regexp(t, `(?m)^ *floor +0\.00 +4000 +3900 +64 MiB +100 +50 *$`, out.String())
	require.Regexp(t, `(?m)^ *river +0\.25 +700 +0 +32 MiB +2000 +500 *$`, out.String())
	require.Regexp(t, `(?m)^ *queue-alone +0\.00 +0 +0 +0 MiB +- +- *$`, out.String(), "nothing is no rate")
}

func TestBacklogs(t *testing.T) {
	s := settings{messages: 1000, fastMessages: 20_000}
	for variant, want := range map[string]int{
		floor: 1000, tracked: 1000, riverPeer: 20_000, dbosPeer: 10_000, stream: 60_000, queueAlone: 100_000,
	} {
		require.Equal(t, want, s.backlog(variant), variant)
	}
	require.Equal(t, 1, settings{fastMessages: 1}.backlog(dbosPeer))
}

package outflow_test

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/timing"
	"github.com/outflowhq/outflow/publish/awssqs"
	"github.com/outflowhq/outflow/publish/webhook"
)

// TestStoppingTable holds the seconds of docs/running.md to the constants of the code.
func TestStoppingTable(t *testing.T) {
	page, err := os.ReadFile("docs/running.md")
	require.NoError(t, err)
	var starter, worker []int
	row := regexp.MustCompile(`(?m)^\| [^|]+ \| (–|\d+ s) \| (–|\d+ s) \|$`)
	for _, row := range row.FindAllStringSubmatch(string(page), -1) {
		starter, worker = append(starter, secondsOf(row[1])), append(worker, secondsOf(row[2]))
	}
	longest := max(awssqs.DefaultTimeout, webhook.DefaultTimeout)
	var s, w []int
	for _, step := range []struct{ starter, worker time.Duration }{
		{0, 0},
		{timing.StopClaim, 0},
		{timing.StopStarts, 0},
		{timing.StopFastPaths, 0},
		{0, timing.StopTasks},
		{longest + timing.StopCalls, longest + timing.StopCalls},
		{timing.StopSpans, timing.StopSpans},
		{timing.StopProbes, timing.StopProbes},
	} {
		s, w = append(s, int(step.starter.Seconds())), append(w, int(step.worker.Seconds()))
	}
	assert.Equal(t, s, starter)
	assert.Equal(t, w, worker)
	of, ofWorker := sum(s[:len(s)-1]), sum(w[:len(w)-1])
	assert.Contains(t, string(page), fmt.Sprintf("| **sum** | **%d s** | **%d s** |", of, ofWorker))
	assert.InDelta(t, timing.StopStarter(longest).Seconds(), of, 0)
	assert.InDelta(t, timing.StopWorker(longest).Seconds(), ofWorker, 0)
	slower := int((outflow.MaxCallTime - longest).Seconds())
	assert.Contains(t, strings.Join(strings.Fields(string(page)), " "),
		fmt.Sprintf("With a timeout of 30 s the sums are %d s and %d s.", of+slower, ofWorker+slower))
}

func secondsOf(cell string) int {
	n, _ := strconv.Atoi(strings.TrimSuffix(cell, " s")) // a dash is none
	return n
}

func sum(numbers []int) (total int) {
	for _, n := range numbers {
		total += n
	}
	return total
}

// programSource is the Go of the programs, without tests.
func programSource(t *testing.T) string {
	t.Helper()
	var source strings.Builder
	require.NoError(t, filepath.WalkDir(".", func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || !strings.HasSuffix(name, ".go") || strings.HasSuffix(name, "_test.go") {
			return err
		}
		if strings.HasPrefix(name, "devstack") || strings.HasPrefix(name, "bench") {
			return nil
		}
		text, err := os.ReadFile(name)
		source.Write(text)
		return err
	}))
	return source.String()
}

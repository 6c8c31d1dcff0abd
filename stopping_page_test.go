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

	"github.com/outflowhq/outflow/activities"
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
	source := programSource(t)
	fastPath := constant(t, source, "takenWithin") + activities.WorkflowTask
	longest := max(awssqs.DefaultTimeout, webhook.DefaultTimeout) + constant(t, source, "workerStop")
	spans, probes := constant(t, source, "stopWithin"), constant(t, source, "healthStop")
	var s, w []int
	for _, step := range []struct{ starter, worker time.Duration }{
		{0, 0},
		{constant(t, source, "claimGrace"), 0},
		{constant(t, source, "startTimeout") / 2, 0},
		{fastPath, 0},
		{0, activities.LocalPublish + activities.LocalMark + time.Second}, // a second for the task's own calls
		{longest, longest},
		{spans, spans},
		{probes, probes},
	} {
		s, w = append(s, int(step.starter.Seconds())), append(w, int(step.worker.Seconds()))
	}
	assert.Equal(t, s, starter)
	assert.Equal(t, w, worker)
	of, ofWorker := sum(s[:len(s)-1]), sum(w[:len(w)-1])
	assert.Contains(t, string(page), fmt.Sprintf("| **sum** | **%d s** | **%d s** |", of, ofWorker))
	slower := int((30*time.Second - max(awssqs.DefaultTimeout, webhook.DefaultTimeout)).Seconds())
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

// constant is a duration in seconds that a package keeps for itself.
func constant(t *testing.T, source, name string) time.Duration {
	t.Helper()
	definition := regexp.MustCompile(`(?m)^\s*(?:const )?` + name + `\s+=\s+(?:(\d+) \* )?time\.Second$`)
	found := definition.FindAllStringSubmatch(source, -1)
	require.Len(t, found, 1, "the constant %s: rename it here too", name)
	if found[0][1] == "" {
		return time.Second
	}
	n, err := strconv.Atoi(found[0][1])
	require.NoError(t, err)
	return time.Duration(n) * time.Second
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

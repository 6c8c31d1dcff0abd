package program

import (
	"math"
	"runtime/debug"
	"testing"

	"github.com/stretchr/testify/assert"
)

func TestCollectGarbageSeldom(t *testing.T) {
	t.Cleanup(collectAsUsual)
	for _, own := range []string{"GOGC", "GOMEMLIMIT"} {
		collectAsUsual()
		CollectGarbageSeldom(func(name string) string { return map[string]string{own: "50"}[name] })
		assert.Equal(t, 100, debug.SetGCPercent(100), "%s says otherwise", own)
	}
	CollectGarbageSeldom(func(string) string { return "" })
	assert.Equal(t, garbagePercent, debug.SetGCPercent(garbagePercent))
	assert.EqualValues(t, memoryLimit, debug.SetMemoryLimit(-1))
}

// collectAsUsual is Go's own default.
func collectAsUsual() {
	debug.SetGCPercent(100)
	debug.SetMemoryLimit(math.MaxInt64)
}

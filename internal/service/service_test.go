package service

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/outflowhq/outflow/activities"
)

// A worker that stopped sooner would leave publishes without their answers, and
// another worker would publish again.
func TestWorkerWaitsForWhatItIsDoing(t *testing.T) {
	stop := workerOptions(nil).WorkerStopTimeout
	assert.GreaterOrEqual(t, stop, 15*time.Second)
	assert.Greater(t, stop, activities.Durable, "a durable attempt ends first")
	assert.Greater(t, stop, activities.LocalPublish+activities.LocalMark, "so does a fast path")
}

package service

import (
	"testing"
	"time"

	"github.com/stretchr/testify/assert"

	"github.com/outflowhq/outflow/activities"
	"github.com/outflowhq/outflow/internal/config"
	"github.com/outflowhq/outflow/publish/awssqs"
	"github.com/outflowhq/outflow/publish/webhook"
)

// A worker that stopped sooner would leave publishes without their answers, and
// another worker would publish again.
func TestWorkerWaitsForWhatItIsDoing(t *testing.T) {
	for name, c := range map[string]struct {
		sqs, webhook, longest time.Duration
	}{
		"by default":    {0, 0, max(awssqs.DefaultTimeout, webhook.DefaultTimeout)},
		"a slow SQS":    {30 * time.Second, 0, 30 * time.Second},
		"slow webhooks": {0, 25 * time.Second, 25 * time.Second},
		"all are quick": {time.Second, 2 * time.Second, 2 * time.Second},
	} {
		stop := workerOptions(config.Config{SQSTimeout: c.sqs, Webhook: webhook.Options{Timeout: c.webhook}}, nil).WorkerStopTimeout
		assert.Greater(t, stop, c.longest+activities.LocalMark, name)
		assert.Greater(t, stop, activities.LocalPublish+activities.LocalMark, "%s: so does a fast path", name)
	}
}

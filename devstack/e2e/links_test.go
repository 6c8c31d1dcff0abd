package e2e

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow/devstack/faults"
	"github.com/outflowhq/outflow/publish/publishtest/fakesqs"
)

// TestLinkFaults breaks what leads to one world only, so they run side by side.
func TestLinkFaults(t *testing.T) {
	halfOpen := func(link func(*fault) *faults.Link, within time.Duration, mayRepeat bool) func(*testing.T, *fault) {
		return func(t *testing.T, f *fault) {
			f.meet()
			require.NoError(t, link(f).Deafen())
			f.flows(within)
			f.settle(2*time.Minute, mayRepeat)
		}
	}
	for name, run := range map[string]func(*testing.T, *fault){
		"half-open connections to Postgres": halfOpen(func(f *fault) *faults.Link { return f.Postgres }, 30*time.Second,
			false),
		// gRPC notices a silent connection by its keepalive: 30 s, and 15 s for the answer.
		"half-open connections to Temporal": halfOpen(func(f *fault) *faults.Link { return f.Temporal }, 60*time.Second,
			true),
		"half-open connections to SQS": halfOpen(func(f *fault) *faults.Link { return f.SQS }, 30*time.Second,
			true),
		"SQS is unavailable, then throttles": func(t *testing.T, f *fault) {
			f.meet()
			f.Queues.Inject(fakesqs503(""))
			time.Sleep(8 * time.Second)
			f.Queues.Heal("")
			f.Queues.Inject(fakesqs.Fault{Action: "SendMessageBatch", Error: throttled()})
			f.Queues.Inject(fakesqs.Fault{Action: "SendMessage", Error: throttled()})
			time.Sleep(7 * time.Second)
			f.Queues.Heal("")
			f.flows(60 * time.Second)
			f.settle(2*time.Minute, false)
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			run(t, underLoad(t))
		})
	}
}

// throttled is what SQS answers to too many requests.
// https://docs.aws.amazon.com/AWSSimpleQueueService/latest/APIReference/CommonErrors.html
func throttled() *fakesqs.Error {
	return &fakesqs.Error{Status: http.StatusBadRequest, Code: "ThrottlingException", Message: "Rate exceeded"}
}

package e2e

import (
	"net/http"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"go.temporal.io/api/enums/v1"

	"github.com/outflowhq/outflow/publish/publishtest/fakesqs"
	"github.com/outflowhq/outflow/workflows"
)

// A run that is signalled to try now while an attempt is under way tries again when
// that one has failed.
func TestToldToTryNowDuringAFailingAttempt(t *testing.T) {
	w := newWorld(t)
	// Slow failures: the attempt under way ends after the word to try now.
	w.queues.Inject(fakesqs.Fault{Queue: "orders", Delay: 1500 * time.Millisecond,
		Error: &fakesqs.Error{Status: http.StatusServiceUnavailable, Code: "ServiceUnavailable",
			Message: "try again later"}})
	id := w.enqueue(1, to("sqs://orders"))[0]
	w.start("outflow-worker")
	w.start("outflow-starter")
	w.eventually(30*time.Second, "an attempt is under way", func() bool {
		d, err := w.client.DescribeWorkflowExecution(t.Context(), w.workflowID(id), "")
		return err == nil && len(d.PendingActivities) == 1 &&
			d.PendingActivities[0].State == enums.PENDING_ACTIVITY_STATE_STARTED
	})
	require.NoError(t, w.client.SignalWorkflow(t.Context(), w.workflowID(id), "", workflows.SignalTryNow, nil))
	w.eventually(10*time.Second, "the attempt has ended", func() bool {
		for _, e := range w.history(id.String()) {
			if e.EventType == enums.EVENT_TYPE_ACTIVITY_TASK_FAILED ||
				e.EventType == enums.EVENT_TYPE_ACTIVITY_TASK_CANCELED {
				return true
			}
		}
		return false
	})
	w.queues.Heal("")
	w.eventually(60*time.Second, "delivered", func() bool { return w.count("state = 'delivered'") == 1 })
	for _, e := range w.history(id.String()) {
		require.NotEqual(t, enums.EVENT_TYPE_WORKFLOW_TASK_FAILED, e.EventType, "%v",
			e.GetWorkflowTaskFailedEventAttributes().GetFailure().GetMessage())
	}
}

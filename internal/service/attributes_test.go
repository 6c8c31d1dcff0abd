package service

import (
	"fmt"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/api/enums/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	sdklog "go.temporal.io/sdk/log"
	"google.golang.org/protobuf/types/known/durationpb"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/namespace"
	"github.com/outflowhq/outflow/workflows"
)

// A namespace may have the attributes of a start, and not that of a retry: the task
// that sets it is refused as a whole, and would be forever.
func TestNamespaceWithoutTheStateAttribute(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	name := "partly-" + uuid.NewString()
	_, err := w.client.WorkflowService().RegisterNamespace(t.Context(), &workflowservice.RegisterNamespaceRequest{
		Namespace: name, WorkflowExecutionRetentionPeriod: durationpb.New(24 * time.Hour),
	})
	require.NoError(t, err)
	w.client, err = client.Dial(client.Options{HostPort: teststack.Temporal(t), Namespace: name,
		Logger: sdklog.NewStructuredLogger(w.log)})
	require.NoError(t, err)
	t.Cleanup(w.client.Close)
	attributes := []string{workflows.AttributeDestination.GetName(), workflows.AttributeType.GetName()}
	ns := namespace.New(w.client, name)
	w.eventually(func() bool {
		if err = ns.CreateKeywords(t.Context(), attributes); err == nil {
			_, err = ns.Probe(t.Context(), attributes)
		}
		return err == nil
	}, func() string { return err.Error() })

	w.broker.set(func(n int) (string, error) {
		if n < 4 {
			return "", fmt.Errorf("failure %d", n)
		}
		return "broker-4", nil
	})
	w.work()
	w.scan()
	id := w.enqueue("{}")
	r := w.until(id, func(r row) bool { return r.State != outflow.Pending })
	assert.Equal(t, outflow.Delivered, r.State, r.LastError)
	assert.Zero(t, r.Claims, "its process lives")
	assert.Equal(t, 4, w.broker.count(), "twice on the fast path, twice durably")
	status, history := w.closed(id)
	assert.Equal(t, enums.WORKFLOW_EXECUTION_STATUS_COMPLETED, status)
	assert.Equal(t, 1, count(history, enums.EVENT_TYPE_WORKFLOW_TASK_FAILED), "the task with the attribute was refused")
}

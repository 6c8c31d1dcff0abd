package brokers

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/publish"
	"github.com/outflowhq/outflow/publish/temporalwf"
)

// loadWorkflows reads the settings of temporal destinations with nothing else in the environment.
func loadWorkflows(t *testing.T, settings map[string]string) Broker {
	t.Helper()
	all := map[string]string{"TEMPORAL_CONFIG_FILE": "/dev/null"}
	for name, value := range settings {
		all[name] = value
	}
	b := load(t.Context(), &workflows{}, func(name string) string { return all[name] })
	if p, ok := b.Publisher.(*temporalwf.Publisher); ok {
		t.Cleanup(p.Close)
	}
	return b
}

// refusal is why the broker refuses a destination, or nil.
func refusal(t *testing.T, b Broker, destination string) error {
	t.Helper()
	require.NoError(t, b.SettingsErr)
	require.NoError(t, b.ClientErr)
	return publish.NewRouter(b.Publisher).Refusal(destination)
}

// By default messages wait; Temporal's own settings matter only where a workflow is listed.
func TestWorkflows(t *testing.T) {
	t.Parallel()
	b := loadWorkflows(t, map[string]string{"TEMPORAL_ADDRESS": "nonsense", "OUTFLOW_TEMPORAL_TARGETS": "none"})
	assert.ErrorContains(t, refusal(t, b, "temporal://orders/Process"), "OUTFLOW_TEMPORAL_TARGETS")
	assert.Contains(t, b.Waiting, "OUTFLOW_TEMPORAL_TARGETS")
	assert.Equal(t, []string{"temporal"}, b.Schemes)
	assert.Equal(t, 10*time.Second, b.Timeout)

	b = loadWorkflows(t, map[string]string{"OUTFLOW_TEMPORAL_TARGETS": "shop/orders/Process, default/a%2Fb/T",
		"TEMPORAL_NAMESPACE": "shop", "OUTFLOW_TEMPORAL_TIMEOUT": "20s"})
	require.NoError(t, refusal(t, b, "temporal://orders/Process"), "the namespace is the daemon's")
	require.NoError(t, refusal(t, b, "temporal://a%2Fb/T?namespace=default"))
	require.Error(t, refusal(t, b, "temporal://orders/Refund"))
	assert.Empty(t, b.Waiting)
	assert.Equal(t, 20*time.Second, b.Timeout)
}

func TestWorkflowMistakes(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		name  string
		value string
		wants string
	}{
		{"OUTFLOW_TEMPORAL_TARGETS", "orders", "OUTFLOW_TEMPORAL_TARGETS: wants workflows such as " +
			"default/orders/ProcessOrder (namespace, task queue, type), separated by commas: " +
			"number 1 has not three parts"},
		{"OUTFLOW_TEMPORAL_TARGETS", "default/outflow-outbox/Deliver", "are Outflow's own"},
		{"OUTFLOW_TEMPORAL_TARGETS", "default/own/Deliver", "OUTFLOW_TEMPORAL_TARGETS: wants task queues of your own " +
			`workflows; "own" is Outflow's (OUTFLOW_TASK_QUEUE)`},
		{"OUTFLOW_TEMPORAL_TIMEOUT", "1m", "OUTFLOW_TEMPORAL_TIMEOUT: wants a duration from 1s to 30s"},
	} {
		b := loadWorkflows(t, map[string]string{"OUTFLOW_TASK_QUEUE": "own", c.name: c.value})
		require.ErrorContains(t, b.SettingsErr, c.wants)
		assert.Nil(t, b.Publisher)
	}
	b := loadWorkflows(t, map[string]string{"OUTFLOW_TEMPORAL_TARGETS": "default/orders/Process",
		"TEMPORAL_ADDRESS": "nonsense"})
	require.ErrorContains(t, b.ClientErr, "TEMPORAL_ADDRESS: wants host:port")
	assert.Nil(t, b.Publisher)
}

// The names of Outflow's own runs and task queues come from its settings.
func TestWorkflowsRefuseOutflowsOwn(t *testing.T) {
	t.Parallel()
	b := loadWorkflows(t, map[string]string{"OUTFLOW_TEMPORAL_TARGETS": "default/orders/Process",
		"OUTFLOW_OUTBOX": "shop", "OUTFLOW_TASK_QUEUE": "own", "TEMPORAL_ADDRESS": "127.0.0.1:1"})
	require.NoError(t, b.ClientErr)
	for destination, id := range map[string]string{
		"temporal://orders/Process": "shop/018f6a3e-7c1b-7d5e-9b1a-2f6f0c9d4e11", "temporal://own/Deliver": "x",
		"temporal://orders/Process?signal=try-now": "outbox/018f6a3e-7c1b-7d5e-9b1a-2f6f0c9d4e11",
	} {
		_, err := b.Publisher.Publish(t.Context(), outflow.Message{
			Destination: destination, Type: "a", Payload: []byte("{}"), Headers: map[string]string{"workflow-id": id},
		})
		require.True(t, outflow.IsPermanent(err), "%v", err)
		assert.ErrorContains(t, err, "Outflow's own")
	}
}

func TestWorkflowRemedies(t *testing.T) {
	t.Parallel()
	other := errors.New("other")
	doctor := Workflows(temporalwf.Options{}).Doctor
	missing := outflow.Permanent(outflow.ErrNoDestination)
	assert.Equal(t, "temporal operator namespace create --namespace shop, or outflow redirect its messages",
		doctor.Advice("temporal://orders/Process?namespace=shop", missing))
	assert.Contains(t, doctor.Advice("temporal://orders/Process", missing), "--namespace NAME")
	assert.Equal(t, "outflow redirect its messages",
		doctor.Advice("temporal://orders/Process?namespace=shop", outflow.Permanent(other)))
	for says, err := range map[string]error{
		"temporal operator namespace create":    outflow.Permanent(outflow.ErrNoDestination),
		"outflow redirect its messages":         outflow.Permanent(other),
		"start a worker of the task queue":      outflow.Retryable(other),
		"list the workflow in OUTFLOW_TEMPORAL": outflow.Unavailable(other),
	} {
		assert.Contains(t, workflowRemedy(err), says)
	}
}

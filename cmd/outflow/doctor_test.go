package main

import (
	"encoding/json"
	"maps"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/worker"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/activities"
	"github.com/outflowhq/outflow/control"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/outboxdb"
	"github.com/outflowhq/outflow/publish/publishtest/fakesqs"
	"github.com/outflowhq/outflow/workflows"
)

// The doctor, on real parts that are well, and beside a database that was never
// migrated.
func TestDoctor(t *testing.T) {
	queues := &fakesqs.Server{}
	queues.CreateQueue("", "orders", nil)
	endpoint := httptest.NewServer(queues)
	t.Cleanup(endpoint.Close)
	// AWS's chain reads the process's own: fake keys, and no file or host to ask for others.
	for name, value := range map[string]string{
		"AWS_REGION": "eu-west-1", "AWS_ENDPOINT_URL_SQS": endpoint.URL, "AWS_ENDPOINT_URL": "", "AWS_ACCESS_KEY_ID": "fake", "AWS_SECRET_ACCESS_KEY": "fake",
		"AWS_SESSION_TOKEN": "", "AWS_PROFILE": "", "AWS_CONFIG_FILE": "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null", "AWS_EC2_METADATA_DISABLED": "true",
	} {
		t.Setenv(name, value)
	}
	f := newFresh(t)
	_, err := runSetup(f.settings)
	require.NoError(t, err)
	pool := teststack.New(t)
	w := worker.New(f.client, workflows.TaskQueueFor(outflow.DefaultOutbox), worker.Options{WorkerStopTimeout: 15 * time.Second})
	workflows.Register(w, activities.New(outboxdb.New(pool), acknowledges{}))
	require.NoError(t, w.Start())
	t.Cleanup(w.Stop)
	namespace := control.NewNamespaceHealth(f.client, f.name)
	require.Eventually(t, func() bool {
		ofRuns, ofAttempts, err := namespace.Pollers(t.Context(), workflows.TaskQueueFor(outflow.DefaultOutbox))
		return err == nil && ofRuns > 0 && ofAttempts > 0
	}, 30*time.Second, 50*time.Millisecond, "the worker polls")

	settings := maps.Clone(f.settings)
	settings["DATABASE_URL"] = pool.Config().ConnString()
	_, errs, err := with(t, settings, "x", "send -destination sqs://orders -type order-placed")
	require.NoError(t, err, errs)
	look := func() (levels []string, of map[string]control.Finding, err error) {
		out, _, err := with(t, settings, "", "doctor -json")
		of = map[string]control.Finding{}
		for lines := json.NewDecoder(strings.NewReader(out)); lines.More(); {
			var found control.Finding
			require.NoError(t, lines.Decode(&found))
			levels = append(levels, string(found.Level)+" "+found.Check)
			of[found.Check] = found
		}
		return levels, of, err
	}

	levels, of, err := look()
	require.NoError(t, err, "%v", of)
	assert.Equal(t, []string{
		"ok database", "ok schema", "ok rights", "ok clock", "ok snapshots", "ok dead", "ok temporal", "ok attributes", "ok workers", "warn schedule", "ok runs", "ok destinations", "ok notify",
	}, levels, "%v", of)
	assert.Equal(t, "sqs://orders is there", of["destinations"].Text)
	assert.Equal(t, f.settings["TEMPORAL_ADDRESS"]+", namespace "+f.name+" answers", of["temporal"].Text)
	assert.Empty(t, queues.Requests("SendMessage", "SendMessageBatch"), "it sends nothing")

	settings["DATABASE_URL"] = teststack.NewEmpty(t).Config().ConnString()
	levels, of, err = look()
	assert.Equal(t, 1, code(err))
	assert.EqualError(t, err, "1 check fails")
	assert.Equal(t, []string{"ok database", "fail schema", "ok temporal", "ok attributes", "ok workers", "warn schedule", "skip destinations", "ok notify"}, levels, "%v", of)
	assert.Contains(t, of["schema"].Text, "not applied by outflow: 0001_destinations, ")
	assert.Equal(t, "outflow migrate up (or run the missing files with the tool that runs yours)", of["schema"].Remedy)
	assert.Equal(t, "the table could not be read", of["destinations"].Text)
}

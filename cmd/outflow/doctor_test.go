package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"maps"
	"net/http/httptest"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/sdk/worker"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/activities"
	"github.com/outflowhq/outflow/internal/teststack"
	"github.com/outflowhq/outflow/namespace"
	"github.com/outflowhq/outflow/operator"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/outboxdb"
	"github.com/outflowhq/outflow/publish/publishtest/fakesns"
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
	w := worker.New(f.client, workflows.TaskQueueFor(outflow.DefaultOutbox),
		worker.Options{WorkerStopTimeout: 15 * time.Second})
	workflows.Register(w, activities.New(outboxdb.New(pool), acknowledges{}))
	require.NoError(t, w.Start())
	t.Cleanup(w.Stop)
	store := outboxdb.New(pool)
	require.NoError(t, store.Announce(t.Context(), outbox.Process{ID: uuid.New(), Name: "outflow-worker", Host: "web-1",
		Schemes: []string{"sqs"}}))
	ns := namespace.New(f.client, f.name)
	require.Eventually(t, func() bool {
		ofRuns, ofAttempts, err := ns.Pollers(t.Context(), workflows.TaskQueueFor(outflow.DefaultOutbox))
		return err == nil && ofRuns > 0 && ofAttempts > 0
	}, 30*time.Second, 50*time.Millisecond, "the worker polls")

	settings := maps.Clone(f.settings)
	settings["DATABASE_URL"] = pool.Config().ConnString()
	_, errs, err := with(t, settings, "x", "send -destination sqs://orders -type order-placed")
	require.NoError(t, err, errs)
	look := func() (levels []string, of map[string]operator.Finding, err error) {
		out, _, err := with(t, settings, "", "doctor -json")
		of = map[string]operator.Finding{}
		for lines := json.NewDecoder(strings.NewReader(out)); lines.More(); {
			var found operator.Finding
			require.NoError(t, lines.Decode(&found))
			levels = append(levels, string(found.Level)+" "+found.Check)
			of[found.Check] = found
		}
		return levels, of, err
	}

	levels, of, err := look()
	require.NoError(t, err, "%v", of)
	assert.Equal(t, []string{
		"ok database", "ok schema", "ok rights", "ok clock", "ok snapshots", "ok dead", "ok order", "ok temporal", "ok attributes", "ok workers", "warn schedule", "ok runs", "ok destinations", "ok publishers", "ok deliveries", "ok callbacks", "ok notify",
	}, levels, "%v", of)
	assert.Equal(t, "sqs://orders is there", of["destinations"].Text)
	assert.Equal(t, f.settings["TEMPORAL_ADDRESS"]+", namespace "+f.name+" answers", of["temporal"].Text)
	assert.Empty(t, queues.Requests("SendMessage", "SendMessageBatch"), "it sends nothing")

	// A queue and a publisher that are not there: what makes the one, and who lacks the other.
	for _, missing := range []string{"sqs://missing?region=eu-west-1", "sns://news"} {
		_, errs, err = with(t, settings, "x", "send -destination "+missing+" -type order-placed")
		require.NoError(t, err, errs)
	}
	out, _, err := with(t, settings, "", "doctor")
	require.Error(t, err)
	assert.Regexp(t, `fail +destinations +1 pending: looking up sqs://missing\?region=eu-west-1: .*The specified queue does not exist`, out)
	assert.Contains(t, out, "→ aws sqs create-queue --queue-name missing --region eu-west-1, or outflow redirect its messages")
	assert.Regexp(t, `fail +publishers +messages to 1 destinations of sns:// wait: no running starter or worker`+
		` publishes to it \(running: outflow-worker on web-1: sqs\)`, out)

	settings["DATABASE_URL"] = teststack.NewEmpty(t).Config().ConnString()
	levels, of, err = look()
	assert.Equal(t, 1, code(err))
	assert.EqualError(t, err, "1 check fails")
	assert.Equal(t, []string{"ok database", "fail schema", "ok temporal", "ok attributes", "ok workers",
		"warn schedule", "skip destinations", "ok notify"}, levels, "%v", of)
	assert.Contains(t, of["schema"].Text, "not applied by outflow: 0001_destinations, ")
	assert.Equal(t, "outflow migrate up (or run the missing files with the tool that runs yours)", of["schema"].Remedy)
	assert.Equal(t, "the table could not be read", of["destinations"].Text)
}

// A producer's role, which may not read the tables, is shown what an operator's role needs.
func TestDoctorAsAProducer(t *testing.T) {
	pool := teststack.New(t)
	role := "producer_of_" + pool.Config().ConnConfig.Database
	_, err := pool.Exec(t.Context(), `CREATE ROLE `+role)
	require.NoError(t, err)
	t.Cleanup(func() {
		_, err := pool.Exec(context.Background(), `DROP OWNED BY `+role+`; DROP ROLE `+role)
		require.NoError(t, err)
	})
	_, err = call(pool.Config().ConnString(), "grants", "-producer", role, "-apply")
	require.NoError(t, err)
	as, err := url.Parse(pool.Config().ConnString())
	require.NoError(t, err)
	query := as.Query()
	query.Set("role", role)
	as.RawQuery = query.Encode()
	out, _, err := with(t, map[string]string{"DATABASE_URL": as.String(), "TEMPORAL_ADDRESS": "127.0.0.1:1"}, "",
		"doctor")
	require.Error(t, err)
	assert.Regexp(t, `fail +database +.*permission denied.*\n +→ outflow grants -operator ROLE prints the rights that it needs\n`, out)
}

// Many webhooks hide no queue. What these settings would not send to is a finding, and
// so are settings that are wrong.
func TestDoctorLooksAtEveryScheme(t *testing.T) {
	queues := &fakesqs.Server{}
	endpoint := httptest.NewServer(queues)
	t.Cleanup(endpoint.Close)
	topics := httptest.NewServer(&fakesns.Server{})
	t.Cleanup(topics.Close)
	for name, value := range map[string]string{
		"AWS_REGION": "eu-west-1", "AWS_ENDPOINT_URL_SQS": endpoint.URL, "AWS_ENDPOINT_URL": "",
		"AWS_ENDPOINT_URL_SNS": topics.URL, "AWS_ACCOUNT_ID": "000000000000", "AWS_ACCESS_KEY_ID": "fake", "AWS_SECRET_ACCESS_KEY": "fake",
		"AWS_SESSION_TOKEN": "", "AWS_PROFILE": "", "AWS_CONFIG_FILE": "/dev/null", "AWS_SHARED_CREDENTIALS_FILE": "/dev/null", "AWS_EC2_METADATA_DISABLED": "true",
	} {
		t.Setenv(name, value)
	}
	pool := teststack.New(t)
	_, err := pool.Exec(t.Context(), `
		INSERT INTO outbox.messages (id, destination, type, payload)
		SELECT gen_random_uuid(), 'https://h' || n || '.example/x?token=hunter2', 'a', '{}'::bytea FROM generate_series(1, 60) AS n
		UNION ALL SELECT gen_random_uuid(), d, 'a', '{}' FROM unnest(ARRAY['https://hooks.example/1?token=hunter2', 'https://hooks.example/2', 'https://bare.example/', 'sqs://missing', 'sns://missing.fifo']) AS d`)
	require.NoError(t, err)
	settings := map[string]string{"DATABASE_URL": pool.Config().ConnString(), "TEMPORAL_ADDRESS": "127.0.0.1:1"}
	look := func() string {
		out, _, _ := with(t, settings, "", "doctor -json")
		assert.NotContains(t, out, "hunter2")
		return out
	}
	out := look()
	assert.Contains(t, out, "sqs://missing", "it is looked up")
	assert.Contains(t, out, `"remedy":"aws sqs create-queue --queue-name missing, or outflow redirect its messages"`)
	assert.Contains(t, out, "looking up sns://missing.fifo: NotFound")
	assert.Contains(t, out, `"remedy":"aws sns create-topic --name missing.fifo --attributes FifoTopic=true, or`)
	assert.Contains(t, out, "https://hooks.example/1: the host is not allowed (add it to OUTFLOW_WEBHOOK_HOSTS, and a secret for it to OUTFLOW_WEBHOOK_SECRETS_FILE)", "by default nothing may be sent to")

	secrets := filepath.Join(t.TempDir(), "secrets")
	require.NoError(t, os.WriteFile(secrets, []byte("hooks.example whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n"), 0o600))
	settings["OUTFLOW_WEBHOOK_HOSTS"], settings["OUTFLOW_WEBHOOK_SECRETS_FILE"] = "hooks.example,bare.example", secrets
	out = look()
	assert.Contains(t, out, "1 hosts of https:// are allowed, and have a secret")
	assert.Contains(t, out, "the host is not allowed (add it to OUTFLOW_WEBHOOK_HOSTS")
	assert.Contains(t, out, "12 were not", "it says that it did not look at all")
	_, err = pool.Exec(t.Context(), `DELETE FROM outbox.messages WHERE destination LIKE 'https://h__.example/x%'`)
	require.NoError(t, err)
	assert.Contains(t, look(), "https://bare.example/: there is no secret for the host (add one to OUTFLOW_WEBHOOK_SECRETS_FILE)")

	settings["OUTFLOW_WEBHOOK_HOSTS"] = "https://hooks.example"
	out = look()
	assert.Contains(t, out, `"check":"settings","level":"fail"`)
	assert.Contains(t, out, "OUTFLOW_WEBHOOK_HOSTS: wants host names")
	assert.Contains(t, out, "sqs://missing", "it goes on")
}

// Of a workflow it says whether it is listed, its namespace is there, and a worker polls its task
// queue: Temporal takes a start without one.
func TestDoctorLooksAtWorkflows(t *testing.T) {
	pool := teststack.New(t)
	queue := "doctor-" + uuid.NewString()
	to := "temporal://" + queue + "/Process"
	_, err := pool.Exec(t.Context(), `INSERT INTO outbox.messages (id, destination, type, payload)
		SELECT gen_random_uuid(), $1 || q, 'a', '{}' FROM unnest(ARRAY['', '?namespace=no-such-namespace', 'Another']) AS q`, to)
	require.NoError(t, err)
	settings := map[string]string{
		"DATABASE_URL": pool.Config().ConnString(), "TEMPORAL_ADDRESS": teststack.Temporal(t), "TEMPORAL_CONFIG_FILE": os.DevNull,
		"OUTFLOW_TEMPORAL_TARGETS": "default/" + queue + "/Process,no-such-namespace/" + queue + "/Process",
	}
	out, _, _ := with(t, settings, "", "doctor")
	assert.Regexp(t, `warn +destinations +looking up `+to+`: no worker polls the task queue .*\n +→ start a worker of the task queue`, out)
	assert.Regexp(t, `fail +destinations +1 pending: looking up `+to+`\?namespace=no-such-namespace: the destination does not exist.*\n`+
		` +→ temporal operator namespace create --namespace no-such-namespace, or outflow redirect its messages`, out)
	assert.Regexp(t, `warn +destinations +looking up `+to+`Another: default/`+queue+`/ProcessAnother is not listed .*\n`+
		` +→ list the workflow in OUTFLOW_TEMPORAL_TARGETS`, out)
}

// Of RabbitMQ it looks up exchanges and queues, and says which commands make those that are missing. An
// address that nobody answers at is a finding of its own.
func TestDoctorLooksAtExchanges(t *testing.T) {
	server := teststack.NewRabbitMQ(t)
	pool := teststack.New(t)
	_, err := pool.Exec(t.Context(), `INSERT INTO outbox.messages (id, destination, type, payload)
		SELECT gen_random_uuid(), d, 'a', '{}' FROM unnest(ARRAY[
			'rabbitmq://amq.topic/placed', 'rabbitmq://doctor-missing/placed', 'rabbitmq:///doctor-missing']) AS d`)
	require.NoError(t, err)
	settings := map[string]string{"DATABASE_URL": pool.Config().ConnString(), "TEMPORAL_ADDRESS": "127.0.0.1:1", "AMQP_URL": server.URL}
	out, _, _ := with(t, settings, "", "doctor")
	assert.Regexp(t, `ok +destinations +rabbitmq://amq.topic/placed is there`, out)
	assert.Regexp(t, `fail +destinations +1 pending: .*rabbitmq://doctor-missing/placed: 404 NOT_FOUND: there is no exchange.*\n`+
		` +→ rabbitmqadmin declare exchange name=doctor-missing type=topic durable=true && rabbitmqadmin declare queue name=QUEUE durable=true && rabbitmqadmin declare binding source=doctor-missing`, out)
	assert.Regexp(t, `fail +destinations +1 pending: .*rabbitmq:///doctor-missing: 312 NO_ROUTE: there is no queue.*\n`+
		` +→ rabbitmqadmin declare queue name=doctor-missing durable=true`, out)

	settings["AMQP_URL"] = "amqp://guest:hunter2@127.0.0.1:1/"
	out, _, _ = with(t, settings, "", "doctor")
	assert.Regexp(t, `warn +destinations .*connection refused.*\n +→ check AMQP_URL, the network and the broker`, out)
	assert.NotContains(t, out, "hunter2")
}

func TestExaminePrints(t *testing.T) {
	away := operator.Subject{DatabaseErr: errors.New("no database"), NamespaceErr: errors.New("no Temporal"),
		Target: namespace.Target{Address: "a:1", Namespace: "shop"}}
	var out bytes.Buffer
	err := examine(t.Context(), away, false, &out)
	assert.Equal(t, 1, code(err))
	assert.ErrorContains(t, err, "2 checks fail")
	assert.Equal(t, `fail  database      no database
                    → set DATABASE_URL to the application's database
fail  temporal      a:1, namespace shop: no Temporal
                    → check TEMPORAL_ADDRESS, TEMPORAL_NAMESPACE and its credentials
skip  destinations  the table could not be read
skip  notify        the database could not be asked
`, out.String())
	out.Reset()
	assert.Equal(t, 1, code(examine(t.Context(), away, true, &out)))
	assert.Contains(t, out.String(), `{"check":"database","level":"fail","text":"no database","remedy":"set DATABASE_URL to the application's database"}`+"\n")
}

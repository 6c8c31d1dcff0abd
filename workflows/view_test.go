package workflows_test

import (
	"context"
	"encoding/base64"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/uuid"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/mock"
	"github.com/stretchr/testify/require"
	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/sdk/activity"
	"go.temporal.io/sdk/converter"
	"google.golang.org/protobuf/proto"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/timing"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/workflows"
)

type (
	activityInfo  = activity.Info
	encodedValues = converter.EncodedValues
)

const anything = mock.Anything

func TestStatusInEveryPhase(t *testing.T) {
	r := newRun(t)
	var mu sync.Mutex
	seen := map[string]workflows.Status{}
	note := func(at string) {
		status := r.status()
		mu.Lock()
		defer mu.Unlock()
		seen[at] = status
	}
	r.broker.script = []answer{
		func(context.Context, outflow.Message) (string, error) { note("local"); return "", errReset },
		fails(errReset), acks,
	}
	r.env.RegisterDelayedCallback(func() { note("backoff") }, 500*time.Millisecond)
	r.table.before = func(statement string) error {
		if statement == "finish" {
			note("mark")
		}
		return nil
	}
	_, err := r.execute()
	require.NoError(t, err)
	note("end")

	assert.Equal(t, workflows.Status{Phase: "publishing", Generation: 1}, seen["local"])
	assert.Equal(t, workflows.Status{Phase: "retrying", Generation: 1, LastError: errReset.Error()}, seen["backoff"])
	assert.Equal(t, "marking", seen["mark"].Phase)
	assert.Equal(t, "ended", seen["end"].Phase)
	require.NotNil(t, seen["end"].Outcome)
	assert.Equal(t, outflow.Delivered, seen["end"].Outcome.State)
}

func TestSearchAttributes(t *testing.T) {
	t.Run("a run off the fast path shows it", func(t *testing.T) {
		r := newRun(t, fails(errReset), acks)
		require.NoError(t, r.env.SetTypedSearchAttributesOnStart(workflows.StartAttributes("sqs://orders",
			"order-placed")))
		r.env.OnUpsertTypedSearchAttributes(anything).Return(nil)
		outcome, err := r.execute()
		require.NoError(t, err)
		assert.Equal(t, outflow.Delivered, outcome.State)
		assert.Equal(t, 1, r.spy.upserts)
	})
	t.Run("an attribute that can't be set stops nothing", func(t *testing.T) {
		r := newRun(t, fails(errReset), acks)
		require.NoError(t, r.env.SetTypedSearchAttributesOnStart(workflows.StartAttributes("sqs://orders",
			"order-placed")))
		r.env.OnUpsertTypedSearchAttributes(anything).Return(errReset)
		outcome, err := r.execute()
		require.NoError(t, err)
		assert.Equal(t, outflow.Delivered, outcome.State)
		assert.Equal(t, 2, outcome.Attempts)
	})
	t.Run("the fast path writes none", func(t *testing.T) {
		r := newRun(t, acks)
		require.NoError(t, r.env.SetTypedSearchAttributesOnStart(workflows.StartAttributes("sqs://orders",
			"order-placed")))
		_, err := r.execute()
		require.NoError(t, err)
		assert.Zero(t, r.spy.upserts)
	})
	t.Run("a run started without them sets none and goes on", func(t *testing.T) {
		r := newRun(t, fails(errReset), acks)
		outcome, err := r.execute()
		require.NoError(t, err)
		assert.Equal(t, outflow.Delivered, outcome.State)
		assert.Zero(t, r.spy.upserts)
	})
	t.Run("a callback is found beside its message", func(t *testing.T) {
		of := workflows.StartAttributes("sqs://orders", "order-placed")
		r, _ := newCallbackRun(t, acks, acks)
		require.NoError(t, r.env.SetTypedSearchAttributesOnStart(of))
		_, err := r.execute()
		require.NoError(t, err)
		require.Len(t, r.spy.childs, 1)
		assert.Equal(t, of, r.spy.childs[0].TypedSearchAttributes)

		r, _ = newCallbackRun(t, acks, acks)
		_, err = r.execute()
		require.NoError(t, err)
		require.Len(t, r.spy.childs, 1)
		assert.Zero(t, r.spy.childs[0].TypedSearchAttributes.Size(), "the namespace may lack them")
	})
	t.Run("a callback that was given up fails, and no more", func(t *testing.T) {
		for _, answer := range []answer{fails(outflow.Permanent(errReset)), fails(errReset)} {
			r, _ := newCallbackRun(t, acks, answer)
			r.owes(outflow.Delivered)
			require.NoError(t, r.env.SetTypedSearchAttributesOnStart(workflows.StartAttributes("sqs://orders",
				"order-placed")))
			_, err := r.executeCallback()
			failedAs(t, err, workflows.ErrTypeCallbackFailed)
			assert.Zero(t, r.spy.upserts, "a namespace that lacks the attribute would refuse the last task forever")
		}
	})
}

func TestActivityOptions(t *testing.T) {
	r := newRun(t, fails(errReset), acks)
	require.NoError(t, r.env.SetTypedSearchAttributesOnStart(workflows.StartAttributes("sqs://orders", "order-placed")))
	r.env.OnUpsertTypedSearchAttributes(anything).Return(nil)
	r.table.before = failsFirst("finish", 1)
	_, err := r.execute()
	require.NoError(t, err)

	require.Len(t, r.spy.local, 2)
	for i, timeout := range []time.Duration{timing.LocalPublish, timing.LocalMark} {
		assert.Equal(t, timeout, r.spy.local[i].ScheduleToCloseTimeout)
		assert.EqualValues(t, 1, r.spy.local[i].RetryPolicy.MaximumAttempts, "what fails locally goes on durably")
	}
	assert.Equal(t, "publish to `sqs://orders`", r.spy.local[0].Summary)
	assert.Equal(t, "write the end to the row", r.spy.local[1].Summary)

	require.Len(t, r.spy.regular, 2)
	publish, mark := r.spy.regular[0], r.spy.regular[1]
	assert.Equal(t, "publish", publish.ActivityID)
	assert.Equal(t, "publish to `sqs://orders`", publish.Summary)
	assert.True(t, publish.WaitForCancellation, "what is under way may already be published")
	assert.Equal(t, "mark", mark.ActivityID)
	assert.Equal(t, timing.DurablePublish, publish.StartToCloseTimeout)
	assert.Equal(t, timing.HeartbeatTimeout, publish.HeartbeatTimeout, "a worker that died is noticed before")
	assert.Equal(t, timing.DurableMark, mark.StartToCloseTimeout)
	for _, options := range r.spy.regular {
		assert.Zero(t, options.RetryPolicy.MaximumAttempts)
		assert.Zero(t, options.ScheduleToCloseTimeout)
		assert.Zero(t, options.ScheduleToStartTimeout)
	}
}

// recorder keeps everything that goes through the data converter: inputs,
// results, heartbeat details, failure details.
type recorder struct {
	converter.DataConverter
	mu   sync.Mutex
	seen []byte
}

func (r *recorder) note(m proto.Message) {
	data, _ := proto.Marshal(m)
	r.mu.Lock()
	defer r.mu.Unlock()
	r.seen = append(r.seen, data...)
}

func (r *recorder) ToPayload(value any) (*commonpb.Payload, error) {
	p, err := r.DataConverter.ToPayload(value)
	r.note(p)
	return p, err
}

func (r *recorder) ToPayloads(values ...any) (*commonpb.Payloads, error) {
	p, err := r.DataConverter.ToPayloads(values...)
	r.note(p)
	return p, err
}

func TestPayloadNeverEntersTemporal(t *testing.T) {
	for name, script := range map[string][]answer{
		"delivered": {acks},
		"retried":   {fails(errReset), acks},
		"dead":      {fails(errReset), fails(outflow.Permanent(errReset))},
	} {
		t.Run(name, func(t *testing.T) {
			r := newRun(t, script...)
			recorded := &recorder{DataConverter: converter.GetDefaultDataConverter()}
			r.env.SetDataConverter(recorded)
			_, _ = r.execute()
			seen := string(recorded.seen)
			require.Contains(t, seen, r.in.MessageID.String(), "the recorder sees what goes through Temporal")
			assert.NotContains(t, seen, "secret")
			// Whatever its place in a base64 text, one of three cuts of it shows.
			for cut := range 3 {
				encoded := base64.StdEncoding.EncodeToString([]byte(payload)[cut : cut+30])
				assert.NotContains(t, seen, encoded)
			}
			assert.NotContains(t, seen, "sqs://orders", "the destination is read from the row")
		})
	}
}

func TestKeywordsAreCut(t *testing.T) {
	long := "https://example.com/" + strings.Repeat("ü", 900)
	attributes := workflows.StartAttributes(long, "order-placed")
	got, ok := attributes.GetKeyword(workflows.AttributeDestination)
	require.True(t, ok)
	assert.LessOrEqual(t, len(got), 255)
	assert.Greater(t, len(got), 250)
	assert.True(t, utf8.ValidString(got))
	assert.True(t, strings.HasPrefix(long, got))

	short := workflows.StartAttributes("sqs://orders", strings.Repeat("t", 255))
	kind, _ := short.GetKeyword(workflows.AttributeType)
	assert.Len(t, kind, 255, "what fits is not cut")

	assert.LessOrEqual(t, len(workflows.Summary(long, "order-placed")), 390,
		"Temporal takes 400 bytes, quotes included")
}

// The Web UI reads both as Markdown: what a producer wrote is shown as it is.
func TestMarkdownIsInert(t *testing.T) {
	hostile := "https://a.example/[pay](https://evil.example)*x*`<b>\n* b"
	want := "`https://a.example/[pay](https://evil.example)*x*'<b> * b`"
	assert.Equal(t, "`order-placed` to "+want, workflows.Summary(hostile, "order-placed"))
	details := workflows.Details(outbox.Record{Message: outflow.Message{Destination: hostile, Type: "a`b"}})
	assert.Contains(t, details, "* Destination: "+want+"\n")
	assert.Contains(t, details, "* Type: `a'b`\n")
	long := workflows.Summary("https://example.com/"+strings.Repeat("*", 2000), strings.Repeat("t", 200))
	assert.Equal(t, 255, len(long))
	assert.Equal(t, 4, strings.Count(long, "`"), "a cut leaves the backtick")
}

func TestDetails(t *testing.T) {
	id := uuid.Must(uuid.NewV7())
	at := time.Date(2026, 3, 1, 12, 0, 0, 0, time.FixedZone("", 3600))
	record := outbox.Record{
		Message: outflow.Message{ID: id, Destination: "sqs://orders", Type: "order-placed", Payload: []byte(payload),
			DueAt: at},
		Generation: 3, EnqueuedAt: at,
	}
	details := workflows.Details(record)
	for _, want := range []string{id.String(), "sqs://orders", "order-placed", "2026-03-01T11:00:00Z",
		"Generation: 3"} {
		assert.Contains(t, details, want)
	}
	assert.NotContains(t, details, "secret")
	assert.NotContains(t, details, "Expires")
	record.ExpiresAt = at.Add(time.Hour)
	assert.Contains(t, workflows.Details(record), "Expires: 2026-03-01T12:00:00Z")
}

// Histories hold these: a change breaks runs that are open.
func TestWireContract(t *testing.T) {
	id := uuid.MustParse("01890000-0000-7000-8000-000000000001")
	assert.Equal(t, "outbox/01890000-0000-7000-8000-000000000001", workflows.DeliverID("outbox", id))
	payloads, err := converter.GetDefaultDataConverter().ToPayload(workflows.DeliverInput{Outbox: "outbox",
		Database: uuid.MustParse("6f757466-6c6f-4077-8000-000000000001"), MessageID: id, Generation: 1})
	require.NoError(t, err)
	assert.JSONEq(t, `{"outbox":"outbox","database":"6f757466-6c6f-4077-8000-000000000001",
		"messageId":"01890000-0000-7000-8000-000000000001","generation":1}`, string(payloads.GetData()))
	assert.Equal(t, []string{
		"outflow-outbox", "Deliver", "Publish", "MarkDelivered", "MarkDead", "MarkExpired", "MarkCancelled", "publish", "mark",
		"delivery-status", "retrying", "OutflowDestination", "OutflowType", "OutflowState", "Dead", "Expired",
	}, []string{
		workflows.TaskQueueFor("outbox"), workflows.WorkflowDeliver, workflows.ActivityPublish, workflows.ActivityMarkDelivered,
		workflows.ActivityMarkDead, workflows.ActivityMarkExpired, workflows.ActivityMarkCancelled,
		workflows.ActivityIDPublish, workflows.ActivityIDMark, workflows.QueryDeliveryStatus, workflows.StateRetrying,
		workflows.AttributeDestination.GetName(), workflows.AttributeType.GetName(), workflows.AttributeState.GetName(),
		workflows.ErrTypeDead, workflows.ErrTypeExpired,
	})
}

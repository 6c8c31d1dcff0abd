package temporalwf_test

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/converter"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/publish/temporalwf"
)

// The workflow runs under the message ID, with the payload as its input; message ID, type and
// headers are found from it.
func TestAMessageStartsItsWorkflow(t *testing.T) {
	t.Parallel()
	a := newApp(t)
	a.work(t, a.client)
	m := message(a.to("Process"))
	m.OrderingKey = "customer-42"
	m.Headers = map[string]string{
		"tenant": "acme", "traceparent": "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01", "tracestate": "a=b",
	}
	run := a.publish(t, m)

	var got process
	require.NoError(t, a.client.GetWorkflow(t.Context(), m.ID.String(), run).Get(t.Context(), &got))
	assert.Equal(t, map[string]string{"note": marker}, got.Input)
	started := a.started(t, m.ID.String(), run)
	assert.Equal(t, "Process", started.GetWorkflowType().GetName())
	assert.Equal(t, a.queue, started.GetTaskQueue().GetName())
	assert.Equal(t, "outflow", started.GetIdentity())
	fields := map[string]string{}
	for name, field := range started.GetHeader().GetFields() {
		if name != "_tracer-data" {
			var value string
			require.NoError(t, converter.GetDefaultDataConverter().FromPayload(field, &value), name)
			fields[name] = value
		}
	}
	assert.Equal(t, map[string]string{
		"outflow-message-id": m.ID.String(), "outflow-type": "order-placed", "outflow-content-type": "application/json",
		"outflow-ordering-key": "customer-42", "tenant": "acme",
		"traceparent": m.Headers["traceparent"], "tracestate": "a=b",
	}, fields)
	var trace map[string]string // as the SDKs' interceptors read it
	require.NoError(t, converter.GetDefaultDataConverter().FromPayload(
		started.GetHeader().GetFields()["_tracer-data"], &trace))
	assert.Equal(t, map[string]string{"traceparent": m.Headers["traceparent"], "tracestate": "a=b"}, trace)

	d, err := a.client.DescribeWorkflowExecution(t.Context(), m.ID.String(), run)
	require.NoError(t, err)
	memo := map[string]string{}
	for name, field := range d.GetWorkflowExecutionInfo().GetMemo().GetFields() {
		memo[name] = string(field.GetData())
	}
	assert.Equal(t, map[string]string{
		"outflow-message-id": `"` + m.ID.String() + `"`, "outflow-type": `"order-placed"`,
	}, memo)
}

func TestPayloadsArrive(t *testing.T) {
	t.Parallel()
	a := newApp(t)
	for name, c := range map[string]struct{ contentType, payload, encoding string }{
		"JSON":               {"", `{"name":"Åsa","emoji":"🦉"}`, "json/plain"},
		"JSON with charset":  {`application/json; charset="utf-8"`, " [1, 2.50] ", "json/plain"},
		"JSON null":          {"application/json", "null", "json/plain"},
		"text":               {"text/plain", "{", "binary/plain"},
		"another JSON":       {"application/cloudevents+json", "{}", "binary/plain"},
		"invalid UTF-8":      {"application/octet-stream", "\xff\xfe caf\xe9", "binary/plain"},
		"NUL and controls":   {"application/octet-stream", "a\x00b\x01\x1f\x7f", "binary/plain"},
		"no media type":      {";;", "x", "binary/plain"},
		"nearly 2 MiB":       {"text/plain", strings.Repeat("x", 2<<20-1000), "binary/plain"},
		"a surrogate, alone": {"application/octet-stream", "\xed\xa0\x80", "binary/plain"},
	} {
		t.Run(name, func(t *testing.T) {
			m := message(a.to("Process"))
			m.ContentType, m.Payload = c.contentType, []byte(c.payload)
			input := a.started(t, m.ID.String(), a.publish(t, m)).GetInput().GetPayloads()
			require.Len(t, input, 1)
			assert.Equal(t, c.encoding, string(input[0].GetMetadata()["encoding"]))
			assert.Equal(t, c.payload, string(input[0].GetData()))
		})
	}
}

// A workflow whose input can't be decoded would fail, or try for ever.
func TestInvalidJSONIsRefused(t *testing.T) {
	t.Parallel()
	a := newApp(t)
	for _, payload := range []string{"{", marker, "{} {}", "", "\xef\xbb\xbf{}", "\"\xff\"", `{"a":NaN}`} {
		m := message(a.to("Process"))
		m.Payload = []byte(payload)
		a.fails(t, m, outflow.ClassPermanent, "application/json, and the payload is no JSON", m.ID.String())
	}
}

// Users of a payload codec give the publisher the options of their client.
func TestDataConverter(t *testing.T) {
	t.Parallel()
	zipped := converter.NewCodecDataConverter(converter.GetDefaultDataConverter(),
		converter.NewZlibCodec(converter.ZlibCodecOptions{AlwaysEncode: true}))
	a := newApp(t, func(o *temporalwf.Options) { o.Client.DataConverter = zipped })
	c, err := client.Dial(client.Options{HostPort: a.address, Logger: quietly, DataConverter: zipped})
	require.NoError(t, err)
	t.Cleanup(c.Close)
	a.work(t, c)
	m := message(a.to("Process"))
	run := a.publish(t, m)
	started := a.started(t, m.ID.String(), run)
	assert.Equal(t, "binary/zlib", string(started.GetInput().GetPayloads()[0].GetMetadata()["encoding"]))
	assert.NotContains(t, started.String(), marker)
	var got process
	require.NoError(t, c.GetWorkflow(t.Context(), m.ID.String(), run).Get(t.Context(), &got))
	assert.Equal(t, map[string]string{"note": marker}, got.Input)

	refusing := newApp(t, func(o *temporalwf.Options) { o.Client.DataConverter = refuses{} })
	refusing.fails(t, message(refusing.to("Process")), outflow.ClassPermanent, "the data converter refused the payload")
}

// refuses is a converter whose error quotes what it was given.
type refuses struct{ converter.DataConverter }

func (refuses) ToPayloads(...any) (*commonpb.Payloads, error) {
	return nil, fmt.Errorf("no key for %s", marker)
}

// The request ID is the message ID: a second copy is answered with the first one's run, whatever
// became of it.
func TestASecondCopyStartsNothing(t *testing.T) {
	t.Parallel()
	a := newApp(t)
	a.work(t, a.client)
	for _, id := range []string{"", "order-" + a.queue} {
		t.Run("ID "+id, func(t *testing.T) {
			m := message(a.to("Process"))
			m.Payload = []byte(`{"wait": "yes"}`)
			if id != "" {
				m = named(m, id)
			} else {
				id = m.ID.String()
			}
			first := a.publish(t, m)
			assert.Equal(t, first, a.publish(t, m), "while it runs")

			a.end(t, id, "continue")
			a.closed(t, id, first)
			second := a.latest(t, id)
			require.NotEqual(t, first, second)
			assert.Equal(t, first, a.publish(t, m), "after it continued as new")
			assert.Equal(t, second, a.latest(t, id))

			a.end(t, id, "finish")
			a.closed(t, id, second)
			assert.Equal(t, first, a.publish(t, m), "after it completed")
			assert.Equal(t, second, a.latest(t, id))
		})
	}
}

// As long as the namespace keeps the run: afterwards a copy starts another. Deleting the run is
// what the end of its retention does.
func TestDeduplicationEndsWithTheRetention(t *testing.T) {
	t.Parallel()
	a := newApp(t)
	a.work(t, a.client)
	m := message(a.to("Process"))
	first := a.publish(t, m)
	a.closed(t, m.ID.String(), first)
	_, err := a.client.WorkflowService().DeleteWorkflowExecution(t.Context(),
		&workflowservice.DeleteWorkflowExecutionRequest{
			Namespace:         "default",
			WorkflowExecution: &commonpb.WorkflowExecution{WorkflowId: m.ID.String(), RunId: first},
		})
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		_, err := a.client.DescribeWorkflowExecution(t.Context(), m.ID.String(), first)
		return err != nil
	}, time.Minute, 20*time.Millisecond)
	assert.NotEqual(t, first, a.publish(t, m))
}

func TestAWorkflowIDIsStartedOnce(t *testing.T) {
	t.Parallel()
	a := newApp(t)
	a.work(t, a.client)
	for how, payload := range map[string]string{"Running": `{"wait": "yes"}`, "Completed": `{}`} {
		t.Run(how, func(t *testing.T) {
			id := "order-" + how + a.queue
			m := named(message(a.to("Process")), id)
			m.Payload = []byte(payload)
			first := a.publish(t, m)
			if how != "Running" {
				a.closed(t, id, first)
			}
			other := named(message(a.to("Process")), id)
			state := map[string]string{"Running": "running", "Completed": "closed as Completed"}[how]
			a.fails(t, other, outflow.ClassPermanent, "AlreadyExists: workflow "+id, "run "+first, state,
				"existing=use")
			a.fails(t, named(message(a.to("Another")), id), outflow.ClassPermanent,
				`is a "Process" on task queue "`+a.queue)

			other.Destination = a.to("Process", "existing=use")
			assert.Equal(t, first, a.publish(t, other), "the destination lets it do")
			another := named(message(a.to("Another", "existing=use")), id)
			a.fails(t, another, outflow.ClassPermanent, `is a "Process" on task queue "`+a.queue)
			assert.Equal(t, first, a.latest(t, id))
		})
	}
	t.Run("existing=use starts one, too", func(t *testing.T) {
		m := message(a.to("Process", "existing=use"))
		first := a.publish(t, m)
		a.closed(t, m.ID.String(), first)
		assert.Equal(t, first, a.publish(t, m))
	})
}

func TestWorkflowIDs(t *testing.T) {
	t.Parallel()
	a := newApp(t)
	for _, id := range []string{strings.Repeat("i", 255-len(a.queue)) + a.queue, "a b/~%C3" + a.queue} {
		m := named(message(a.to("Process")), id)
		assert.NotNil(t, a.started(t, id, a.publish(t, m)))
	}
	m := message(a.to("Process"))
	m.Headers = map[string]string{"Workflow-ID": "upper-" + a.queue}
	assert.Equal(t, a.publish(t, m), a.latest(t, "upper-"+a.queue))
	for _, id := range []string{"", strings.Repeat("i", 256), "bestellung-ä", "a\nb", "a\x00", "\xff", "日本"} {
		a.fails(t, named(message(a.to("Process")), id), outflow.ClassPermanent, "1 to 255 printable ASCII characters")
	}
	m = message(a.to("Process"))
	m.ID = [16]byte{}
	a.fails(t, m, outflow.ClassPermanent, "the message has no ID")
}

// Temporal's limits are no throttles: the message ends dead, and the breaker stays closed.
func TestTooLarge(t *testing.T) {
	t.Parallel()
	a := newApp(t)
	a.work(t, a.client)
	for code, size := range map[string]int{"InvalidArgument": 2 << 20, "ResourceExhausted": 5 << 20} {
		for _, query := range []string{"existing=use", "signal=step"} {
			m := named(message(a.to("Process", query)), "large-"+a.queue)
			payload, err := json.Marshal(strings.Repeat("x", size))
			require.NoError(t, err)
			m.Payload = payload
			err = a.fails(t, m, outflow.ClassPermanent, code, "Temporal takes 2 MiB by default")
			var f *outflow.Failure
			require.ErrorAs(t, err, &f)
			assert.True(t, f.Answered)
		}
	}
}

func TestHeadersOfTemporalsOwnAreRefused(t *testing.T) {
	t.Parallel()
	a := newApp(t)
	for _, name := range []string{"_tracer-data", "_Tracer-Data", "__temporal_x"} {
		m := message(a.to("Process"))
		m.Headers = map[string]string{name: "x"}
		a.fails(t, m, outflow.ClassPermanent, name+`" is Temporal's own`)
	}
	m := message(a.to("Process"))
	m.Headers = map[string]string{"x": "\xff"}
	a.fails(t, m, outflow.ClassPermanent, `header "x" is not valid UTF-8`)
}

func TestMissingNamespace(t *testing.T) {
	t.Parallel()
	a := newApp(t)
	for _, query := range []string{"namespace=", "signal=step&namespace="} {
		m := named(message(a.to("Process", query+missingNamespace)), "order-7")
		err := a.fails(t, m, outflow.ClassPermanent, "the destination does not exist", missingNamespace,
			"create the namespace")
		assert.ErrorIs(t, err, outflow.ErrNoDestination)
	}
}

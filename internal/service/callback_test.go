package service

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"
	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	"go.temporal.io/api/enums/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/worker"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/activities"
	"github.com/outflowhq/outflow/internal/callbacks"
	"github.com/outflowhq/outflow/internal/config"
	"github.com/outflowhq/outflow/operator"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/outboxdb"
	"github.com/outflowhq/outflow/workflows"
)

// receiver is who takes callbacks; it answers each as a test says.
type receiver struct {
	mu        sync.Mutex
	answer    func(id string, n int) error
	ids       []string // of every attempt
	took      []string // of those that were taken
	callbacks []string // their destinations and bodies
}

func (r *receiver) SendCallback(_ context.Context, destination, id, _ string, body []byte) error {
	r.mu.Lock()
	r.ids = append(r.ids, id)
	n, answer := len(r.ids), r.answer
	r.mu.Unlock()
	if answer != nil {
		if err := answer(id, n); err != nil {
			return err
		}
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.took = append(r.took, id)
	r.callbacks = append(r.callbacks, destination+" "+string(body))
	return nil
}

func (r *receiver) set(answer func(id string, n int) error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.answer = answer
}

func (r *receiver) seen() (attempts, took []string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]string{}, r.ids...), append([]string{}, r.took...)
}

// enqueueCallback commits a message whose producer wants a callback.
func (w *world) enqueueCallback(to string) uuid.UUID {
	w.Helper()
	return w.enqueueMessage(outflow.Message{Destination: "sqs://orders", Type: "order-placed", Payload: []byte("{}"),
		Callback: to})
}

func (w *world) enqueueMessage(m outflow.Message) uuid.UUID {
	w.Helper()
	tx, err := w.pool.Begin(w.Context())
	require.NoError(w, err)
	ids, err := outboxdb.Enqueue(w.Context(), tx, m)
	require.NoError(w, err)
	require.NoError(w, tx.Commit(w.Context()))
	return ids[0]
}

const done = "https://shop.example/done"

// callback is what the tests look at of a message's callback.
type callback struct {
	State    string
	Attempts int
	Error    string
}

func (w *world) callback(id uuid.UUID) callback {
	w.Helper()
	var c callback
	require.NoError(w, w.pool.QueryRow(w.Context(), `
		SELECT coalesce(callback_state, ''), callback_attempts, coalesce(callback_error, '')
		  FROM outbox.messages WHERE id = $1`, id).Scan(&c.State, &c.Attempts, &c.Error))
	return c
}

func (w *world) untilCallback(id uuid.UUID, condition func(callback) bool) (c callback) {
	w.Helper()
	w.eventually(func() bool { c = w.callback(id); return condition(c) },
		func() string { return fmt.Sprintf("%+v, %+v", c, w.row(id)) })
	return c
}

func (w *world) untilTold(id uuid.UUID) callback {
	w.Helper()
	return w.untilCallback(id, func(c callback) bool { return c.State == "sent" })
}

func (w *world) callbackID(id uuid.UUID, generation int) string {
	return workflows.CallbackInput{Outbox: w.opts.Outbox, MessageID: id, Generation: generation}.ID()
}

// callbackClosed waits for the end of a callback's newest run.
func (w *world) callbackClosed(id uuid.UUID, generation int) enums.WorkflowExecutionStatus {
	w.Helper()
	workflowID := w.callbackID(id, generation)
	_ = w.client.GetWorkflow(w.Context(), workflowID, "").Get(w.Context(), nil)
	w.historyOf(workflowID, "", "-callback")
	return w.describe(workflowID).GetWorkflowExecutionInfo().GetStatus()
}

func (w *world) describe(workflowID string) *workflowservice.DescribeWorkflowExecutionResponse {
	w.Helper()
	described, err := w.client.DescribeWorkflowExecution(w.Context(), workflowID, "")
	require.NoError(w, err)
	return described
}

// A receiver that is down: the delivery has long ended, its callback goes on,
// where people see it, and the message is sent once.
func TestCallbackGoesOnByItself(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.receiver.set(func(_ string, n int) error {
		if n < 3 {
			return fmt.Errorf("failure %d", n)
		}
		return nil
	})
	w.work()
	w.scan()
	id := w.enqueueCallback(done)
	seen := map[string]bool{}
	visible := false
	c := w.untilCallback(id, func(c callback) bool {
		seen[c.Error] = true
		if c.State == "due" && c.Attempts > 0 {
			for _, a := range w.describe(w.callbackID(id, 1)).GetPendingActivities() {
				visible = visible || a.GetActivityId() == workflows.ActivityIDCallback && a.GetAttempt() > 1
			}
		}
		return c.State == "sent"
	})
	assert.Equal(t, callback{State: "sent", Attempts: 3}, c)
	assert.True(t, seen["failure 1"] && seen["failure 2"], "%v", seen)
	assert.True(t, visible, "its attempts are in Temporal")
	attempts, took := w.receiver.seen()
	own := id.String() + "_1_delivered"
	assert.Equal(t, []string{own, own, own}, attempts)
	assert.Equal(t, []string{own}, took)
	assert.Equal(t, 1, w.broker.count())

	status, history := w.closed(id)
	assert.Equal(t, enums.WORKFLOW_EXECUTION_STATUS_COMPLETED, status)
	assert.Equal(t, 1, count(history, enums.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_STARTED))
	assert.Zero(t, count(history, enums.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_COMPLETED),
		"the delivery did not wait for it")
	assert.Equal(t, enums.WORKFLOW_EXECUTION_STATUS_COMPLETED, w.callbackClosed(id, 1))
	assert.Equal(t, w.callbackID(id, 1), fmt.Sprintf("%s/callback/1", w.workflowID(id)))
}

// A message that asks for no callback itself: an operator's rule has its end reported.
func TestCallbackByRule(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.work()
	w.scan()
	o, ada := operator.New(w.pool, nil, w.opts.Outbox), operator.Actor{Who: "ada"}
	_, err := o.SetCallbackRule(t.Context(),
		operator.CallbackRule{Destination: "sqs://orders", Callback: done, WithPayload: true}, ada)
	require.NoError(t, err)
	id := w.enqueueMessage(outflow.Message{Destination: "sqs://orders", Type: "order-placed",
		Payload: []byte(`{"order":7}`)})
	silent := w.enqueueMessage(outflow.Message{Destination: "sqs://orders", Type: "order-placed", Payload: []byte("{}"),
		Callback: outflow.NoCallback})
	assert.Equal(t, callback{State: "sent", Attempts: 1}, w.untilTold(id))
	w.until(silent, func(r row) bool { return r.State == outflow.Delivered })
	assert.Equal(t, callback{}, w.callback(silent))
	_, took := w.receiver.seen()
	assert.Equal(t, []string{id.String() + "_1_delivered"}, took)
	require.Len(t, w.receiver.callbacks, 1)
	assert.Contains(t, w.receiver.callbacks[0], done+` {"messageId":"`+id.String()+`"`)
	assert.Contains(t, w.receiver.callbacks[0], `"contentType":"application/json","payload":"{\"order\":7}"}`)
}

// A dead message whose callback can't be sent is retried all the same, and the
// producer then learns of its second end.
func TestRetryDoesNotWaitForTheCallback(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.broker.set(func(int) (string, error) { return "", outflow.Permanent(errors.New("no such queue")) })
	first := "_1_dead"
	w.receiver.set(func(id string, _ int) error {
		if id[36:] == first {
			return errors.New("503")
		}
		return nil
	})
	w.work()
	w.scan()
	id := w.enqueueCallback(done)
	w.untilCallback(id, func(c callback) bool { return c.State == "due" && c.Attempts > 1 })
	status, _ := w.closed(id)
	assert.Equal(t, enums.WORKFLOW_EXECUTION_STATUS_FAILED, status)

	w.broker.set(nil)
	_, err := operator.New(w.pool, nil, w.opts.Outbox).Retry(t.Context(), []uuid.UUID{id}, operator.Actor{Who: "ada"})
	require.NoError(t, err)
	w.until(id, func(r row) bool { return r.State == outflow.Delivered })
	assert.Equal(t, callback{State: "sent", Attempts: 1}, w.untilTold(id))
	_, took := w.receiver.seen()
	assert.Equal(t, []string{id.String() + "_2_delivered"}, took)
	assert.Equal(t, enums.WORKFLOW_EXECUTION_STATUS_COMPLETED, w.callbackClosed(id, 1),
		"it finds no callback that is due any more")
	assert.Equal(t, callback{State: "sent", Attempts: 1}, w.callback(id))
}

// Cancelled before any run: there is nobody but the sweep.
func TestCallbackWithoutARun(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.work()
	id := w.enqueueCallback(done)
	_, err := w.store.RequestCancel(t.Context(), []uuid.UUID{id}, "ada", "")
	require.NoError(t, err)
	require.Equal(t, outflow.Cancelled, w.row(id).State)
	w.scan() // of a table with nothing pending
	w.untilTold(id)
	found := w.describe(w.callbackID(id, 1)).GetWorkflowExecutionInfo().GetSearchAttributes().GetIndexedFields()
	assert.Equal(t, `"sqs://orders"`, string(found["OutflowDestination"].GetData()))
	assert.Equal(t, `"order-placed"`, string(found["OutflowType"].GetData()))
	_, took := w.receiver.seen()
	assert.Equal(t, []string{id.String() + "_1_cancelled"}, took)
	assert.Zero(t, w.broker.count())
	assert.Equal(t, enums.WORKFLOW_EXECUTION_STATUS_COMPLETED, w.callbackClosed(id, 1))
}

// Its run was lost with its whole namespace, in the middle: the one that there is
// now has never heard of the message.
func TestCallbackOfALostNamespace(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	id := w.enqueueCallback(done)
	ref := outbox.Ref{ID: id, Generation: 1}
	_, err := w.store.Finish(t.Context(), outbox.Ending{Ref: ref, State: outflow.Delivered, BrokerMessageID: "b",
		Attempts: 1})
	require.NoError(t, err)
	_, due, err := w.store.BeginCallback(t.Context(), ref, 0)
	require.NoError(t, err)
	require.True(t, due)
	w.work()
	w.scan()
	assert.Equal(t, callback{State: "sent", Attempts: 2}, w.untilTold(id))
	_, took := w.receiver.seen()
	assert.Equal(t, []string{id.String() + "_1_delivered"}, took)
	assert.Zero(t, w.broker.count(), "the message itself is not sent again")
}

// A cancel that a run carries out: its context is gone, the callback is not.
func TestCallbackOfACancelledRun(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.broker.set(func(int) (string, error) { return "", errDown })
	w.work()
	w.scan()
	id := w.enqueueCallback(done)
	w.until(id, func(r row) bool { return r.Retrying })
	require.NoError(t, w.client.CancelWorkflow(t.Context(), w.workflowID(id), ""))
	w.untilTold(id)
	status, history := w.closed(id)
	assert.Equal(t, enums.WORKFLOW_EXECUTION_STATUS_CANCELED, status)
	assert.Equal(t, 1, count(history, enums.EVENT_TYPE_CHILD_WORKFLOW_EXECUTION_STARTED))
	_, took := w.receiver.seen()
	assert.Equal(t, []string{id.String() + "_1_cancelled"}, took)
}

// The callback's run is lost, with its namespace or by somebody's hand. The row
// knows, and another starts; an open run is left as it is.
func TestCallbackOutlivesItsRun(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.receiver.set(func(string, int) error {
		return &outflow.Failure{Class: outflow.ClassUnavailable, RetryAfter: time.Hour, Err: errors.New("503")}
	})
	w.work()
	w.scan()
	id := w.enqueueCallback(done)
	due := func() {
		_, err := w.pool.Exec(t.Context(), `UPDATE outbox.messages SET callback_due_at = now() WHERE id = $1`, id)
		require.NoError(t, err)
	}
	leased := func() (ahead bool) {
		require.NoError(t, w.pool.QueryRow(t.Context(),
			`SELECT callback_due_at > now() + interval '30 seconds' FROM outbox.messages WHERE id = $1`, id).Scan(&ahead))
		return ahead
	}
	w.untilCallback(id, func(c callback) bool { return c.Error == "503" })
	first := w.describe(w.callbackID(id, 1)).GetWorkflowExecutionInfo().GetExecution().GetRunId()
	due()
	w.eventually(leased, func() string { return "no sweep came" })
	assert.Equal(t, first, w.describe(w.callbackID(id, 1)).GetWorkflowExecutionInfo().GetExecution().GetRunId(),
		"it is alive")
	assert.Equal(t, callback{State: "due", Attempts: 1, Error: "503"}, w.callback(id))

	require.NoError(t, w.client.TerminateWorkflow(t.Context(), w.callbackID(id, 1), "", "a test"))
	w.receiver.set(nil)
	due()
	assert.Equal(t, callback{State: "sent", Attempts: 2}, w.untilTold(id))
	assert.Equal(t, enums.WORKFLOW_EXECUTION_STATUS_COMPLETED, w.callbackClosed(id, 1))
	assert.Equal(t, 1, w.broker.count())
}

// One that fails for good fails its run, and an operator has it tried again.
func TestFailedCallbackIsRetriedByHand(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	w.receiver.set(func(string, int) error { return outflow.Permanent(errors.New("410 gone")) })
	w.work()
	w.scan()
	id := w.enqueueCallback(done)
	c := w.untilCallback(id, func(c callback) bool { return c.State == "failed" })
	assert.Equal(t, callback{State: "failed", Attempts: 1, Error: "410 gone"}, c)
	assert.Equal(t, enums.WORKFLOW_EXECUTION_STATUS_FAILED, w.callbackClosed(id, 1))
	query := fmt.Sprintf("WorkflowType = 'Callback' AND ExecutionStatus = 'Failed' AND OutflowDestination ="+
		" 'sqs://orders' AND WorkflowId = '%s'", w.callbackID(id, 1))
	w.eventually(func() bool {
		found, err := w.client.CountWorkflow(t.Context(), &workflowservice.CountWorkflowExecutionsRequest{Query: query})
		require.NoError(t, err)
		return found.GetCount() == 1
	}, func() string { return "the Web UI's filters do not find it" })
	status, _ := w.closed(id)
	assert.Equal(t, enums.WORKFLOW_EXECUTION_STATUS_COMPLETED, status)

	w.receiver.set(nil)
	_, err := operator.New(w.pool, nil, w.opts.Outbox).RetryCallbacks(t.Context(), []uuid.UUID{id},
		operator.Actor{Who: "ada"})
	require.NoError(t, err)
	assert.Equal(t, callback{State: "sent", Attempts: 2}, w.untilTold(id))
}

// Only https has a sender of its own; without one nothing is sent, and it is said.
func TestCallbacksBySchemes(t *testing.T) {
	others, https := &receiver{}, &receiver{}
	both := callbacks.Sender{HTTPS: https, Others: others}
	require.NoError(t, both.SendCallback(t.Context(), "https://shop.example/done", "1", "", nil))
	require.NoError(t, both.SendCallback(t.Context(), "sqs://replies", "2", "", nil))
	require.NoError(t, both.SendCallback(t.Context(), "http://localhost:8080/done", "4", "", nil))
	_, took := https.seen()
	assert.Equal(t, []string{"1", "4"}, took)
	_, took = others.seen()
	assert.Equal(t, []string{"2"}, took)
	for _, to := range []string{"http://localhost:8080/done", "https://shop.example/done"} {
		err := callbacks.Sender{Others: others}.SendCallback(t.Context(), to, "3", "", nil)
		require.ErrorIs(t, err, callbacks.ErrNoHTTPS)
		assert.True(t, outflow.IsPermanent(err))
	}
}

// Over https a callback is a webhook, signed for its host.
func TestCallbackIsSigned(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	verifier, err := standardwebhooks.NewWebhook(webhookSecret)
	require.NoError(t, err)
	type request struct{ id, body string }
	requests := make(chan request, 10)
	busy := true
	server := httptest.NewTLSServer(http.HandlerFunc(func(rw http.ResponseWriter, req *http.Request) {
		body, err := io.ReadAll(req.Body)
		assert.NoError(t, err)
		assert.NoError(t, verifier.Verify(body, req.Header))
		requests <- request{req.Header.Get("webhook-id"), string(body)}
		if busy { // one request after the other
			busy = false
			rw.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	t.Cleanup(server.Close)
	run := worker.New(w.client, w.opts.TaskQueue, workerOptions(config.Config{}, make(chan error, 1)))
	sender := callbacks.New(publishers(webhookConfig(t, server)), w.broker)
	workflows.Register(run, activities.New(w.store, w.broker, activities.WithCallbacks(sender)))
	require.NoError(t, run.Start())
	t.Cleanup(run.Stop)
	w.scan()
	id := w.enqueueCallback(server.URL + "/done?token=t")
	assert.Equal(t, callback{State: "sent", Attempts: 2}, w.untilTold(id))
	first, second := <-requests, <-requests
	assert.Equal(t, id.String()+"_1_delivered", first.id)
	assert.Contains(t, first.body, `"messageId":"`+id.String()+`","type":"order-placed","destination":"sqs://orders","state":"delivered"`)
	assert.Equal(t, first, second)
	assert.Equal(t, 1, w.broker.count())
}

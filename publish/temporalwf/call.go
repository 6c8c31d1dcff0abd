package temporalwf

import (
	"context"
	"errors"
	"fmt"
	"time"

	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	taskqueuepb "go.temporal.io/api/taskqueue/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"

	"github.com/outflowhq/outflow"
)

// reconnectTime is how long a call waits for a connection that was lost before it.
const reconnectTime = time.Second

// call is one message's exchange with Temporal.
type call struct {
	ctx     context.Context
	service workflowservice.WorkflowServiceClient
	doing   string
	// cutShort says that ctx ends before the publisher's own timeout.
	cutShort bool
}

// start starts the workflow.
func (c *call) start(r *request) (runID string, err error) {
	conflict := enumspb.WORKFLOW_ID_CONFLICT_POLICY_FAIL
	if r.useExisting {
		conflict = enumspb.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING
	}
	var answer *workflowservice.StartWorkflowExecutionResponse
	err = c.send(func(ctx context.Context, option grpc.CallOption) (err error) {
		answer, err = c.service.StartWorkflowExecution(ctx, &workflowservice.StartWorkflowExecutionRequest{
			Namespace: r.namespace, WorkflowId: r.workflowID, RequestId: r.messageID, Identity: r.identity,
			WorkflowType: &commonpb.WorkflowType{Name: r.workflowType},
			TaskQueue:    &taskqueuepb.TaskQueue{Name: r.taskQueue, Kind: enumspb.TASK_QUEUE_KIND_NORMAL},
			Input:        r.payload, Header: r.header, Memo: r.memo,
			// An ID is used once: a late copy must not start a run beside the one that has ended.
			WorkflowIdReusePolicy:    enumspb.WORKFLOW_ID_REUSE_POLICY_REJECT_DUPLICATE,
			WorkflowIdConflictPolicy: conflict,
		}, option)
		return err
	})
	var taken *serviceerror.WorkflowExecutionAlreadyStarted
	switch {
	case errors.As(err, &taken):
		return c.resolve(r, taken)
	case err != nil:
		return "", err
	case !answer.GetStarted():
		return c.resolve(r, &serviceerror.WorkflowExecutionAlreadyStarted{RunId: answer.GetRunId()})
	}
	return answer.GetRunId(), nil
}

// signal signals the workflow, or starts it with the signal as its first event. A run that is
// started so has no input: the payload is the signal's.
func (c *call) signal(r *request) (runID string, err error) {
	if err := c.checkSignalled(r); err != nil {
		return "", err
	}
	var answer *workflowservice.SignalWithStartWorkflowExecutionResponse
	err = c.send(func(ctx context.Context, option grpc.CallOption) (err error) {
		answer, err = c.service.SignalWithStartWorkflowExecution(ctx,
			&workflowservice.SignalWithStartWorkflowExecutionRequest{
				Namespace: r.namespace, WorkflowId: r.workflowID, RequestId: r.messageID, Identity: r.identity,
				WorkflowType: &commonpb.WorkflowType{Name: r.workflowType},
				TaskQueue:    &taskqueuepb.TaskQueue{Name: r.taskQueue, Kind: enumspb.TASK_QUEUE_KIND_NORMAL},
				SignalName:   r.signal, SignalInput: r.payload, Header: r.header, Memo: r.memo,
				WorkflowIdReusePolicy:    enumspb.WORKFLOW_ID_REUSE_POLICY_REJECT_DUPLICATE,
				WorkflowIdConflictPolicy: enumspb.WORKFLOW_ID_CONFLICT_POLICY_USE_EXISTING,
			}, option)
		return err
	})
	var closed *serviceerror.WorkflowExecutionAlreadyStarted
	switch {
	case errors.As(err, &closed):
		return c.resolve(r, closed)
	case err != nil:
		return "", err
	}
	return answer.GetRunId(), nil
}

// send makes a request that hands the message over, and classifies its error. The error that a
// workflow ID is taken is returned as it is.
func (c *call) send(request func(ctx context.Context, option grpc.CallOption) error) error {
	sent, err := c.try(request)
	var taken *serviceerror.WorkflowExecutionAlreadyStarted
	if err == nil || errors.As(err, &taken) {
		return err
	}
	return failureOf(c.doing, err, sent, c.cutShort)
}

// ask makes a request that changes nothing, and classifies its error. NotFound is returned as it
// is. A late answer is a slow server's, as in send; nothing of the message was sent.
func (c *call) ask(request func(ctx context.Context, option grpc.CallOption) error) error {
	sent, err := c.try(request)
	if err == nil || lost(err) {
		return err
	}
	f := failureOf(c.doing, err, false, false)
	f.CutShort = c.cutShort && sent && serviceerror.ToStatus(err).Code() == codes.DeadlineExceeded
	return f
}

// try makes a request, once more where nothing was sent because a connection was lost before.
func (c *call) try(request func(context.Context, grpc.CallOption) error) (sent bool, err error) {
	var to peer.Peer // is set where the request got a connection
	err = request(c.ctx, grpc.Peer(&to))
	var unavailable *serviceerror.Unavailable
	if errors.As(err, &unavailable) && to.Addr == nil && c.reconnected() {
		err = request(c.ctx, grpc.Peer(&to))
	}
	return to.Addr != nil, err
}

// reconnected waits for a connection, by a request that changes nothing.
func (c *call) reconnected() bool {
	ctx, cancel := context.WithTimeout(c.ctx, reconnectTime)
	defer cancel()
	_, err := c.service.GetSystemInfo(ctx, &workflowservice.GetSystemInfoRequest{}, grpc.WaitForReady(true))
	return err == nil
}

// lost reports whether err says that a run is not there (any more).
func lost(err error) bool {
	var missing *serviceerror.NotFound
	return errors.As(err, &missing)
}

// refused is an answer about this message alone.
func refused(doing, format string, args ...any) error {
	return &outflow.Failure{
		Class: outflow.ClassPermanent, Answered: true,
		Err: fmt.Errorf("%s: %w", doing, fmt.Errorf(format, args...)),
	}
}

package temporalwf_test

import (
	"context"
	"net"
	"testing"
	"time"

	"github.com/stretchr/testify/assert"
	"github.com/stretchr/testify/require"
	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/publish/temporalwf"
)

// answers is a Temporal that gives a test's answers.
type answers struct {
	workflowservice.UnimplementedWorkflowServiceServer
	start    func(context.Context) (*workflowservice.StartWorkflowExecutionResponse, error)
	signal   func() (*workflowservice.SignalWithStartWorkflowExecutionResponse, error)
	describe func() (*workflowservice.DescribeWorkflowExecutionResponse, error)
}

func (a *answers) StartWorkflowExecution(
	ctx context.Context, _ *workflowservice.StartWorkflowExecutionRequest,
) (*workflowservice.StartWorkflowExecutionResponse, error) {
	return a.start(ctx)
}

func (a *answers) SignalWithStartWorkflowExecution(
	context.Context, *workflowservice.SignalWithStartWorkflowExecutionRequest,
) (*workflowservice.SignalWithStartWorkflowExecutionResponse, error) {
	return a.signal()
}

func (a *answers) DescribeWorkflowExecution(
	context.Context, *workflowservice.DescribeWorkflowExecutionRequest,
) (*workflowservice.DescribeWorkflowExecutionResponse, error) {
	return a.describe()
}

func (a *answers) GetSystemInfo(
	context.Context, *workflowservice.GetSystemInfoRequest,
) (*workflowservice.GetSystemInfoResponse, error) {
	return &workflowservice.GetSystemInfoResponse{}, nil
}

// failing answers every start with an error.
func failing(err error) *answers {
	return &answers{start: func(context.Context) (*workflowservice.StartWorkflowExecutionResponse, error) {
		return nil, serviceerror.ToStatus(err).Err()
	}}
}

// fake is an app at a Temporal that gives a test's answers.
func fake(t *testing.T, a *answers) *app { return at(t, serve(t, a)) }

// at is an app at an address.
func at(t *testing.T, address string) *app { return within(t, address, 4*time.Second) }

// within is an app whose publisher has a timeout.
func within(t *testing.T, address string, timeout time.Duration) *app {
	t.Helper()
	p := temporalwf.New(temporalwf.Options{
		Client:  client.Options{HostPort: address},
		Targets: parsed(t, "default/orders/Process", missingNamespace+"/orders/Process"), Timeout: timeout,
	})
	t.Cleanup(p.Close)
	return &app{queue: "orders", publisher: p}
}

// Every answer of Temporal's has a class, and says its code. What a server says is the
// destination's answer; what a connection says is not.
func TestFailureClasses(t *testing.T) {
	t.Parallel()
	throttle := func(cause enumspb.ResourceExhaustedCause) error {
		return serviceerror.NewResourceExhausted(cause, "namespace rate limit exceeded")
	}
	for name, c := range map[string]struct {
		err      error
		class    outflow.Class
		answered bool
		says     string
	}{
		"rate limit": {throttle(enumspb.RESOURCE_EXHAUSTED_CAUSE_RPS_LIMIT), outflow.ClassUnavailable, true,
			"ResourceExhausted: namespace rate limit exceeded (it is sent again with the same request ID"},
		"overload": {throttle(enumspb.RESOURCE_EXHAUSTED_CAUSE_SYSTEM_OVERLOADED), outflow.ClassUnavailable, true,
			"ResourceExhausted"},
		"one busy workflow": {throttle(enumspb.RESOURCE_EXHAUSTED_CAUSE_BUSY_WORKFLOW), outflow.ClassRetryable, true,
			"ResourceExhausted"},
		"too many bytes": {status.Error(codes.ResourceExhausted, "grpc: received message larger than max (5 vs. 4)"),
			outflow.ClassPermanent, true, "enqueue a reference to the content"},
		"a blob": {serviceerror.NewInvalidArgument("Blob data size exceeds limit."), outflow.ClassPermanent, true,
			"enqueue a reference to the content"},
		"invalid": {serviceerror.NewInvalidArgument("TaskQueue exceeds length limit."), outflow.ClassPermanent, true,
			"InvalidArgument: TaskQueue exceeds length limit. (correct the message"},
		"signals": {serviceerror.NewInvalidArgument("exceeded workflow execution limit for signal events"),
			outflow.ClassPermanent, true, "have it continue as new, then retry the message"},
		"permission": {serviceerror.NewPermissionDenied("Request unauthorized.", ""), outflow.ClassUnavailable, true,
			"PermissionDenied: Request unauthorized. (check the API key or certificate"},
		"identity": {status.Error(codes.Unauthenticated, "invalid key"), outflow.ClassUnavailable, true,
			"check the API key or certificate"},
		"internal": {serviceerror.NewInternal("shard"), outflow.ClassUnavailable, true, "Internal: shard"},
		"unknown":  {status.Error(codes.Unknown, "what"), outflow.ClassUnavailable, true, "Unknown: what"},
		"unavailable": {serviceerror.NewUnavailable("shutting down"), outflow.ClassUnavailable, false,
			"Temporal may have it"},
		"its deadline": {serviceerror.NewDeadlineExceeded("slow"), outflow.ClassUnavailable, false,
			"Temporal may have it"},
		"its cancel": {serviceerror.NewCanceled("gone"), outflow.ClassUnavailable, false, "Temporal may have it"},
		"failover": {serviceerror.NewNamespaceNotActive("default", "a", "b"), outflow.ClassUnavailable, true,
			"FailedPrecondition"},
		"namespace": {serviceerror.NewNamespaceNotFound("default"), outflow.ClassPermanent, true,
			"create the namespace"},
		"being deleted": {serviceerror.NewNamespaceInvalidState("default", enumspb.NAMESPACE_STATE_DELETED, nil),
			outflow.ClassPermanent, true, "create the namespace"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := fake(t, failing(c.err))
			err := a.fails(t, message(a.to("Process")), c.class, "starting temporal://orders/Process: ", c.says)
			var f *outflow.Failure
			require.ErrorAs(t, err, &f)
			assert.Equal(t, c.answered, f.Answered)
			assert.False(t, f.CutShort)
			assert.Zero(t, f.RetryAfter)
		})
	}
}

// On the fast path an answer after 2.5 s makes the destination a slow one, and no failing one. A
// durable attempt has the publisher's whole timeout.
func TestALateAnswer(t *testing.T) {
	t.Parallel()
	late := outflow.FastPathCallTime + time.Second
	a := within(t, serve(t, &answers{start: func(context.Context) (*workflowservice.StartWorkflowExecutionResponse,
		error) {
		time.Sleep(late)
		return &workflowservice.StartWorkflowExecutionResponse{RunId: "late", Started: true}, nil
	}, describe: func() (*workflowservice.DescribeWorkflowExecutionResponse, error) {
		time.Sleep(late)
		return nil, serviceerror.ToStatus(serviceerror.NewNotFound("no such workflow")).Err()
	}}), temporalwf.DefaultTimeout)
	ctx, cancel := context.WithTimeout(t.Context(), outflow.FastPathCallTime+200*time.Millisecond)
	defer cancel()
	_, err := a.publisher.Publish(ctx, message(a.to("Process")))
	failedAs(t, err, outflow.ClassUnavailable, "DeadlineExceeded", "Temporal may have it")
	var f *outflow.Failure
	require.ErrorAs(t, err, &f)
	assert.True(t, f.CutShort)

	looking, stop := context.WithTimeout(t.Context(), outflow.FastPathCallTime+200*time.Millisecond)
	defer stop()
	_, err = a.publisher.Publish(looking, named(message(a.to("Process")+"?signal=pay"), "order-7"))
	failedAs(t, err, outflow.ClassUnavailable, "DeadlineExceeded", "nothing was sent")
	require.ErrorAs(t, err, &f)
	assert.True(t, f.CutShort, "the look before a signal is late, too: the server is slow")
	assert.Equal(t, "late", a.publish(t, message(a.to("Process"))))
}

// What refuses connections and what never answers them has sent nothing.
func TestNoConnection(t *testing.T) {
	t.Parallel()
	silent, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	t.Cleanup(func() { _ = silent.Close() })
	for name, address := range map[string]string{"refused": "127.0.0.1:1", "silent": silent.Addr().String()} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a := at(t, address)
			err := a.fails(t, message(a.to("Process")), outflow.ClassUnavailable, "nothing was sent; it is tried again")
			var f *outflow.Failure
			require.ErrorAs(t, err, &f)
			assert.False(t, f.CutShort)
			assert.False(t, f.Answered)
		})
	}
}

// Where a workflow ID is taken, the message ends dead only once Temporal has said by what.
func TestWhoTookAWorkflowID(t *testing.T) {
	t.Parallel()
	m := named(message("temporal://orders/Process"), "order-7")
	run := aRun("Process", enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING)
	for name, c := range map[string]struct {
		describe error
		class    outflow.Class
		says     string
	}{
		"deleted meanwhile": {serviceerror.NewNotFound("workflow not found"), outflow.ClassRetryable,
			"was deleted meanwhile"},
		"no answer": {serviceerror.NewUnavailable("shutting down"), outflow.ClassUnavailable,
			"nothing was sent"},
		"no permission": {serviceerror.NewPermissionDenied("Request unauthorized.", ""), outflow.ClassUnavailable,
			"PermissionDenied"},
	} {
		t.Run(name, func(t *testing.T) {
			temporal := taken(run)
			temporal.describe = func() (*workflowservice.DescribeWorkflowExecutionResponse, error) {
				return nil, serviceerror.ToStatus(c.describe).Err()
			}
			fake(t, temporal).fails(t, m, c.class, c.says)
		})
	}
	t.Run("this message", func(t *testing.T) {
		ours := &serviceerror.WorkflowExecutionAlreadyStarted{RunId: "run-1", StartRequestId: m.ID.String()}
		assert.Equal(t, "run-1", fake(t, failing(ours)).publish(t, m))
	})
	t.Run("this message, in a run before that is deleted", func(t *testing.T) {
		temporal := taken(aRun("Process", enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING))
		described := temporal.describe
		temporal.describe = func() (*workflowservice.DescribeWorkflowExecutionResponse, error) {
			temporal.describe = func() (*workflowservice.DescribeWorkflowExecutionResponse, error) {
				return nil, serviceerror.ToStatus(serviceerror.NewNotFound("workflow not found")).Err()
			}
			answer, err := described()
			answer.WorkflowExecutionInfo.FirstRunId = "run-1"
			answer.WorkflowExecutionInfo.Memo = &commonpb.Memo{Fields: map[string]*commonpb.Payload{
				temporalwf.HeaderMessageID: {Data: []byte(`"` + m.ID.String() + `"`)},
			}}
			return answer, err
		}
		assert.Equal(t, "01a22a72-b7c3-7e74-bfc6-6c6f8bf72558", fake(t, temporal).publish(t, m))
	})
}

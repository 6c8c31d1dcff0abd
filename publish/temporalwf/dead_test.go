package temporalwf_test

import (
	"context"
	"testing"

	"github.com/google/uuid"
	"github.com/stretchr/testify/require"
	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/golden"
	"github.com/outflowhq/outflow/internal/text"
)

// taken is a Temporal whose workflow order-7 has a run of another request.
func taken(run *workflowpb.WorkflowExecutionInfo) *answers {
	run.Execution = &commonpb.WorkflowExecution{WorkflowId: "order-7", RunId: "01a22a72-b7c3-7e74-bfc6-6c6f8bf72558"}
	err := serviceerror.ToStatus(&serviceerror.WorkflowExecutionAlreadyStarted{
		Message: "Workflow execution is already running.", RunId: run.Execution.RunId, StartRequestId: uuid.NewString(),
	}).Err()
	return &answers{
		start:  func(context.Context) (*workflowservice.StartWorkflowExecutionResponse, error) { return nil, err },
		signal: func() (*workflowservice.SignalWithStartWorkflowExecutionResponse, error) { return nil, err },
		describe: func() (*workflowservice.DescribeWorkflowExecutionResponse, error) {
			return &workflowservice.DescribeWorkflowExecutionResponse{WorkflowExecutionInfo: run}, nil
		},
	}
}

func aRun(workflowType string, status enumspb.WorkflowExecutionStatus) *workflowpb.WorkflowExecutionInfo {
	return &workflowpb.WorkflowExecutionInfo{
		Type: &commonpb.WorkflowType{Name: workflowType}, TaskQueue: "orders", Status: status,
	}
}

// TestWhyMessagesEndDead pins, for each cause, the text that an operator reads.
func TestWhyMessagesEndDead(t *testing.T) {
	const destination = "temporal://orders/Process"
	to := func(destination string) outflow.Message {
		return outflow.Message{
			ID:          uuid.MustParse("0190a5b0-7c3e-7d50-9a2f-000000000001"),
			Destination: destination, Type: "order-placed", Payload: []byte("{}"),
		}
	}
	owned := to(destination)
	owned.Headers = map[string]string{"_tracer-data": "x"}
	order7 := func(query string) outflow.Message { return named(to(destination+query), "order-7") }
	text1 := to(destination)
	text1.Payload = []byte(marker)
	running, completed := enumspb.WORKFLOW_EXECUTION_STATUS_RUNNING, enumspb.WORKFLOW_EXECUTION_STATUS_COMPLETED
	var deaths []golden.Death
	for _, c := range []struct {
		cause    string
		message  outflow.Message
		temporal *answers
	}{
		{"no workflow type", to("temporal://orders"), nil},
		{"an unknown parameter", to(destination + "?cron=daily"), nil},
		{"a payload of application/json that is none", text1, nil},
		{"a header of Temporal's own", owned, nil},
		{"a workflow ID that Temporal can't store", named(to(destination), "bestellung-ä"), nil},
		{"a workflow ID of Outflow's own runs", named(to(destination), "outbox/7"), nil},
		{"a signal without a workflow ID", to(destination + "?signal=pay"), nil},
		{"a workflow of Temporal's own", to("temporal://orders/Process?namespace=temporal-system"), nil},
		{"a task queue of Outflow's own", to("temporal://outflow-outbox/Deliver"), nil},
		{"its workflow ID runs, started by another request", order7(""), taken(aRun("Process", running))},
		{"its workflow ID was used before", order7(""), taken(aRun("Process", completed))},
		{"its workflow ID is another workflow's", order7("?existing=use"), taken(aRun("Refund", running))},
		{"a signal to a workflow of another type", order7("?signal=pay"), taken(aRun("Refund", running))},
		{"a signal to a workflow that has ended", order7("?signal=pay"), taken(aRun("Process", completed))},
		{"a run with as many signals as Temporal takes", to(destination),
			failing(serviceerror.NewInvalidArgument("exceeded workflow execution limit for signal events"))},
		{"unknown namespace", to(destination + "?namespace=" + missingNamespace),
			failing(serviceerror.NewNamespaceNotFound(missingNamespace))},
		{"too large for Temporal", to(destination),
			failing(serviceerror.NewInvalidArgument("Blob data size exceeds limit."))},
		{"too large for a request", to(destination),
			failing(status.Error(codes.ResourceExhausted,
				"grpc: received message larger than max (5242987 vs. 4194304)"))},
		{"Temporal refuses it", to(destination),
			failing(serviceerror.NewInvalidArgument("task queue name cannot start with reserved prefix /_sys/"))},
	} {
		a := at(t, "127.0.0.1:1")
		if c.temporal != nil {
			a = fake(t, c.temporal)
		}
		_, err := a.publisher.Publish(t.Context(), c.message)
		require.True(t, outflow.IsPermanent(err), "%s: %v", c.cause, err)
		require.NotContains(t, err.Error(), marker)
		deaths = append(deaths, golden.Death{Cause: c.cause, LastError: text.Clean(err.Error())})
	}
	golden.Deaths(t, "publish/temporalwf", deaths, deaths)
}

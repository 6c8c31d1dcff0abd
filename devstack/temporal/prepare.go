package temporal

import (
	"context"
	"errors"
	"fmt"
	"time"

	commandpb "go.temporal.io/api/command/v1"
	commonpb "go.temporal.io/api/common/v1"
	enumspb "go.temporal.io/api/enums/v1"
	"go.temporal.io/api/operatorservice/v1"
	"go.temporal.io/api/serviceerror"
	taskqueuepb "go.temporal.io/api/taskqueue/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/types/known/durationpb"
)

// Namespace is the one that devstack prepares.
const Namespace = "default"

// Attributes are Outflow's search attributes, all of type Keyword.
var Attributes = []string{"OutflowDestination", "OutflowType", "OutflowState"}

const (
	retention      = 24 * time.Hour
	prepareTimeout = time.Minute
	retryEvery     = 25 * time.Millisecond
	callTimeout    = 5 * time.Second
	cleanTimeout   = 2 * time.Second
	probe          = "devstack-probe"
)

// Prepare registers the namespace and the search attributes where they are missing, and returns
// when the server has learnt them everywhere: a workflow start with the attributes was accepted and
// answered eagerly, and an upsert of them by the workflow too (each service keeps its own cache of
// namespaces). The probe is deleted.
func Prepare(ctx context.Context, address string) error {
	conn, err := grpc.NewClient(address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return fmt.Errorf("connecting to Temporal at %s: %w", address, err)
	}
	defer conn.Close()
	ctx, cancel := context.WithTimeout(ctx, prepareTimeout)
	defer cancel()
	workflows, operator := workflowservice.NewWorkflowServiceClient(conn), operatorservice.NewOperatorServiceClient(conn)
	for _, step := range []struct {
		doing string
		do    func(context.Context) error
	}{
		{"registering namespace " + Namespace, func(ctx context.Context) error { return register(ctx, workflows) }},
		{"adding search attributes", func(ctx context.Context) error { return addAttributes(ctx, operator) }},
		{"probing a start with search attributes",
			func(ctx context.Context) error { return probeStart(ctx, workflows) }},
	} {
		if err := until(ctx, step.do); err != nil {
			return fmt.Errorf("%s: %w", step.doing, err)
		}
	}
	awaitListed(ctx, workflows, "WorkflowType = '"+probe+"'", false)
	return nil
}

// awaitListed gives the server a moment to list a run of the query, or none: the list that the Web
// UI shows follows the runs. A server that takes longer has a run too many in its list for a while,
// which is no reason to fail.
func awaitListed(ctx context.Context, c workflowservice.WorkflowServiceClient, query string, want bool) {
	ctx, cancel := context.WithTimeout(ctx, cleanTimeout)
	defer cancel()
	_ = until(ctx, func(ctx context.Context) error {
		list, err := c.ListWorkflowExecutions(ctx,
			&workflowservice.ListWorkflowExecutionsRequest{Namespace: Namespace, Query: query})
		if listed := len(list.GetExecutions()) > 0; err == nil && listed != want {
			err = fmt.Errorf("listed by %s: %t", query, listed)
		}
		return err
	})
}

// until repeats do while it fails: right after its start the server refuses for many passing
// reasons.
func until(ctx context.Context, do func(context.Context) error) error {
	for {
		callCtx, cancel := context.WithTimeout(ctx, callTimeout)
		err := do(callCtx)
		cancel()
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-time.After(retryEvery):
		}
	}
}

func register(ctx context.Context, c workflowservice.WorkflowServiceClient) error {
	_, err := c.RegisterNamespace(ctx, &workflowservice.RegisterNamespaceRequest{
		Namespace: Namespace, Description: "made by devstack", WorkflowExecutionRetentionPeriod: durationpb.New(retention),
	})
	if status.Code(err) == codes.AlreadyExists {
		return nil
	}
	return err
}

func addAttributes(ctx context.Context, c operatorservice.OperatorServiceClient) error {
	types := map[string]enumspb.IndexedValueType{}
	for _, name := range Attributes {
		types[name] = enumspb.INDEXED_VALUE_TYPE_KEYWORD
	}
	_, err := c.AddSearchAttributes(ctx, &operatorservice.AddSearchAttributesRequest{Namespace: Namespace,
		SearchAttributes: types})
	if status.Code(err) == codes.AlreadyExists {
		return nil
	}
	return err
}

// probeStart plays a workflow by hand, without a worker: an eager start returns its first task, and
// the answer to that task upserts the attributes. (A server without eager start has to do with the
// accepted start.) The run is deleted while it is open: the server deletes such a run as it closes
// it, but keeps one that is closed already for half a minute more
// (history.transferProcessorUpdateAckInterval).
func probeStart(ctx context.Context, c workflowservice.WorkflowServiceClient) error {
	id := fmt.Sprintf("%s-%d", probe, time.Now().UnixNano())
	started, err := c.StartWorkflowExecution(ctx, &workflowservice.StartWorkflowExecutionRequest{
		Namespace: Namespace, WorkflowId: id, RequestId: id, Identity: probe,
		WorkflowType:     &commonpb.WorkflowType{Name: probe},
		TaskQueue:        &taskqueuepb.TaskQueue{Name: probe},
		SearchAttributes: probeAttributes("started"), RequestEagerExecution: true,
		WorkflowRunTimeout: durationpb.New(time.Minute),
	})
	if err != nil {
		return err
	}
	run := &commonpb.WorkflowExecution{WorkflowId: id, RunId: started.GetRunId()}
	// The list is written behind the run, and out of order: an entry that came after the deletion
	// would stay.
	awaitListed(ctx, c, Attributes[0]+" = 'started'", true)
	if started.GetEagerWorkflowTask() != nil {
		err = answerProbe(ctx, c, started)
		awaitListed(ctx, c, Attributes[0]+" = 'answered'", true)
	}
	return errors.Join(err, deleteProbe(ctx, c, run))
}

func answerProbe(ctx context.Context, c workflowservice.WorkflowServiceClient,
	started *workflowservice.StartWorkflowExecutionResponse) error {
	_, err := c.RespondWorkflowTaskCompleted(ctx, &workflowservice.RespondWorkflowTaskCompletedRequest{
		Namespace: Namespace, TaskToken: started.GetEagerWorkflowTask().GetTaskToken(), Identity: probe,
		Commands: []*commandpb.Command{
			{CommandType: enumspb.COMMAND_TYPE_UPSERT_WORKFLOW_SEARCH_ATTRIBUTES,
				Attributes: &commandpb.Command_UpsertWorkflowSearchAttributesCommandAttributes{
					UpsertWorkflowSearchAttributesCommandAttributes: &commandpb.UpsertWorkflowSearchAttributesCommandAttributes{SearchAttributes: probeAttributes("answered")}}},
		},
	})
	return err
}

// deleteProbe keeps the Web UI's list clean: it asks for the deletion and waits until the run is
// gone.
func deleteProbe(ctx context.Context, c workflowservice.WorkflowServiceClient, run *commonpb.WorkflowExecution) error {
	_, err := c.DeleteWorkflowExecution(ctx,
		&workflowservice.DeleteWorkflowExecutionRequest{Namespace: Namespace, WorkflowExecution: run})
	var gone *serviceerror.NotFound
	for err == nil {
		if _, err = c.DescribeWorkflowExecution(ctx,
			&workflowservice.DescribeWorkflowExecutionRequest{Namespace: Namespace, Execution: run}); err == nil {
			time.Sleep(retryEvery) // ctx, which each call looks at, ends the loop
		}
	}
	if errors.As(serviceerror.FromStatus(status.Convert(err)), &gone) {
		return nil
	}
	return err
}

func probeAttributes(value string) *commonpb.SearchAttributes {
	fields := map[string]*commonpb.Payload{}
	for _, name := range Attributes {
		fields[name] = &commonpb.Payload{
			Metadata: map[string][]byte{"encoding": []byte("json/plain"),
				"type": []byte("Keyword")}, Data: []byte(`"` + value + `"`),
		}
	}
	return &commonpb.SearchAttributes{IndexedFields: fields}
}

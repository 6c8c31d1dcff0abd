package control

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
	"time"

	commandpb "go.temporal.io/api/command/v1"
	commonpb "go.temporal.io/api/common/v1"
	"go.temporal.io/api/enums/v1"
	"go.temporal.io/api/operatorservice/v1"
	"go.temporal.io/api/serviceerror"
	taskqueuepb "go.temporal.io/api/taskqueue/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"go.temporal.io/sdk/client"
	"google.golang.org/protobuf/types/known/durationpb"
)

const (
	// ProbeType is the workflow type and the task queue of a probe; nobody
	// serves it.
	ProbeType = "outflow-setup-probe"
	// probeTimeout ends a probe whose process was killed before it removed it.
	probeTimeout  = 30 * time.Second
	listedTimeout = 3 * time.Second
	removeTimeout = 5 * time.Second
	listPause     = 100 * time.Millisecond
	identity      = "outflow setup"
)

// NewNamespace returns a namespace as the client sees it. The client may be
// connected for another one.
func NewNamespace(c client.Client, name string) Namespace { return namespace{client: c, name: name} }

type namespace struct {
	client client.Client
	name   string
}

// SearchAttributes asks for the namespace first: the list of an unknown one is
// refused with "unavailable", as if the server had a problem.
func (n namespace) SearchAttributes(ctx context.Context) (map[string]enums.IndexedValueType, error) {
	if _, err := n.client.WorkflowService().DescribeNamespace(ctx, &workflowservice.DescribeNamespaceRequest{Namespace: n.name}); err != nil {
		return nil, err
	}
	list, err := n.client.OperatorService().ListSearchAttributes(ctx, &operatorservice.ListSearchAttributesRequest{Namespace: n.name})
	return list.GetCustomAttributes(), err
}

func (n namespace) CreateKeywords(ctx context.Context, names []string) error {
	types := map[string]enums.IndexedValueType{}
	for _, name := range names {
		types[name] = enums.INDEXED_VALUE_TYPE_KEYWORD
	}
	_, err := n.client.OperatorService().AddSearchAttributes(ctx, &operatorservice.AddSearchAttributesRequest{Namespace: n.name, SearchAttributes: types})
	var exists *serviceerror.AlreadyExists
	if errors.As(err, &exists) {
		return nil // another setup was faster
	}
	return err
}

// Probe plays a run without a worker. An eager start hands out its first task,
// whose answer sets the attributes once more: those who take starts and those
// who run workflows learn of new attributes each by themselves.
func (n namespace) Probe(ctx context.Context, names []string) (left string, err error) {
	id := ProbeType + "/" + rand.Text()
	started, err := n.client.WorkflowService().StartWorkflowExecution(ctx, &workflowservice.StartWorkflowExecutionRequest{
		Namespace: n.name, WorkflowId: id, RequestId: id, Identity: identity,
		WorkflowType:     &commonpb.WorkflowType{Name: ProbeType},
		TaskQueue:        &taskqueuepb.TaskQueue{Name: ProbeType},
		SearchAttributes: keywords(names, "started"), RequestEagerExecution: true,
		WorkflowRunTimeout: durationpb.New(probeTimeout),
	})
	if err != nil {
		return "", err
	}
	run := &commonpb.WorkflowExecution{WorkflowId: id, RunId: started.GetRunId()}
	n.awaitListed(ctx, run, names[0], "started")
	if task := started.GetEagerWorkflowTask(); task != nil { // else the server has no eager start, and the accepted one has to do
		if err = n.answer(ctx, task, keywords(names, "answered")); err == nil {
			n.awaitListed(ctx, run, names[0], "answered")
		}
	}
	// Even where the caller gives up now, the run must not stay.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeTimeout)
	defer cancel()
	if removing := n.remove(ctx, run); removing != nil {
		left = fmt.Sprintf("workflow %s, which could not be deleted (%v)", id, removing)
	}
	return left, err
}

// answer completes the run's first task with the attributes.
func (n namespace) answer(ctx context.Context, task *workflowservice.PollWorkflowTaskQueueResponse, attributes *commonpb.SearchAttributes) error {
	upsert := &commandpb.UpsertWorkflowSearchAttributesCommandAttributes{SearchAttributes: attributes}
	_, err := n.client.WorkflowService().RespondWorkflowTaskCompleted(ctx, &workflowservice.RespondWorkflowTaskCompletedRequest{
		Namespace: n.name, TaskToken: task.GetTaskToken(), Identity: identity,
		Commands: []*commandpb.Command{{
			CommandType: enums.COMMAND_TYPE_UPSERT_WORKFLOW_SEARCH_ATTRIBUTES,
			Attributes:  &commandpb.Command_UpsertWorkflowSearchAttributesCommandAttributes{UpsertWorkflowSearchAttributesCommandAttributes: upsert},
		}},
	})
	return err
}

// remove deletes the run while it is open: the server then deletes it as it
// closes it, but leaves one that is closed already in the list for a while.
// Who may not delete terminates it.
func (n namespace) remove(ctx context.Context, run *commonpb.WorkflowExecution) error {
	service := n.client.WorkflowService()
	_, err := service.DeleteWorkflowExecution(ctx, &workflowservice.DeleteWorkflowExecutionRequest{Namespace: n.name, WorkflowExecution: run})
	if err != nil {
		_, terminating := service.TerminateWorkflowExecution(ctx, &workflowservice.TerminateWorkflowExecutionRequest{
			Namespace: n.name, WorkflowExecution: run, Identity: identity, Reason: "the probe has served",
		})
		return errors.Join(err, terminating)
	}
	n.awaitGone(ctx, run)
	return nil
}

// awaitListed waits until the list shows what the run did last. The server
// writes its list later and in no order: what it wrote after the deletion would
// stay there as a running one that nobody can delete.
func (n namespace) awaitListed(ctx context.Context, run *commonpb.WorkflowExecution, name, value string) {
	ctx, cancel := context.WithTimeout(ctx, listedTimeout)
	defer cancel()
	want := keywords([]string{name}, value).GetIndexedFields()[name].GetData()
	for ctx.Err() == nil {
		for _, e := range n.listed(ctx, run) {
			if bytes.Equal(e.GetSearchAttributes().GetIndexedFields()[name].GetData(), want) {
				return
			}
		}
		time.Sleep(listPause)
	}
}

// awaitGone gives the server the time to delete the run, also from its list. One
// that takes longer shows a run too many for a while, which is no failure.
func (n namespace) awaitGone(ctx context.Context, run *commonpb.WorkflowExecution) {
	for ctx.Err() == nil && len(n.listed(ctx, run)) > 0 {
		time.Sleep(listPause)
	}
}

// listed are the list's entries of the run; none where the caller may not list.
func (n namespace) listed(ctx context.Context, run *commonpb.WorkflowExecution) []*workflowpb.WorkflowExecutionInfo {
	list, err := n.client.WorkflowService().ListWorkflowExecutions(ctx, &workflowservice.ListWorkflowExecutionsRequest{
		Namespace: n.name, Query: fmt.Sprintf("RunId = '%s'", run.GetRunId()),
	})
	if err != nil {
		return nil
	}
	return list.GetExecutions()
}

// keywords are search attributes as the SDK encodes them.
func keywords(names []string, value string) *commonpb.SearchAttributes {
	fields := map[string]*commonpb.Payload{}
	for _, name := range names {
		fields[name] = &commonpb.Payload{
			Metadata: map[string][]byte{"encoding": []byte("json/plain"), "type": []byte(enums.INDEXED_VALUE_TYPE_KEYWORD.String())},
			Data:     []byte(strconv.Quote(value)),
		}
	}
	return &commonpb.SearchAttributes{IndexedFields: fields}
}

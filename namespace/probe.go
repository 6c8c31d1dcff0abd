package namespace

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
	taskqueuepb "go.temporal.io/api/taskqueue/v1"
	workflowpb "go.temporal.io/api/workflow/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/protobuf/types/known/durationpb"
)

const (
	// ProbeType is the workflow type and the task queue of a probe. No worker polls it.
	ProbeType = "outflow-setup-probe"
	// probeTimeout ends a probe whose process was killed before it removed the run.
	probeTimeout  = 30 * time.Second
	listedTimeout = 3 * time.Second
	removeTimeout = 5 * time.Second
	listPause     = 100 * time.Millisecond
	setupIdentity = "outflow setup"
)

// Probe starts a run that sets the named search attributes, and removes it. An error says that
// Temporal refused them. left, if any, says which run is still there and why.
//
// It needs no worker: an eager start returns the first task, and the answer to the task sets the
// attributes once more. The services that take starts and that run workflows each cache the
// attributes.
func (n *Namespace) Probe(ctx context.Context, names []string) (left string, err error) {
	id := ProbeType + "/" + rand.Text()
	started, err := n.client.WorkflowService().StartWorkflowExecution(ctx,
		&workflowservice.StartWorkflowExecutionRequest{
			Namespace: n.name, WorkflowId: id, RequestId: id, Identity: setupIdentity,
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
	if task := started.GetEagerWorkflowTask(); task != nil { // a server without eager start returns none
		if err = n.answer(ctx, task, keywords(names, "answered")); err == nil {
			n.awaitListed(ctx, run, names[0], "answered")
		}
	}
	// The run must not stay, even where the caller gives up now.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removeTimeout)
	defer cancel()
	if removing := n.remove(ctx, run); removing != nil {
		left = fmt.Sprintf("workflow %s, which could not be deleted (%v)", id, removing)
	}
	return left, err
}

// answer completes the run's first task with the attributes.
func (n *Namespace) answer(
	ctx context.Context, task *workflowservice.PollWorkflowTaskQueueResponse, attributes *commonpb.SearchAttributes,
) error {
	upsert := &commandpb.Command_UpsertWorkflowSearchAttributesCommandAttributes{
		UpsertWorkflowSearchAttributesCommandAttributes: &commandpb.UpsertWorkflowSearchAttributesCommandAttributes{
			SearchAttributes: attributes,
		},
	}
	service := n.client.WorkflowService()
	_, err := service.RespondWorkflowTaskCompleted(ctx, &workflowservice.RespondWorkflowTaskCompletedRequest{
		Namespace: n.name, TaskToken: task.GetTaskToken(), Identity: setupIdentity,
		Commands: []*commandpb.Command{{
			CommandType: enums.COMMAND_TYPE_UPSERT_WORKFLOW_SEARCH_ATTRIBUTES,
			Attributes:  upsert,
		}},
	})
	return err
}

// remove deletes the run while it is open: a server leaves a run that is deleted after it closed in
// the list for a while. A caller who may not delete terminates it.
func (n *Namespace) remove(ctx context.Context, run *commonpb.WorkflowExecution) error {
	service := n.client.WorkflowService()
	_, err := service.DeleteWorkflowExecution(ctx,
		&workflowservice.DeleteWorkflowExecutionRequest{Namespace: n.name, WorkflowExecution: run})
	if err != nil {
		_, terminating := service.TerminateWorkflowExecution(ctx, &workflowservice.TerminateWorkflowExecutionRequest{
			Namespace: n.name, WorkflowExecution: run, Identity: setupIdentity, Reason: "the probe is done",
		})
		return errors.Join(err, terminating)
	}
	n.awaitGone(ctx, run)
	return nil
}

// awaitListed waits until the list of runs shows what the run did last. The server writes the list
// later and in no order: an entry that it writes after the deletion would stay as a running run
// that nobody can delete.
func (n *Namespace) awaitListed(ctx context.Context, run *commonpb.WorkflowExecution, name, value string) {
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

// awaitGone gives the server time to delete the run, also from its list. A server that takes longer
// shows a run too many for a while, which is no failure.
func (n *Namespace) awaitGone(ctx context.Context, run *commonpb.WorkflowExecution) {
	for ctx.Err() == nil && len(n.listed(ctx, run)) > 0 {
		time.Sleep(listPause)
	}
}

// listed returns the list's entries of the run; none where the caller may not list.
func (n *Namespace) listed(
	ctx context.Context, run *commonpb.WorkflowExecution,
) []*workflowpb.WorkflowExecutionInfo {
	list, err := n.client.WorkflowService().ListWorkflowExecutions(ctx, &workflowservice.ListWorkflowExecutionsRequest{
		Namespace: n.name, Query: fmt.Sprintf("RunId = '%s'", run.GetRunId()),
	})
	if err != nil {
		return nil
	}
	return list.GetExecutions()
}

// keywords returns search attributes as the SDK encodes them.
func keywords(names []string, value string) *commonpb.SearchAttributes {
	fields := map[string]*commonpb.Payload{}
	for _, name := range names {
		fields[name] = &commonpb.Payload{
			Metadata: map[string][]byte{
				"encoding": []byte("json/plain"), "type": []byte(enums.INDEXED_VALUE_TYPE_KEYWORD.String()),
			},
			Data: []byte(strconv.Quote(value)),
		}
	}
	return &commonpb.SearchAttributes{IndexedFields: fields}
}

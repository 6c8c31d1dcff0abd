package temporalwf

import (
	"context"
	"fmt"

	enumspb "go.temporal.io/api/enums/v1"
	taskqueuepb "go.temporal.io/api/taskqueue/v1"
	"go.temporal.io/api/workflowservice/v1"
	"google.golang.org/grpc"

	"github.com/outflowhq/outflow"
	shown "github.com/outflowhq/outflow/internal/text"
)

// CreateNamespace is the command that makes the namespace which a destination names. It is "" for one
// that names none.
func CreateNamespace(destination string) string {
	d, err := outflow.ParseDestination(destination)
	if err != nil || d.Namespace == "" {
		return ""
	}
	return "temporal operator namespace create --namespace " + shown.ShellWord(d.Namespace)
}

// Check reports whether a destination's workflow may be started, its namespace exists, and a
// worker polls the task queue. It starts nothing. Temporal takes a start without a worker, so that
// error is no failure of a message: its class is retryable. Which types a worker knows does not
// show.
func (p *Publisher) Check(ctx context.Context, destination string) error {
	d, err := outflow.ParseDestination(destination)
	if err != nil {
		return outflow.Permanent(fmt.Errorf("reading the destination: %w", err))
	}
	doing := "looking up " + outflow.DisplayDestination(d.String())
	if d.Scheme != outflow.SchemeTemporal {
		return outflow.Permanent(fmt.Errorf("%s: only temporal:// is published here", doing))
	}
	w := p.workflowOf(d)
	if err := p.allowed(doing, w); err != nil {
		return err
	}
	c, end, err := p.begin(ctx, doing, w.namespace)
	if err != nil {
		return err
	}
	defer end()
	var answer *workflowservice.DescribeTaskQueueResponse
	err = c.ask(func(ctx context.Context, option grpc.CallOption) (err error) {
		answer, err = c.service.DescribeTaskQueue(ctx, &workflowservice.DescribeTaskQueueRequest{
			Namespace:     w.namespace,
			TaskQueue:     &taskqueuepb.TaskQueue{Name: w.taskQueue, Kind: enumspb.TASK_QUEUE_KIND_NORMAL},
			TaskQueueType: enumspb.TASK_QUEUE_TYPE_WORKFLOW,
		}, option)
		return err
	})
	if err != nil {
		return err
	}
	if len(answer.GetPollers()) == 0 {
		return outflow.Retryable(fmt.Errorf("%s: no worker polls the task queue "+
			"(start one; messages are delivered all the same, and their workflows wait for it)", doing))
	}
	return nil
}

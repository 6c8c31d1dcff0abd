package brokers

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/engine"
	"github.com/outflowhq/outflow/internal/settings"
	"github.com/outflowhq/outflow/publish/temporalwf"
)

// workflowTargets lists the workflows that messages may start.
const workflowTargets = "OUTFLOW_TEMPORAL_TARGETS"

// workflows is the registration of the user's own workflows.
type workflows struct{ options temporalwf.Options }

var _ registration = (*workflows)(nil)

func (*workflows) schemes() []string { return []string{outflow.SchemeTemporal} }

func (w *workflows) settings() []settings.Setting {
	return []settings.Setting{
		{
			Name: workflowTargets, Default: "none",
			Meaning: "workflows that temporal destinations may start and signal: " +
				"namespace/task-queue/WorkflowType,…",
			Set: func(value string) (err error) { w.options.Targets, err = temporalwf.ParseTargets(value); return err },
		},
		{
			Name: "OUTFLOW_TEMPORAL_TIMEOUT", Default: temporalwf.DefaultTimeout.String(),
			Meaning: "how long Temporal has to answer a durable attempt, 1s to 30s; a fast path waits 2.5 s at most",
			Set:     settings.Duration(&w.options.Timeout, time.Second, outflow.MaxCallTime),
		},
	}
}

// validate refuses Outflow's own task queue under the name that a setting gives it.
func (w *workflows) validate(getenv func(string) string) error {
	if own := getenv("OUTFLOW_TASK_QUEUE"); slices.Contains(w.options.Targets.TaskQueues(), own) {
		return fmt.Errorf("%s: wants task queues of your own workflows; %s is Outflow's (OUTFLOW_TASK_QUEUE)",
			workflowTargets, settings.Quote(own))
	}
	return nil
}

// open reads Temporal's settings only where a workflow is listed: without one, nothing is sent.
func (w *workflows) open(_ context.Context, getenv func(string) string) (Broker, error) {
	o := w.options
	if outbox := getenv("OUTFLOW_OUTBOX"); outbox != "" {
		o.Outboxes = []string{outflow.DefaultOutbox, outbox}
	}
	if own := getenv("OUTFLOW_TASK_QUEUE"); own != "" {
		o.TaskQueues = []string{own}
	}
	if !o.Targets.Any() {
		return Workflows(o), nil
	}
	options, files, err := engine.Load(getenv)
	if err != nil {
		return Broker{}, err
	}
	engine.SetConnection(&options.ConnectionOptions)
	o.Client = options
	b := Workflows(o)
	b.warnTo = files.WarnTo
	return b, nil
}

// Workflows is the broker of temporal destinations.
func Workflows(o temporalwf.Options) Broker {
	b := Broker{
		Schemes:   []string{outflow.SchemeTemporal},
		Publisher: temporalwf.New(o),
		Timeout:   cmp.Or(o.Timeout, temporalwf.DefaultTimeout),
		Doctor:    Doctor{Remedy: workflowRemedy, Create: temporalwf.CreateNamespace},
	}
	if !o.Targets.Any() {
		b.Waiting = "no workflow is listed (" + workflowTargets + "): messages to temporal:// wait"
	}
	return b
}

func workflowRemedy(err error) string {
	switch {
	case errors.Is(err, outflow.ErrNoDestination):
		return "temporal operator namespace create --namespace NAME, or outflow redirect its messages"
	case outflow.IsPermanent(err):
		return "outflow redirect its messages"
	case outflow.ClassOf(err) == outflow.ClassRetryable:
		return "start a worker of the task queue; messages are delivered all the same"
	}
	return "list the workflow in " + workflowTargets + " of the daemons and of this command; " +
		"check TEMPORAL_ADDRESS and its credentials"
}

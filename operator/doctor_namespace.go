package operator

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/google/uuid"
	"go.temporal.io/api/enums/v1"
	"go.temporal.io/api/serviceerror"

	"github.com/outflowhq/outflow/internal/text"
	"github.com/outflowhq/outflow/namespace"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/workflows"
)

// checkNamespace reports whether the namespace answers.
func (e *examination) checkNamespace(ctx context.Context) (answers bool) {
	ctx, cancel := context.WithTimeout(ctx, checkTimeout)
	defer cancel()
	where := fmt.Sprintf("%s, namespace %s", e.Target.Address, e.Target.Namespace)
	if e.NamespaceErr != nil && e.Target.Address == "" {
		e.found("temporal", Fail, "set what the text names", "%v", e.NamespaceErr)
		return false
	}
	if e.NamespaceErr != nil {
		e.found("temporal", Fail, seeTemporal, "%s: %v", where, e.NamespaceErr)
		return false
	}
	types, err := e.temporal.SearchAttributes(ctx)
	var unknown *serviceerror.NamespaceNotFound
	switch {
	case namespace.IsRefused(err):
		e.found("temporal", OK, "", "%s answers", where)
		e.found("attributes", Skipped, "", "this identity may not list search attributes: %v", err)
	case errors.As(err, &unknown):
		e.found("temporal", Fail, "check TEMPORAL_NAMESPACE, or create it: temporal operator namespace create --namespace "+
			text.ShellWord(e.Target.Namespace), "%s: %v", where, err)
	case err != nil:
		e.found("temporal", Fail, seeTemporal, "%s: %v", where, err)
	default:
		e.found("temporal", OK, "", "%s answers", where)
		e.foundAttributes(types)
	}
	return err == nil || namespace.IsRefused(err)
}

func (e *examination) foundAttributes(types map[string]enums.IndexedValueType) {
	var missing []string
	for _, name := range namespace.AttributeNames() {
		if types[name] != enums.INDEXED_VALUE_TYPE_KEYWORD {
			missing = append(missing, name)
		}
	}
	if len(missing) > 0 {
		e.found("attributes", Warn, "outflow setup",
			"%s missing: the Web UI can't filter by them; deliveries go on without",
			strings.Join(missing, ", "))
		return
	}
	e.found("attributes", OK, "", "%s are there", strings.Join(namespace.AttributeNames(), ", "))
}

func (e *examination) checkWorkers(ctx context.Context) {
	workflows, activities, err := e.temporal.Pollers(ctx, e.TaskQueue)
	switch {
	case err != nil:
		e.found("workers", Warn, seeIdentity, "task queue %s could not be looked at: %v", e.TaskQueue, err)
	case workflows == 0 || activities == 0:
		e.found("workers", Fail, "start outflow-starter and outflow-worker, with this OUTFLOW_TASK_QUEUE and namespace",
			"no worker polls task queue %s (workflow tasks: %d pollers, activities: %d)", e.TaskQueue, workflows, activities)
	default:
		e.found("workers", OK, "", "task queue %s has %d pollers of workflow tasks, %d of activities",
			e.TaskQueue, workflows, activities)
	}
}

// checkSchedule looks at the schedule that purges the table.
func (e *examination) checkSchedule(ctx context.Context) {
	name := workflows.MaintainID(e.Outbox)
	found, err := e.temporal.FindSchedule(ctx, e.Outbox)
	switch {
	case errors.Is(err, namespace.ErrNoSchedule):
		e.found("schedule", Warn, "start outflow-starter or outflow-worker, which write it within minutes",
			"there is no schedule %s: nothing is purged", name)
	case namespace.IsRefused(err):
		e.found("schedule", Skipped, "", "this identity may not look at schedules: %v", err)
	case err != nil:
		e.found("schedule", Warn, seeIdentity, "%v", err)
	case e.id != uuid.Nil && found.MaintainsAnother(e.id):
		e.found("schedule", Fail,
			"give each database an OUTFLOW_OUTBOX of its own; after a database was created again, restart the daemons",
			"%s maintains database %s, and this is database %s", name, found.Database, e.id)
	case found.TaskQueue != e.TaskQueue:
		e.found("schedule", Warn, "restart a daemon with the right OUTFLOW_TASK_QUEUE",
			"%s runs on task queue %s, not %s", name, found.TaskQueue, e.TaskQueue)
	case found.Paused:
		e.found("schedule", Warn, "temporal schedule toggle --unpause --schedule-id "+text.ShellWord(name),
			"%s is paused (%s): nothing is purged", name, found.Note)
	case e.id == uuid.Nil:
		e.found("schedule", Skipped, "",
			"%s is there; whether it maintains this database is unknown, because the database's ID is", name)
	default:
		e.found("schedule", OK, "", "%s maintains the table", name)
	}
}

// checkRuns looks for messages whose runs are stalled: on a task queue that no worker polls, or
// somebody else's under the same ID.
func (e *examination) checkRuns(ctx context.Context) {
	bad := e.checkOtherTaskQueues(ctx)
	if !e.hasSchema {
		return
	}
	messages, err := e.database.claimed(ctx, maxRuns)
	if err != nil {
		e.found("runs", Warn, seeGrants, "%v", err)
		return
	}
	if len(messages) > 0 && e.id == uuid.Nil {
		e.found("runs", Skipped, "", "whether runs belong to this database is unknown, because the database's ID is")
		return
	}
	type cause struct{ problem, remedy string }
	stalled := map[cause][]outbox.Ref{}
	for _, m := range messages {
		problem, remedy, err := e.temporal.Stalled(ctx, e.Outbox, e.id, m)
		if err != nil {
			e.found("runs", Warn, seeIdentity, "the run of message %s could not be looked at: %v", m.ID, err)
			return
		}
		if problem != "" {
			stalled[cause{problem, remedy}] = append(stalled[cause{problem, remedy}], m)
		}
	}
	for c, of := range stalled {
		e.found("runs", Fail, c.remedy, "%d of %d messages looked at, such as %s, wait for their run: %s",
			len(of), len(messages), of[0].ID, c.problem)
	}
	if len(stalled) == 0 && !bad {
		e.found("runs", OK, "", "%d claimed messages were looked at: none has a stalled run", len(messages))
	}
}

// startWorkerOn is what to do about runs on a task queue that no worker polls. own is that of this outbox.
func startWorkerOn(name, own string) string {
	if name == workflows.StreamTaskQueue(own) {
		return "start outflow-worker with OUTFLOW_STREAMS above 0 (the default is 4)"
	}
	return fmt.Sprintf("start outflow-worker with OUTFLOW_TASK_QUEUE=%s until these have ended "+
		"(\"Another task queue\" in docs/running.md)", strings.TrimSuffix(name, workflows.StreamTaskQueue("")))
}

// checkOtherTaskQueues looks at open runs on other task queues, and reports whether any is stalled
// there.
func (e *examination) checkOtherTaskQueues(ctx context.Context) (bad bool) {
	runs, more, err := e.temporal.OtherTaskQueues(ctx, e.Outbox, e.TaskQueue)
	if err != nil {
		var invalid *serviceerror.InvalidArgument
		if namespace.IsRefused(err) || errors.As(err, &invalid) { // visibility may be limited
			e.found("runs", Skipped, "", "open runs on other task queues could not be listed: %v", err)
			return false
		}
		e.found("runs", Warn, seeIdentity, "open runs on other task queues could not be listed: %v", err)
		return true
	}
	atLeast := ""
	if more {
		atLeast = "at least "
	}
	for _, name := range slices.Sorted(maps.Keys(runs)) {
		workflows, activities, err := e.temporal.Pollers(ctx, name)
		switch {
		case err != nil:
			e.found("runs", Warn, seeIdentity, "task queue %s could not be looked at: %v", name, err)
			bad = true
		case workflows == 0 || activities == 0:
			e.found("runs", Fail, startWorkerOn(name, e.TaskQueue),
				"%s%d runs of outbox %s are on task queue %s, which no worker polls", atLeast, runs[name], e.Outbox, name)
			bad = true
		default:
			e.found("runs", OK, "", "%s%d runs of outbox %s are on task queue %s, which workers poll",
				atLeast, runs[name], e.Outbox, name)
		}
	}
	return bad
}

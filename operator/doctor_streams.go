package operator

import (
	"context"
	"fmt"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/workflows"
)

// oldPagesSQL sums up the pages that were claimed more than a quarter of an hour ago. Their messages leave
// a page within a minute, and starters free what a lost stream has left within twelve.
const oldPagesSQL = `
SELECT count(*), coalesce(sum(p.messages), 0)::bigint, coalesce(min(p.destination), '')
  FROM outbox.pages AS p WHERE p.claimed_at < now() - interval '15 minutes'`

// oldPages are pages of streams that nobody has finished or freed.
type oldPages struct {
	Pages, Messages int
	Destination     string // of one of them
}

func (o *Operator) oldPages(ctx context.Context) (p oldPages, err error) {
	if err := o.pool.QueryRow(ctx, oldPagesSQL).Scan(&p.Pages, &p.Messages, &p.Destination); err != nil {
		return p, fmt.Errorf("looking at pages of streams: %w", err)
	}
	return p, nil
}

// checkPages reports messages that a stream claimed long ago.
func (e *examination) checkPages(ctx context.Context) {
	switch p, err := e.database.oldPages(ctx); {
	case err != nil:
		e.found("pages", Warn, seeGrants, "%v", err)
	case p.Pages > 0:
		e.found("pages", Warn, "start outflow-starter, which frees them where their stream is lost; else the stream's "+
			"worker can't write their ends: its log says why",
			"%d pages of streams with up to %d messages, such as of %s, were claimed more than 15 minutes ago",
			p.Pages, p.Messages, outflow.DisplayDestination(p.Destination))
	}
}

// checkStreams reports whether a worker takes streams, where any is to begin or has begun.
func (e *examination) checkStreams(ctx context.Context) {
	if !e.hasSchema {
		return
	}
	streams, err := e.database.Streams(ctx)
	if err != nil {
		e.found("streams", Warn, seeGrants, "%v", err)
		return
	}
	wanted := 0
	for _, s := range streams {
		if s.Above != nil && *s.Above > 0 || s.StartedAt != nil {
			wanted++
		}
	}
	if wanted == 0 && e.StreamAbove == 0 {
		return
	}
	queue := workflows.StreamTaskQueue(e.TaskQueue)
	switch workflows, activities, err := e.temporal.Pollers(ctx, queue); {
	case err != nil:
		e.found("streams", Warn, seeIdentity, "task queue %s could not be looked at: %v", queue, err)
	case workflows == 0 || activities == 0:
		e.found("streams", Warn, "start outflow-worker with OUTFLOW_STREAMS above 0 (the default is 4), "+
			"with this OUTFLOW_TASK_QUEUE and namespace",
			"no worker polls task queue %s (workflow tasks: %d pollers, activities: %d): "+
				"streams do not go on, and starters start a run for each message", queue, workflows, activities)
	default:
		e.found("streams", OK, "", "task queue %s has %d pollers of workflow tasks, %d of activities",
			queue, workflows, activities)
	}
}

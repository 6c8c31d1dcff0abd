package service

import (
	"cmp"
	"context"

	"go.temporal.io/sdk/client"

	"github.com/outflowhq/outflow/internal/config"
	"github.com/outflowhq/outflow/namespace"
	"github.com/outflowhq/outflow/workflows"
)

// schedule keeps Maintain scheduled as these settings have it.
func (p *parts) schedule(c config.Config) namespace.ScheduleKeeper {
	return namespace.ScheduleKeeper{
		Client: p.client, Logger: p.log, OutboxSetting: "OUTFLOW_OUTBOX",
		Schedule: func(ctx context.Context) (namespace.Schedule, error) {
			database, err := p.store.DatabaseID(ctx)
			return namespace.Schedule{
				Namespace: cmp.Or(c.Temporal.Namespace, client.DefaultNamespace),
				Outbox:    outboxName(c.Scanner),
				Database:  database,
				TaskQueue: taskQueue(c.Scanner),
				Input:     workflows.MaintainInput{Retention: c.Retention},
			}, err
		},
	}
}

// scheduleOnce writes the schedule in the background where there is none. wait waits for that.
func (p *parts) scheduleOnce(ctx context.Context, c config.Config) (wait func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.schedule(c).WriteFirst(ctx)
	}()
	return func() { <-done }
}

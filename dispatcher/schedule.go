package dispatcher

import (
	"context"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/namespace"
	"github.com/outflowhq/outflow/workflows"
)

// keepSchedule keeps the purge scheduled in the background, if Options.Retention asks for one. The
// returned function ends that.
func (d *Dispatcher) keepSchedule(ctx context.Context) (stop func()) {
	if d.opts.Retention == (outflow.Retention{}) {
		return func() {}
	}
	return namespace.ScheduleKeeper{
		Client: d.opts.Client, Logger: d.opts.Scanner.Logger, OutboxSetting: "Options.Scanner.Outbox",
		Schedule: func(ctx context.Context) (namespace.Schedule, error) {
			database, err := d.store.DatabaseID(ctx)
			return namespace.Schedule{
				Namespace: d.opts.Namespace, Outbox: d.opts.Scanner.Outbox, Database: database,
				TaskQueue: d.opts.Scanner.TaskQueue, Input: workflows.MaintainInput{Retention: d.opts.Retention},
			}, err
		},
	}.Keep(ctx)
}

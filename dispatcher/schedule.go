package dispatcher

import (
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/control"
	"github.com/outflowhq/outflow/workflows"
)

const (
	firstTry = 5 * time.Second
	lastTry  = 10 * time.Minute
	// lookAgain is how soon a deleted schedule comes back, lengthened by up to half:
	// the processes of an outbox do not look together.
	lookAgain = 3 * time.Minute
)

// schedule keeps the purge scheduled in the background: no delivery waits for that,
// or fails with it. The returned function ends it.
func (d *Dispatcher) schedule(ctx context.Context) (stop func()) {
	if d.opts.Retention == (outflow.Retention{}) {
		return func() {}
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		written, pause := false, firstTry
		for ctx.Err() == nil {
			wait := pause
			if d.scheduled(ctx, written) {
				written, pause = true, firstTry
				wait = lookAgain + time.Duration(rand.Float64()*0.5*float64(lookAgain))
			} else {
				pause = min(2*pause, lastTry)
			}
			select {
			case <-time.After(wait):
			case <-ctx.Done():
			}
		}
	}()
	return func() {
		cancel()
		<-done
	}
}

// scheduled writes the schedule; once it was written, only where it is gone.
func (d *Dispatcher) scheduled(ctx context.Context, written bool) bool {
	database, err := d.store.DatabaseID(ctx)
	if err == nil {
		var found control.ScheduleFound
		found, err = control.FindSchedule(ctx, d.opts.Client, d.opts.Namespace, d.opts.Scanner.Outbox)
		if found.OfAnother(database) {
			d.opts.Scanner.Logger.Warn("the schedule maintains another database: two databases that share a namespace need an Options.Scanner.Outbox each (a database that was made anew needs nothing)",
				"schedule", workflows.MaintainID(d.opts.Scanner.Outbox), "database", database, "other_database", found.Database)
		}
		if err == nil && written {
			return true
		}
	}
	if err == nil || errors.Is(err, control.ErrNoSchedule) {
		err = control.EnsureSchedule(ctx, d.opts.Client, control.MaintainSchedule{
			Namespace: d.opts.Namespace, Outbox: d.opts.Scanner.Outbox, Database: database, TaskQueue: d.opts.Scanner.TaskQueue,
			Input: workflows.MaintainInput{Retention: d.opts.Retention},
		})
	}
	if err != nil && ctx.Err() == nil {
		d.opts.Scanner.Logger.Warn("the purge of the outbox table is not scheduled; final messages stay until it is", "error", err)
	}
	return err == nil
}

package namespace

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"time"

	"go.temporal.io/sdk/client"

	"github.com/outflowhq/outflow/workflows"
)

const (
	firstTry = 5 * time.Second
	maxTry   = 10 * time.Minute
	// lookAgain is how soon a deleted schedule comes back. Keep adds up to half at random, so that
	// the processes of an outbox do not look together.
	lookAgain = 3 * time.Minute
)

// ScheduleKeeper keeps the workflow Maintain scheduled in the background. No delivery waits for the
// schedule or fails with it: what goes wrong is logged as a warning and tried again.
type ScheduleKeeper struct {
	Client client.Client
	Logger *slog.Logger
	// Schedule returns what to write. It reads the database's ID, which may fail for a while.
	Schedule func(ctx context.Context) (Schedule, error)
	// OutboxSetting names the setting that distinguishes two outboxes, for a warning.
	OutboxSetting string
	// Again is the time between two looks at the schedule; 0 means 3 minutes.
	Again time.Duration
}

// Keep writes the schedule at the start, and again where somebody deleted it. The returned function
// ends that.
func (k ScheduleKeeper) Keep(ctx context.Context) (stop func()) {
	again := k.Again
	if again == 0 {
		again = lookAgain
	}
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		write, pause := k.Write, firstTry
		for ctx.Err() == nil {
			wait := pause
			if write(ctx) {
				write, pause = k.WriteDeleted, firstTry
				wait = again + time.Duration(rand.Float64()*0.5*float64(again))
			} else {
				pause = min(2*pause, maxTry)
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

// Write makes the schedule be as it should, and reports whether that worked.
func (k ScheduleKeeper) Write(ctx context.Context) bool {
	s, err := k.Schedule(ctx)
	if err == nil {
		if found, findErr := FindSchedule(ctx, k.Client, s.Namespace, s.Outbox); findErr == nil {
			k.warnOfAnother(s, found)
		}
		err = EnsureSchedule(ctx, k.Client, s)
	}
	return k.report(ctx, err)
}

// WriteDeleted writes a schedule that somebody deleted, with a warning. It leaves an existing one
// as it is: otherwise processes with different settings would change it in turn, forever.
func (k ScheduleKeeper) WriteDeleted(ctx context.Context) bool {
	return k.writeMissing(ctx, func(id string) {
		k.Logger.Warn("the schedule is gone: writing it again (to have nothing purged, pause it)", "schedule", id)
	})
}

// WriteFirst writes the schedule where there is none.
func (k ScheduleKeeper) WriteFirst(ctx context.Context) bool {
	return k.writeMissing(ctx, func(string) {})
}

func (k ScheduleKeeper) writeMissing(ctx context.Context, missing func(id string)) bool {
	s, err := k.Schedule(ctx)
	var found FoundSchedule
	if err == nil {
		found, err = FindSchedule(ctx, k.Client, s.Namespace, s.Outbox)
	}
	switch {
	case err == nil:
		k.warnOfAnother(s, found)
	case errors.Is(err, ErrNoSchedule):
		missing(workflows.MaintainID(s.Outbox))
		err = EnsureSchedule(ctx, k.Client, s)
	}
	return k.report(ctx, err)
}

func (k ScheduleKeeper) report(ctx context.Context, err error) bool {
	if err != nil && ctx.Err() == nil {
		k.Logger.Warn("the maintenance of the outbox table is not scheduled; "+
			"final messages are not purged until it is", "error", err)
	}
	return err == nil
}

// warnOfAnother warns where the schedule maintains another database. A database that was created
// again looks like a second database under the same outbox's name: the first warns once, the second
// again and again.
func (k ScheduleKeeper) warnOfAnother(s Schedule, found FoundSchedule) {
	if !found.MaintainsAnother(s.Database) {
		return
	}
	k.Logger.Warn("the schedule maintains another database: two databases that share a namespace need an "+
		k.OutboxSetting+" each (a database that was created again needs nothing)",
		"schedule", workflows.MaintainID(s.Outbox), "database", s.Database, "other_database", found.Database)
}

package service

import (
	"cmp"
	"context"
	"errors"
	"math/rand/v2"
	"time"

	"go.temporal.io/sdk/client"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/control"
	"github.com/outflowhq/outflow/internal/config"
	"github.com/outflowhq/outflow/scanner"
	"github.com/outflowhq/outflow/workflows"
)

const (
	firstTry = 5 * time.Second
	lastTry  = 10 * time.Minute
	// lookAgain is how soon a deleted schedule comes back, lengthened by up to half:
	// the processes of an outbox do not look together.
	lookAgain = 3 * time.Minute
)

// schedule keeps Maintain scheduled in the background: no delivery waits for it, or
// fails with it. It writes the schedule at the start, and again where somebody has
// deleted it. The returned function ends that.
func (p *parts) schedule(ctx context.Context, c config.Config) (stop func()) {
	return p.keepScheduled(ctx, c, lookAgain)
}

func (p *parts) keepScheduled(ctx context.Context, c config.Config, again time.Duration) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		try, pause := p.scheduled, firstTry
		for ctx.Err() == nil {
			wait := pause
			if try(ctx, c) {
				try, pause = p.stillScheduled, firstTry
				wait = again + time.Duration(rand.Float64()*0.5*float64(again))
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

// scheduleOnce writes the schedule in the background where there is none. The returned
// function waits for that.
func (p *parts) scheduleOnce(ctx context.Context, c config.Config) (wait func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		p.kept(ctx, c, func(string) {})
	}()
	return func() { <-done }
}

// scheduled writes the schedule as these settings want it.
func (p *parts) scheduled(ctx context.Context, c config.Config) bool {
	s, err := p.maintainSchedule(ctx, c)
	if err == nil {
		if found, findErr := control.FindSchedule(ctx, p.client, s.Namespace, s.Outbox); findErr == nil {
			p.warnOfAnother(s, found)
		}
		err = control.EnsureSchedule(ctx, p.client, s)
	}
	return p.saidOf(ctx, err)
}

// stillScheduled writes a schedule that is gone, and leaves one that is there as it
// is: processes with other settings would else change it in turn, for ever.
func (p *parts) stillScheduled(ctx context.Context, c config.Config) bool {
	return p.kept(ctx, c, func(name string) {
		p.log.Warn("the schedule is gone: writing it again (to have nothing purged, pause it)", "schedule", name)
	})
}

// kept writes a schedule that is not there, once gone was told.
func (p *parts) kept(ctx context.Context, c config.Config, gone func(name string)) bool {
	s, err := p.maintainSchedule(ctx, c)
	var found control.ScheduleFound
	if err == nil {
		found, err = control.FindSchedule(ctx, p.client, s.Namespace, s.Outbox)
	}
	switch {
	case err == nil:
		p.warnOfAnother(s, found)
	case errors.Is(err, control.ErrNoSchedule):
		gone(workflows.MaintainID(s.Outbox))
		err = control.EnsureSchedule(ctx, p.client, s)
	}
	return p.saidOf(ctx, err)
}

func (p *parts) saidOf(ctx context.Context, err error) bool {
	if err != nil && ctx.Err() == nil {
		p.log.Warn("the maintenance of the outbox table is not scheduled; final messages are not purged until it is", "error", err)
	}
	return err == nil
}

// warnOfAnother warns where the schedule maintains another database. Nothing tells a
// database that was made anew from two that share an outbox's name; two say so again
// and again.
func (p *parts) warnOfAnother(s control.MaintainSchedule, found control.ScheduleFound) {
	if !found.OfAnother(s.Database) {
		return
	}
	p.log.Warn("the schedule maintains another database: two databases that share a namespace need an OUTFLOW_OUTBOX each (a database that was made anew needs nothing)",
		"schedule", workflows.MaintainID(s.Outbox), "database", s.Database, "other_database", found.Database)
}

func (p *parts) maintainSchedule(ctx context.Context, c config.Config) (control.MaintainSchedule, error) {
	database, err := p.store.DatabaseID(ctx)
	return control.MaintainSchedule{
		Namespace: cmp.Or(c.Temporal.Namespace, client.DefaultNamespace),
		Outbox:    outboxName(c.Scanner),
		Database:  database,
		TaskQueue: taskQueue(c.Scanner),
		Input:     workflows.MaintainInput{Retention: c.Retention},
	}, err
}

func outboxName(o scanner.Options) string { return cmp.Or(o.Outbox, outflow.DefaultOutbox) }

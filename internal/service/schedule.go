package service

import (
	"cmp"
	"context"
	"time"

	"go.temporal.io/sdk/client"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/control"
	"github.com/outflowhq/outflow/internal/config"
	"github.com/outflowhq/outflow/workflows"
)

const (
	firstTry = 5 * time.Second
	lastTry  = 10 * time.Minute
)

// schedule ensures in the background that Maintain is scheduled, for as long as
// that takes: no delivery waits for it, or fails with it. The returned function
// stops trying.
func (p *parts) schedule(ctx context.Context, c config.Config) (stop func()) {
	ctx, cancel := context.WithCancel(ctx)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for pause := firstTry; !p.scheduled(ctx, c) && ctx.Err() == nil; pause = min(2*pause, lastTry) {
			select {
			case <-time.After(pause):
			case <-ctx.Done():
			}
		}
	}()
	return func() {
		cancel()
		<-done
	}
}

// scheduled tries once.
func (p *parts) scheduled(ctx context.Context, c config.Config) bool {
	err := control.EnsureSchedule(ctx, p.client, control.MaintainSchedule{
		Namespace: cmp.Or(c.Temporal.Namespace, client.DefaultNamespace),
		Outbox:    cmp.Or(c.Scanner.Outbox, outflow.DefaultOutbox),
		TaskQueue: taskQueue(c.Scanner),
		Input:     workflows.MaintainInput{Retention: c.Retention},
	})
	if err != nil && ctx.Err() == nil {
		p.log.Warn("the maintenance of the outbox table is not scheduled; final messages are not purged until it is", "error", err)
	}
	return err == nil
}

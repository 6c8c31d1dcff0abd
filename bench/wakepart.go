package main

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"go.temporal.io/sdk/client"
	"go.temporal.io/sdk/worker"
	"go.temporal.io/sdk/workflow"

	"github.com/outflowhq/outflow/dispatcher"
	"github.com/outflowhq/outflow/publish"
	"github.com/outflowhq/outflow/publish/awssqs"
	"github.com/outflowhq/outflow/scanner"
)

// wakePart embeds the dispatcher, and wakes it with each line that it reads. Arguments: database,
// address, task queue, queue service.
func wakePart(ctx context.Context, args []string, _ io.Writer) error {
	if len(args) != 4 {
		return errors.New("wake wants a database, an address, a task queue and a queue service")
	}
	pool, err := pgxpool.New(ctx, args[0])
	if err != nil {
		return fmt.Errorf("opening the database: %w", err)
	}
	defer pool.Close()
	c, err := dial(ctx, args[1])
	if err != nil {
		return err
	}
	defer c.Close()
	d, err := dispatcher.New(dispatcher.Options{
		Pool: pool, Client: c, Publishers: []publish.Publisher{awssqs.New(newSQS(args[3]))},
		Scanner: scanner.Options{TaskQueue: args[2]},
	})
	if err != nil {
		return err
	}
	go func() {
		for lines := bufio.NewScanner(os.Stdin); lines.Scan(); {
			d.Wake()
		}
	}()
	return d.Run(ctx)
}

// eagerStarts is the part that measures empty eager starts.
const eagerStarts = "eager-starts"

// eagerStartsPart starts empty workflows eagerly at latencyRate, and reports how long each start took
// to be answered. Arguments: address, task queue, for how long.
func eagerStartsPart(ctx context.Context, args []string, stdout io.Writer) error {
	if len(args) != 3 {
		return errors.New(eagerStarts + " wants an address, a task queue and a duration")
	}
	during, err := time.ParseDuration(args[2])
	if err != nil {
		return fmt.Errorf("reading the duration: %w", err)
	}
	c, err := dial(ctx, args[0])
	if err != nil {
		return err
	}
	defer c.Close()
	w := worker.New(c, args[1], worker.Options{
		WorkflowTaskPollerBehavior: worker.NewPollerBehaviorAutoscaling(worker.PollerBehaviorAutoscalingOptions{}),
	})
	w.RegisterWorkflowWithOptions(func(workflow.Context) error { return nil }, workflow.RegisterOptions{Name: "Empty"})
	if err := w.Start(); err != nil {
		return fmt.Errorf("starting the worker: %w", err)
	}
	defer w.Stop()
	var took []time.Duration
	ticks := time.NewTicker(time.Second / latencyRate)
	defer ticks.Stop()
	for i := range warmup + int(during.Seconds()*latencyRate) {
		select {
		case <-ticks.C:
		case <-ctx.Done():
			return ctx.Err()
		}
		began := time.Now()
		_, err := c.ExecuteWorkflow(ctx, client.StartWorkflowOptions{
			ID: fmt.Sprintf("%s/%d", args[1], i), TaskQueue: args[1], EnableEagerStart: true,
		}, "Empty")
		if err != nil {
			return fmt.Errorf("starting an empty workflow: %w", err)
		}
		if i >= warmup {
			took = append(took, time.Since(began))
		}
	}
	if err := reportLine(stdout, took); err != nil {
		return err
	}
	<-ctx.Done()
	return nil
}

// dial connects to Temporal as Outflow's programs do.
func dial(ctx context.Context, address string) (client.Client, error) {
	c, err := client.DialContext(ctx, client.Options{
		HostPort: address, Logger: quiet{},
		ConnectionOptions: client.ConnectionOptions{GrpcCompression: &client.GrpcCompressionNone{}},
	})
	if err != nil {
		return nil, fmt.Errorf("connecting to Temporal: %w", err)
	}
	return c, nil
}

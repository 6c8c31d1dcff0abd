package service

import (
	"cmp"
	"log/slog"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgxpool"
	"go.temporal.io/sdk/client"
	sdklog "go.temporal.io/sdk/log"
	"go.temporal.io/sdk/worker"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/config"
	"github.com/outflowhq/outflow/internal/engine"
	"github.com/outflowhq/outflow/internal/timing"
	"github.com/outflowhq/outflow/outboxdb"
	"github.com/outflowhq/outflow/scanner"
	"github.com/outflowhq/outflow/workflows"
)

const (
	// workerSlots are the workflow-task and local-activity slots of a worker: the SDK's default,
	// and no less than a scanner's messages in flight.
	workerSlots = 1000
	// poolConnections are the database's connections, unless the URL has pool_max_conns: for
	// coalesced statements, the claim, durable attempts and streams.
	poolConnections = 16
	// pingTimeout bounds the pool's check of an idle connection. pgx waits forever by default.
	pingTimeout = time.Second
)

// setPool sets what the URL leaves open.
func setPool(c *pgxpool.Config) {
	if c.MaxConns < poolConnections && !strings.Contains(c.ConnString(), "pool_max_conns") {
		c.MaxConns = poolConnections
	}
	c.PingTimeout = cmp.Or(c.PingTimeout, pingTimeout)
}

// setClient sets what the settings of Temporal leave open.
func setClient(o *client.Options, log *slog.Logger) {
	engine.SetConnection(&o.ConnectionOptions)
	o.Logger = sdklog.NewStructuredLogger(log)
}

func workerOptions(c config.Config, fatal chan<- error) worker.Options {
	autoscaling := func() worker.PollerBehavior {
		return worker.NewPollerBehaviorAutoscaling(worker.PollerBehaviorAutoscalingOptions{})
	}
	return worker.Options{
		WorkerStopTimeout:                       stopTimeout(c),
		MaxConcurrentWorkflowTaskExecutionSize:  workerSlots,
		MaxConcurrentLocalActivityExecutionSize: workerSlots,
		WorkflowTaskPollerBehavior:              autoscaling(),
		ActivityTaskPollerBehavior:              autoscaling(),
		MaxHeartbeatThrottleInterval:            timing.HeartbeatThrottle,
		OnFatalError:                            func(err error) { fatal <- err },
	}
}

// streamWorkerOptions are those of the worker of streams: a slot for each, and heartbeats that Temporal
// gets often, because the next attempt goes on from the last one.
func streamWorkerOptions(c config.Config, fatal chan<- error) worker.Options {
	return worker.Options{
		WorkerStopTimeout:                  stopTimeout(c),
		MaxConcurrentActivityExecutionSize: c.Streams,
		MaxConcurrentWorkflowTaskPollers:   2,
		MaxConcurrentActivityTaskPollers:   1,
		MaxHeartbeatThrottleInterval:       timing.StreamHeartbeatThrottle,
		OnFatalError:                       func(err error) { fatal <- err },
	}
}

// stopTimeout has room for the longest call of a durable attempt, and for the end of its message.
// The SDK's default of 0 leaves published messages without their ends, and another worker publishes
// them again.
func stopTimeout(c config.Config) time.Duration {
	var longest time.Duration
	for _, b := range c.Brokers {
		longest = max(longest, b.Timeout)
	}
	return longest + timing.StopCalls
}

func taskQueue(o scanner.Options) string {
	return cmp.Or(o.TaskQueue, workflows.TaskQueueFor(outboxName(o)))
}

// missingGrace is the setting as the activities want it.
func missingGrace(setting time.Duration) time.Duration {
	return max(cmp.Or(setting, outflow.DefaultMissingGrace), 0)
}

// storeOptions are the settings as the table wants them.
func storeOptions(c config.Config) (options []outboxdb.Option) {
	if c.PassDead {
		options = append(options, outboxdb.PassDead())
	}
	return options
}

func outboxName(o scanner.Options) string { return cmp.Or(o.Outbox, outflow.DefaultOutbox) }

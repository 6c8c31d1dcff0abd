package activities

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/google/uuid"
	"go.temporal.io/sdk/activity"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/timing"
)

// Owner says which outbox a task is for. Outboxes that share a namespace and a task
// queue are handed each other's tasks.
type Owner struct {
	Outbox string `json:"outbox"`
	// Database is outboxdb.Store.DatabaseID's.
	Database uuid.UUID `json:"database"`
}

// Identity tells this database from every other one; outboxdb.Store has it. It is
// asked at every task, and safe for concurrent use.
type Identity interface {
	DatabaseID(ctx context.Context) (uuid.UUID, error)
}

var errAnotherOutbox = errors.New("not attempted here")

// anotherDelay is the wait after a refusal. It is short: of the workers that poll a shared task
// queue, some are the right ones.
func anotherDelay(attempt int32) time.Duration {
	return min(retryDelay(attempt, 0), timing.MaxForeignDelay)
}

// warnForeign is how often a process warns of tasks that are not its own.
const warnForeign = time.Minute

// ownership refuses what is for another outbox.
type ownership struct {
	outbox   string // "" where only the database counts
	identity Identity

	mu      sync.Mutex
	warned  time.Time
	refused int // since then
}

// check returns an error for a task that is for another outbox or another database:
// what it names is not in this table, or is somebody else's by chance. The error is
// retryable, and no attempt is counted: a worker of its own gets it later.
func (o *ownership) check(ctx context.Context, owner Owner) error {
	here, err := o.identity.DatabaseID(ctx)
	if err != nil {
		return outflow.Retryable(fmt.Errorf("%w: %w", outflow.ErrNotAttempted, err))
	}
	var said string
	switch {
	case o.outbox != "" && owner.Outbox != o.outbox:
		said = fmt.Sprintf("this task is for outbox %q, and this worker has outbox %q", owner.Outbox, o.outbox)
	case owner.Database != here:
		said = fmt.Sprintf("this task of outbox %q is for database %s, and this worker has database %s (outbox.identity)", owner.Outbox, owner.Database, here)
	default:
		return nil
	}
	o.warn(ctx, said)
	return outflow.Retryable(fmt.Errorf("%w: %s", errAnotherOutbox, said))
}

func (o *ownership) warn(ctx context.Context, said string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.refused++
	if time.Since(o.warned) < warnForeign {
		return
	}
	activity.GetLogger(ctx).Warn("refusing a task of another outbox: give each database an OUTFLOW_OUTBOX and an OUTFLOW_TASK_QUEUE of its own",
		"reason", said, "refused", o.refused)
	o.warned, o.refused = time.Now(), 0
}

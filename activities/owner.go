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

// Owner says which outbox a task is for. Outboxes that share a namespace and a task queue get each
// other's tasks.
type Owner struct {
	Outbox string `json:"outbox"`
	// Database is the result of outboxdb.Store.DatabaseID.
	Database uuid.UUID `json:"database"`
}

// Identity tells this database from every other one; outboxdb.Store has it. DatabaseID is called
// for every task, and safe for concurrent use.
type Identity interface {
	DatabaseID(ctx context.Context) (uuid.UUID, error)
}

var errAnotherOutbox = errors.New("not attempted here")

// foreignDelay is the wait after a refusal. It is short: some workers that poll a shared task queue
// are the right ones.
func foreignDelay(attempt int32) time.Duration {
	return timing.ForeignDelay(retryDelay(attempt, 0))
}

// foreignWarnInterval lies between two warnings of a process about tasks that are not its own.
const foreignWarnInterval = time.Minute

// ownership refuses tasks of another outbox.
type ownership struct {
	outbox   string // "" compares the database alone
	identity Identity

	mu      sync.Mutex
	warned  time.Time
	refused int // since warned
}

// check returns an error for a task of another outbox or another database. Its message is not in
// this table, or is another one with the same ID by chance. The error is retryable, and no attempt
// is counted: a worker of the right outbox gets the task later.
func (o *ownership) check(ctx context.Context, owner Owner) error {
	here, err := o.identity.DatabaseID(ctx)
	if err != nil {
		return outflow.Retryable(fmt.Errorf("%w: %w", outflow.ErrNotAttempted, err))
	}
	var reason string
	switch {
	case o.outbox != "" && owner.Outbox != o.outbox:
		reason = fmt.Sprintf("this task is for outbox %q, and this worker has outbox %q", owner.Outbox, o.outbox)
	case owner.Database != here:
		reason = fmt.Sprintf("this task of outbox %q is for database %s, and this worker has database %s"+
			" (outbox.identity)",
			owner.Outbox, owner.Database, here)
	default:
		return nil
	}
	o.warn(ctx, reason)
	return outflow.Retryable(fmt.Errorf("%w: %s", errAnotherOutbox, reason))
}

func (o *ownership) warn(ctx context.Context, reason string) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.refused++
	if time.Since(o.warned) < foreignWarnInterval {
		return
	}
	activity.GetLogger(ctx).Warn("refusing a task of another outbox:"+
		" give each database an OUTFLOW_OUTBOX and an OUTFLOW_TASK_QUEUE of its own",
		"reason", reason, "refused", o.refused)
	o.warned, o.refused = time.Now(), 0
}

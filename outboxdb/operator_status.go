package outboxdb

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/outbox"
)

// PhaseCount counts the messages of one destination in one phase.
type PhaseCount struct {
	Destination string `db:"destination" json:"destination"`
	// Phase is due, delayed, leased, waiting or retrying for pending messages, dismissed
	// for dead ones that an operator let go, else the final state.
	Phase    string `db:"phase" json:"phase"`
	Messages int    `db:"messages" json:"messages"`
	// AtLeast says that there are more: counting stopped at its bound.
	AtLeast bool `db:"at_least" json:"atLeast"`
	// OldestSeconds is how long the oldest has been due (pending) or dead; zero
	// where it is not due, and for the other final states.
	OldestSeconds float64 `db:"oldest_seconds" json:"oldestSeconds,omitempty"`
	// LastError is one of those of waiting, retrying and dead messages.
	LastError string `db:"last_error" json:"lastError,omitempty"`
}

// Trouble is what a destination's breaker says while it fails, or while its target is slow.
type Trouble struct {
	Destination  string     `db:"destination" json:"destination"`
	Failures     int        `db:"failures" json:"failures"`
	FailingSince *time.Time `db:"failing_since" json:"failingSince,omitempty"`
	OpenUntil    *time.Time `db:"open_until" json:"openUntil,omitempty"`
	// Open says that nothing but a probe is sent there right now.
	Open      bool   `db:"open" json:"open"`
	LastError string `db:"last_error" json:"lastError,omitempty"`
	// SlowUntil is how long the target counts as slow: its messages leave the fast path
	// unsent, and are sent with the publisher's whole timeout.
	SlowUntil *time.Time `db:"slow_until" json:"slowUntil,omitempty"`
	// The destinations from the first up to the second, without it, are the breaker's.
	CoversFrom   string `db:"covers_from" json:"-"`
	CoversBefore string `db:"covers_before" json:"-"`
}

// waitedFor leaves out breakers that no pending message stands behind: where nothing
// waits nobody has anything to do.
func waitedFor(troubled []Trouble, counts []PhaseCount) []Trouble {
	var pending []string
	for _, c := range counts {
		if !outflow.State(c.Phase).Final() && c.Phase != "dismissed" {
			pending = append(pending, c.Destination)
		}
	}
	slices.Sort(pending)
	return slices.DeleteFunc(troubled, func(b Trouble) bool {
		at, _ := slices.BinarySearch(pending, b.CoversFrom)
		return at == len(pending) || pending[at] >= b.CoversBefore
	})
}

// Status counts all pending and dead messages, and of delivered, expired, cancelled
// and dismissed ones the newest bound each, by destination. It also returns the
// destinations that fail, or are slow, while messages wait for them. It reads every pending and
// dead row: a question for people, not for a loop.
func (o *Operator) Status(ctx context.Context, bound int) (counts []PhaseCount, troubled []Trouble, err error) {
	err = pgx.BeginTxFunc(ctx, o.pool, pgx.TxOptions{IsoLevel: pgx.RepeatableRead, AccessMode: pgx.ReadOnly}, func(tx pgx.Tx) error {
		for _, ask := range []struct {
			statement string
			args      []any
		}{
			{statusPending, nil}, {statusDead, nil}, {statusDismissed, []any{bound}},
			{statusNewest, []any{outflow.Delivered, bound}}, {statusNewest, []any{outflow.Expired, bound}}, {statusNewest, []any{outflow.Cancelled, bound}},
		} {
			rows, err := tx.Query(ctx, ask.statement, ask.args...)
			if err != nil {
				return err
			}
			some, err := pgx.CollectRows(rows, pgx.RowToStructByName[PhaseCount])
			if err != nil {
				return err
			}
			counts = append(counts, some...)
		}
		rows, err := tx.Query(ctx, troubledDestinations)
		if err != nil {
			return err
		}
		troubled, err = pgx.CollectRows(rows, pgx.RowToStructByName[Trouble])
		return err
	})
	if err != nil {
		return nil, nil, fmt.Errorf("counting messages: %w", err)
	}
	return counts, waitedFor(troubled, counts), nil
}

// Dead counts the dead messages that nobody dismissed, of each destination that has
// any.
func (o *Operator) Dead(ctx context.Context) ([]PhaseCount, error) {
	rows, err := o.pool.Query(ctx, statusDead)
	if err != nil {
		return nil, fmt.Errorf("counting dead messages: %w", err)
	}
	counts, err := pgx.CollectRows(rows, pgx.RowToStructByName[PhaseCount])
	if err != nil {
		return nil, fmt.Errorf("counting dead messages: %w", err)
	}
	return counts, nil
}

// hearsWithin is how long a doctor waits for its own notification.
const hearsWithin = 2 * time.Second

// Hears reports whether a notification that the pool sends arrives on another of its
// connections. A transaction pooler drops it.
func (o *Operator) Hears(ctx context.Context) (bool, error) {
	conn, err := o.pool.Acquire(ctx)
	if err != nil {
		return false, fmt.Errorf("listening: %w", err)
	}
	listening := conn.Hijack() // a pool must not get back what listens
	defer listening.Close(context.WithoutCancel(ctx))
	if _, err := listening.Exec(ctx, "LISTEN outflow_doctor"); err != nil {
		return false, fmt.Errorf("listening: %w", err)
	}
	if _, err := o.pool.Exec(ctx, "NOTIFY outflow_doctor"); err != nil {
		return false, fmt.Errorf("notifying: %w", err)
	}
	inTime, cancel := context.WithTimeout(ctx, hearsWithin)
	defer cancel()
	_, err = listening.WaitForNotification(inTime)
	if err != nil && inTime.Err() != nil && ctx.Err() == nil {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("waiting for a notification: %w", err)
	}
	return true, nil
}

// Health is what a doctor wants to know of the database.
type Health struct {
	Clock    time.Time `db:"clock"`
	Role     string    `db:"role"`
	Database string    `db:"database"`
	Version  string    `db:"version"`
	// ReadOnly says that the server takes no writes: it is a standby, or
	// default_transaction_read_only is on.
	ReadOnly bool `db:"read_only"`
	// Encoding is the database's, in which it keeps text.
	Encoding string `db:"encoding"`
	// What the role may do: enqueue, run the daemons, act as an operator.
	Produces   bool `db:"produces"`
	Dispatches bool `db:"dispatches"`
	Operates   bool `db:"operates"`
	// SeesAll says that the server tells this role the age of other roles' snapshots,
	// too.
	SeesAll bool `db:"sees_all"`
	// Snapshots are all that are held, by sessions, prepared transactions and
	// replication slots: vacuum can't remove what they may still see.
	Snapshots []outbox.HeldSnapshot `db:"-"`
}

// Health looks at the database as this role and this host see it.
func (o *Operator) Health(ctx context.Context) (Health, error) {
	rows, err := o.pool.Query(ctx, health)
	if err != nil {
		return Health{}, fmt.Errorf("looking at the database: %w", err)
	}
	h, err := pgx.CollectExactlyOneRow(rows, pgx.RowToStructByName[Health])
	if err != nil {
		return Health{}, fmt.Errorf("looking at the database: %w", err)
	}
	h.Snapshots, err = findSnapshots(ctx, o.pool)
	return h, err
}

package faults

import (
	"context"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"
)

// Tally is what became of a load.
type Tally struct {
	Enqueued, Delivered, Lost, Duplicates int
	// InFlight is the sum over all faults of what was in flight at each.
	InFlight int
	Drain    time.Duration
	// LostIDs are the first few of the lost, with what is wrong with each.
	LostIDs []string
}

func (t Tally) String() string {
	return fmt.Sprintf("enqueued %d, delivered %d, lost %d, duplicates %d, in flight at kills %d, time to drain %s",
		t.Enqueued, t.Delivered, t.Lost, t.Duplicates, t.InFlight, t.Drain.Round(10*time.Millisecond))
}

// inFlight finds what a scanner or a run holds: a lease, or a retry to come.
const inFlight = `
SELECT count(*) FROM outbox.messages
 WHERE state = 'pending' AND (retrying OR (available_at > now() AND due_at <= now()))`

// InFlight counts the messages that are leased or retrying now.
func (w *World) InFlight(ctx context.Context) (n int, err error) {
	if err := w.Pool.QueryRow(ctx, inFlight).Scan(&n); err != nil {
		return 0, fmt.Errorf("counting what is in flight: %w", err)
	}
	return n, nil
}

// Pending counts the messages that are not final.
func (w *World) Pending(ctx context.Context) (n int, err error) {
	if err := w.Pool.QueryRow(ctx, "SELECT count(*) FROM outbox.messages WHERE state = 'pending'").Scan(&n); err != nil {
		return 0, fmt.Errorf("counting what is pending: %w", err)
	}
	return n, nil
}

// Drain waits until every message is final and returns how long that took. What
// is left at the end of ctx is an error.
func (w *World) Drain(ctx context.Context) (time.Duration, error) {
	began := time.Now()
	for {
		pending, err := w.Pending(ctx)
		if err == nil && pending == 0 {
			return time.Since(began), nil
		}
		select {
		case <-ctx.Done():
			return time.Since(began), fmt.Errorf("draining: %d messages are still pending (%w)", pending, ctx.Err())
		case <-time.After(50 * time.Millisecond):
		}
	}
}

// Arrivals counts what stands in the queues by message ID.
func (w *World) Arrivals(queues ...string) map[uuid.UUID]int {
	counts := map[uuid.UUID]int{}
	for _, queue := range queues {
		for _, entry := range w.Queues.Messages("", queue) {
			id, _ := uuid.Parse(entry.MessageAttributes["outflow-message-id"].StringValue)
			counts[id]++
		}
	}
	return counts
}

// Row is what is read of each message.
type Row struct {
	ID          uuid.UUID `db:"id"`
	Type        string    `db:"type"`
	State       string    `db:"state"`
	Destination string    `db:"destination"`
	LastError   string    `db:"last_error"`
}

const readRows = `
SELECT id, type, state, destination, coalesce(last_error, '') AS last_error FROM outbox.messages`

// Tally compares what was committed with the table and the queues. The load must
// have been stopped. A message is lost where its row is gone or not final, or
// where it never arrived: none of the load's can rightly end otherwise.
func (l *Load) Tally(ctx context.Context, queues ...string) (Tally, error) {
	return l.TallyOf(ctx, l.world.Arrivals(queues...))
}

// TallyOf is Tally where somebody else knows what arrived, how often.
func (l *Load) TallyOf(ctx context.Context, arrived map[uuid.UUID]int) (Tally, error) {
	committed, byID, err := l.Rows(ctx)
	if err != nil {
		return Tally{}, err
	}
	t := Tally{Enqueued: len(committed)}
	for _, id := range committed {
		r, exists := byID[id]
		if exists && r.State != "pending" && arrived[id] > 0 {
			t.Delivered++
			continue
		}
		if t.Lost++; len(t.LostIDs) < 10 {
			t.LostIDs = append(t.LostIDs, fmt.Sprintf("%s: row exists %t, state %q, arrived %d times, to %s, last error %q",
				id, exists, r.State, arrived[id], r.Destination, r.LastError))
		}
	}
	for _, n := range arrived {
		t.Duplicates += n - 1
	}
	return t, nil
}

// Rows returns what the load committed, and every row of the table. The load must
// have been stopped.
func (l *Load) Rows(ctx context.Context) (committed []uuid.UUID, byID map[uuid.UUID]Row, err error) {
	found, err := l.world.Pool.Query(ctx, readRows)
	if err != nil {
		return nil, nil, fmt.Errorf("reading how the messages ended: %w", err)
	}
	rows, err := pgx.CollectRows(found, pgx.RowToStructByName[Row])
	if err != nil {
		return nil, nil, fmt.Errorf("reading how the messages ended: %w", err)
	}
	byID = map[uuid.UUID]Row{}
	for _, r := range rows {
		byID[r.ID] = r
	}
	committed = slices.Clone(l.committed)
	for _, id := range l.unsure {
		if _, ok := byID[id]; ok {
			committed = append(committed, id)
		}
	}
	return committed, byID, nil
}

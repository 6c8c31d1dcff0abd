package faults

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/outbox"
)

// Beside is the heading of the load that an ambush runs beside.
const Beside = "load beside it"

// killSeen is how much later than its sender's death a copy may be seen to arrive.
const killSeen = time.Second

// PointResult is what became of the messages of one point.
type PointResult struct {
	Point string
	// Kills and Struck are the processes killed there, and the messages that they
	// had at that moment.
	Kills, Struck int
	// Killed are the same processes by their program: where none of the wanted kind
	// comes to a point, another is killed.
	Killed              map[string]int
	Enqueued, Delivered int
	// Lost callbacks are those that the receiver has never answered, or that the row
	// does not call sent. Twice are those that were sent more than once.
	Lost, Twice int
	// Republished are copies beyond the first. AfterMark are those of them that were
	// sent when the row was final; Unexplained those that came without the death of
	// who had sent the one before.
	Republished, AfterMark, Unexplained int
}

func (t PointResult) String() string {
	return fmt.Sprintf("%-28s  kills %3d (starters %d, workers %d), struck %4d, enqueued %5d, delivered %5d, lost callbacks %d, sent more than once %d, republished %d, after the mark %d",
		t.Point, t.Kills, t.Killed[Starter], t.Killed[Worker], t.Struck, t.Enqueued, t.Delivered, t.Lost, t.Twice, t.Republished, t.AfterMark)
}

// Report is the end of an ambush: a line for each point and for the load.
type Report struct {
	Lines []PointResult
	// Wrong are the first few of the things that may not be.
	Wrong []string
	wrong int
	// Drain is how long the last callback took after the load.
	Drain time.Duration
}

func (r *Report) blame(format string, args ...any) {
	if r.wrong++; len(r.Wrong) < 20 {
		r.Wrong = append(r.Wrong, fmt.Sprintf(format, args...))
	}
}

// Err is nil where every message was delivered, every callback was sent, and
// nothing was published again but where its sender had died before the mark.
func (r *Report) Err() error {
	if r.wrong == 0 {
		return nil
	}
	errs := []error{fmt.Errorf("%d things are wrong", r.wrong)}
	for _, w := range r.Wrong {
		errs = append(errs, errors.New(w))
	}
	return errors.Join(errs...)
}

// unfinished counts the messages that have not ended and the callbacks that are due.
func (w *World) unfinished(ctx context.Context) (n int, err error) {
	err = w.Pool.QueryRow(ctx, "SELECT count(*) FROM outbox.messages WHERE state = 'pending' OR callback_state = 'due'").Scan(&n)
	if err != nil {
		return 0, fmt.Errorf("counting unfinished messages: %w", err)
	}
	return n, nil
}

// drainCallbacks waits until every message has ended and no callback is due.
func (w *World) drainCallbacks(ctx context.Context) (time.Duration, error) {
	began := time.Now()
	for {
		n, err := w.unfinished(ctx)
		if err == nil && n == 0 {
			return time.Since(began), nil
		}
		select {
		case <-ctx.Done():
			return time.Since(began), fmt.Errorf("draining: %d messages or callbacks are still unfinished (%w)", n,
				ctx.Err())
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// Settle waits for the last callback, and says what became of every message. The
// load must have been stopped.
func (a *Ambush) Settle(ctx context.Context, load *Load) (*Report, error) {
	drain, drainErr := a.World.drainCallbacks(ctx)
	r, err := a.report(context.WithoutCancel(ctx), load)
	if err != nil {
		return nil, errors.Join(drainErr, err)
	}
	r.Drain = drain
	return r, drainErr
}

// report compares what was committed with the table, the queues and the receiver.
func (a *Ambush) report(ctx context.Context, load *Load) (*Report, error) {
	rows, err := a.World.callbackRows(ctx)
	if err != nil {
		return nil, err
	}
	a.mu.Lock()
	blind := errors.Join(a.blind...)
	a.mu.Unlock()
	if blind != nil {
		return nil, blind
	}
	r := &Report{}
	arrived := a.World.Arrivals(orders, retried)
	for _, point := range append(append([]string{}, Points...), Beside) {
		line := PointResult{Point: point, Killed: map[string]int{}}
		var ids []uuid.UUID
		for _, s := range a.shots {
			if s.Point != point || !s.fired {
				continue
			}
			if ids = append(ids, s.ids...); s.struck > 0 {
				line.Kills++
				line.Killed[s.killed]++
				line.Struck += s.struck
			}
		}
		if point == Beside {
			ids = slices.Concat(ids, a.strays, load.committed)
		}
		for _, id := range ids {
			a.judge(r, &line, id, rows[id], arrived[id])
		}
		r.Lines = append(r.Lines, line)
	}
	for _, forged := range a.Receiver.forgeries() {
		r.blame("the receiver refused a request: %v", forged)
	}
	return r, nil
}

// callbackRow is what a report reads of each message.
type callbackRow struct {
	ID         uuid.UUID     `db:"id"`
	State      outflow.State `db:"state"`
	Generation int           `db:"generation"`
	Callback   string        `db:"callback_state"`
	LastError  string        `db:"last_error"`
}

func (w *World) callbackRows(ctx context.Context) (map[uuid.UUID]callbackRow, error) {
	found, err := w.Pool.Query(ctx, `SELECT id, state, generation, coalesce(callback_state, 'none') AS callback_state,
		concat_ws('; ', last_error, callback_error) AS last_error FROM outbox.messages`)
	if err != nil {
		return nil, fmt.Errorf("reading how the messages ended: %w", err)
	}
	rows, err := pgx.CollectRows(found, pgx.RowToStructByName[callbackRow])
	if err != nil {
		return nil, fmt.Errorf("reading how the messages ended: %w", err)
	}
	byID := map[uuid.UUID]callbackRow{}
	for _, row := range rows {
		byID[row.ID] = row
	}
	return byID, nil
}

// judge counts one message into its line.
func (a *Ambush) judge(r *Report, line *PointResult, id uuid.UUID, row callbackRow, arrived int) {
	line.Enqueued++
	if row.State == outflow.Delivered && arrived > 0 {
		line.Delivered++
	} else {
		r.blame("%s: %s: state %q, arrived %d times, %s", line.Point, id, row.State, arrived, row.LastError)
	}
	seen := a.Receiver.of(callbackID(id, row.Generation, row.State))
	if seen.received > 1 {
		line.Twice++
	}
	if seen.answered == 0 || row.Callback != string(outbox.CallbackSent) {
		line.Lost++
		r.blame("%s: %s: its callback is %s, the receiver has seen %d and answered %d: %s", line.Point, id,
			row.Callback, seen.received, seen.answered, row.LastError)
	}
	line.Republished += max(arrived-1, 0)
	if arrived > 1 && line.Point != NotMarked && line.Point != Beside {
		r.blame("%s: %s: published %d times", line.Point, id, arrived)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	copies := a.copies[id]
	for i, c := range copies {
		switch {
		case c.ended:
			line.AfterMark++
			r.blame("%s: %s: sent by %s when its row was final", line.Point, id, c.from)
		case i > 0 && !a.diedBetween(copies[i-1], c):
			line.Unexplained++
			r.blame("%s: %s: sent by %s, and again by %s, with no death between", line.Point, id, copies[i-1].from,
				c.from)
		}
	}
}

// diedBetween reports whether the sender of one copy was killed before the next.
func (a *Ambush) diedBetween(one, next copySent) bool {
	for _, k := range a.kills {
		if k.agent == one.from && k.at.After(one.at.Add(-killSeen)) && k.at.Before(next.at) {
			return true
		}
	}
	return false
}

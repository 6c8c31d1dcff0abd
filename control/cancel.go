package control

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/outboxdb"
)

// CancelStore is the table as Cancel needs it; outboxdb.Operator is one.
type CancelStore interface {
	RequestCancel(ctx context.Context, ids []uuid.UUID, by outboxdb.By) ([]outboxdb.Change, error)
	EndCancelled(ctx context.Context, ref outbox.Ref, by outboxdb.By) (outboxdb.Change, error)
	Show(ctx context.Context, id uuid.UUID) (outboxdb.Standing, error)
}

var _ CancelStore = (*outboxdb.Operator)(nil)

const (
	// lookEvery is the wait between two looks at messages whose runs were asked.
	lookEvery = 100 * time.Millisecond
	// leastAsking is how long runs are asked, however short the wait.
	leastAsking = time.Second
)

// errNoTime is why a run was not told where its turn did not come.
var errNoTime = errors.New("there was no time for it")

// Cancel asks for the end of pending messages and waits, at most wait, until it
// is known how each ended. A message whose run has handed it to the broker ends
// delivered; then the cancel came too late. One that is undecided stays marked:
// the next look of a run at its row ends it cancelled. A Temporal that does not
// answer is given no more than that time either, or a second.
func (d Desk) Cancel(ctx context.Context, store CancelStore, ids []uuid.UUID, wait time.Duration) ([]Answer, error) {
	changes, err := store.RequestCancel(ctx, ids, d.By)
	if err != nil {
		return nil, err
	}
	answers := make([]Answer, len(changes))
	open := map[int]*cancelling{}
	for i, c := range changes {
		if c.Found && c.NewState == outflow.Pending {
			open[i] = &cancelling{Desk: d, store: store, change: c, looked: c.Standing, failed: errNoTime}
			continue
		}
		answers[i] = cancelEnded(c, c.NewState, c.Done)
	}
	deadline := time.Now().Add(wait)
	asking, stopAsking := context.WithTimeout(ctx, max(wait, leastAsking))
	defer stopAsking()
	soFar := func() []Answer {
		for i, c := range open {
			answers[i] = c.undecided(c.looked)
		}
		return answers
	}
	for {
		over := !time.Now().Before(deadline)
		for i, c := range open {
			a, decided, err := c.look(ctx, asking)
			if err != nil {
				return soFar(), err
			}
			if decided || over {
				answers[i] = a
				delete(open, i)
			}
		}
		if len(open) == 0 {
			return answers, nil
		}
		select {
		case <-ctx.Done():
			return soFar(), fmt.Errorf("waiting for %d cancelled messages, which stay marked: %w", len(open), context.Cause(ctx))
		case <-time.After(min(lookEvery, max(time.Until(deadline), 0))):
		}
	}
}

// cancelEnded answers for a message that is not pending, or not any more.
func cancelEnded(c outboxdb.Change, state outflow.State, byUs bool) Answer {
	c.NewState = state
	switch {
	case state == outflow.Cancelled && byUs:
		return answer(c, Done, "cancelled")
	case state == outflow.Cancelled:
		return answer(c, Done, "cancelled before")
	case state == outflow.Delivered:
		return answer(c, Refused, "too late: delivered")
	}
	return answer(c, Refused, "too late: %s", state)
}

// cancelling is a pending message whose cancel was requested.
type cancelling struct {
	Desk
	store  CancelStore
	change outboxdb.Change
	looked outboxdb.Standing // by the last look
	told   bool              // its run was asked
	failed error             // what kept it from being told, so far
}

// look asks the message's run, until that worked, and reads the row. Where
// Temporal knows no open run, and no lease says that a start may be on its way,
// nobody holds the message: it is ended here. That no run has it is asked after
// the request was written, so a later one sees the request.
func (c *cancelling) look(ctx, asking context.Context) (a Answer, decided bool, err error) {
	none := false
	// Beside a lease, a run that starts later sees the request by itself.
	if asking.Err() == nil && !c.told && (c.looked.Available || !errors.Is(c.failed, ErrNoRun)) {
		c.failed = c.Runs.Cancel(asking, c.workflowID(c.change.ID))
		none = errors.Is(c.failed, ErrNoRun)
		c.told = c.failed == nil
	}
	s, err := c.store.Show(ctx, c.change.ID)
	if err == nil {
		c.looked = s
	}
	switch {
	case errors.Is(err, outflow.ErrNotFound):
		return answer(outboxdb.Change{Standing: c.change.Standing}, Refused, ""), true, nil
	case err != nil:
		return Answer{}, false, err
	case s.State.Final():
		return cancelEnded(c.change, s.State, true), true, nil
	case !s.CancelRequested:
		return answer(c.change, Refused, "too late: it was started anew meanwhile"), true, nil
	case none && s.Available:
		ended, err := c.store.EndCancelled(ctx, s.Ref(), c.By)
		if err != nil {
			return Answer{}, false, err
		}
		if ended.Done {
			return cancelEnded(c.change, outflow.Cancelled, true), true, nil
		}
	}
	return c.undecided(s), false, nil
}

// undecided is the answer when the time to wait is over.
func (c *cancelling) undecided(s outboxdb.Standing) Answer {
	switch {
	case c.told:
		return answer(c.change, Undecided, "requested: its run was asked and has not ended yet")
	case errors.Is(c.failed, ErrNoRun):
		return answer(c.change, Undecided, "requested: it has no run, and is leased until %s; then the next run ends it, or another cancel", stamp(s.AvailableAt))
	}
	return answer(c.change, Failed, "requested: the next look of its run ends it; now that could not be told: %v", c.failed)
}

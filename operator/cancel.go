package operator

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/google/uuid"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/internal/text"
	"github.com/outflowhq/outflow/outbox"
	"github.com/outflowhq/outflow/outboxdb"
)

const (
	// lookEvery is the wait between two looks at messages whose runs were asked.
	lookEvery = 100 * time.Millisecond
	// minAsking is how long runs are asked, however short the wait.
	minAsking = time.Second
)

// errNoTime is why a run was not asked where its turn did not come.
var errNoTime = errors.New("there was no time for it")

// cancelTable is the table as Cancel uses it: an Operator with its Store. The tests play one under
// a clock of their own.
type cancelTable interface {
	RequestCancel(ctx context.Context, ids []uuid.UUID, who, why string) ([]outboxdb.Cancel, error)
	EndCancelled(ctx context.Context, ref outbox.Ref, who, why string) (ended bool, err error)
	Message(ctx context.Context, id uuid.UUID) (MessageStatus, error)
}

// messageTable is both.
type messageTable struct {
	*outboxdb.Store
	*Operator
}

var _ cancelTable = messageTable{}

// Cancel ends pending messages and waits, at most wait, until it is known how each ended.
//   - A message that was never claimed is ended at once (outboxdb.Store.RequestCancel).
//   - A message in a stream's page ends delivered if the stream sends it.
//   - The run of any other is asked. If it has handed the message to the broker, the message ends
//     delivered: the cancel came too late.
//   - A message that is undecided after the wait stays marked: the next look of a run at its row
//     ends it cancelled.
//
// A Temporal that does not answer gets no more time than wait either, but at least a second.
func (o *Operator) Cancel(ctx context.Context, ids []uuid.UUID, wait time.Duration, by Actor) ([]Answer, error) {
	return o.cancel(ctx, messageTable{o.store, o}, ids, wait, by)
}

func (o *Operator) cancel(
	ctx context.Context, table cancelTable, ids []uuid.UUID, wait time.Duration, by Actor,
) ([]Answer, error) {
	requests, err := table.RequestCancel(ctx, ids, by.Who, by.Why)
	if err != nil {
		return nil, err
	}
	answers := make([]Answer, len(requests))
	open := map[int]*cancelling{}
	for i, c := range requests {
		if c.Found && c.State == outflow.Pending {
			open[i] = &cancelling{
				Operator: o, table: table, by: by, Cancel: c,
				available: c.Available, inPage: c.InPage, leasedUntil: c.AvailableAt, failed: errNoTime,
			}
			continue
		}
		answers[i] = cancelEnded(c, c.State, c.Done)
	}
	deadline := time.Now().Add(wait)
	asking, stopAsking := context.WithTimeout(ctx, max(wait, minAsking))
	defer stopAsking()
	soFar := func() []Answer {
		for i, c := range open {
			answers[i] = c.undecided()
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
			return soFar(), fmt.Errorf("waiting for %d cancelled messages, which stay marked: %w",
				len(open), context.Cause(ctx))
		case <-time.After(min(lookEvery, max(time.Until(deadline), 0))):
		}
	}
}

func cancelAnswer(c outboxdb.Cancel, verdict Verdict, format string, args ...any) Answer {
	if !c.Found {
		return notFound(c.ID)
	}
	return Answer{
		ID: c.ID, Verdict: verdict, Text: fmt.Sprintf(format, args...), State: c.State, Generation: c.Generation,
	}
}

// cancelEnded answers for a message that is not pending, or not any more.
func cancelEnded(c outboxdb.Cancel, state outflow.State, byUs bool) Answer {
	c.State = state
	switch {
	case state == outflow.Cancelled && byUs:
		return cancelAnswer(c, Done, "cancelled")
	case state == outflow.Cancelled:
		return cancelAnswer(c, Done, "cancelled before")
	case state == outflow.Delivered:
		return cancelAnswer(c, Refused, "too late: delivered")
	}
	return cancelAnswer(c, Refused, "too late: %s", state)
}

// cancelling is a pending message whose cancel was requested.
type cancelling struct {
	*Operator
	outboxdb.Cancel
	table cancelTable
	by    Actor
	// By the last look at the row: no lease holds it, a stream has it, and until when it is leased.
	available, inPage bool
	leasedUntil       time.Time
	asked             bool  // its run was asked
	failed            error // why its run was not asked so far
}

// look asks the message's run, until that worked, and reads the row. It ends the message itself
// where Temporal knows no open run and no lease says that a start may be on its way. The request
// was written before Temporal was asked, so a run that starts later sees it.
func (c *cancelling) look(ctx, asking context.Context) (a Answer, decided bool, err error) {
	noRun := false
	// Beside a lease, a run that starts later sees the request by itself. In a page it has no run.
	if asking.Err() == nil && !c.asked && !c.inPage && (c.available || !errors.Is(c.failed, ErrNoRun)) {
		c.failed = c.runs.Cancel(asking, c.workflowID(c.ID))
		noRun = errors.Is(c.failed, ErrNoRun)
		c.asked = c.failed == nil
	}
	m, err := c.table.Message(ctx, c.ID)
	switch {
	case errors.Is(err, outflow.ErrNotFound):
		return notFound(c.ID), true, nil
	case err != nil:
		return Answer{}, false, err
	}
	c.available, c.inPage, c.leasedUntil = m.Available, m.InPage, m.AvailableAt
	switch {
	case m.State.Final():
		return cancelEnded(c.Cancel, m.State, true), true, nil
	case !m.CancelRequested:
		return cancelAnswer(c.Cancel, Refused, "too late: somebody started it again meanwhile"), true, nil
	case noRun && m.Available:
		ended, err := c.table.EndCancelled(ctx, m.Ref(), c.by.Who, c.by.Why)
		if err != nil {
			return Answer{}, false, err
		}
		if ended {
			return cancelEnded(c.Cancel, outflow.Cancelled, true), true, nil
		}
	}
	return c.undecided(), false, nil
}

// undecided is the answer when the time to wait is over.
func (c *cancelling) undecided() Answer {
	switch {
	case c.inPage:
		return cancelAnswer(c.Cancel, Undecided,
			"requested: a stream has it in a page; if it is not sent with it, the next look at its row ends it")
	case c.asked:
		return cancelAnswer(c.Cancel, Undecided, "requested: its run was asked and has not ended yet")
	case errors.Is(c.failed, ErrNoRun):
		return cancelAnswer(c.Cancel, Undecided,
			"requested: it has no run, and is leased until %s; then the next run ends it, or another cancel",
			text.Stamp(c.leasedUntil))
	}
	return cancelAnswer(c.Cancel, Failed,
		"requested: its run ends it at its next look; the run could not be asked now: %v", c.failed)
}

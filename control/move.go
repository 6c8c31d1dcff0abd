package control

import (
	"context"
	"errors"
	"time"

	"github.com/google/uuid"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/outboxdb"
)

// RedirectStore is the table as Redirect needs it; outboxdb.Operator is one.
type RedirectStore interface {
	releaser
	Redirect(ctx context.Context, ids []uuid.UUID, destination string, by outboxdb.By) ([]outboxdb.Change, error)
	RetryTo(ctx context.Context, ids []uuid.UUID, destination string, by outboxdb.By) ([]outboxdb.Change, error)
}

// RescheduleStore is the table as Reschedule needs it; outboxdb.Operator is one.
type RescheduleStore interface {
	releaser
	Reschedule(ctx context.Context, ids []uuid.UUID, at time.Time, in time.Duration, by outboxdb.By) ([]outboxdb.Change, error)
}

var (
	_ RedirectStore   = (*outboxdb.Operator)(nil)
	_ RescheduleStore = (*outboxdb.Operator)(nil)
	_ ResendStore     = (*outboxdb.Operator)(nil)
)

// Redirect gives pending messages another destination, in canonical form, and
// starts dead, expired and cancelled ones anew towards it. A publish that is under
// way may still reach the old destination; the message ends with the new one's
// acknowledgement all the same.
func (d Desk) Redirect(ctx context.Context, store RedirectStore, ids []uuid.UUID, destination string) ([]Answer, error) {
	changes, err := store.Redirect(ctx, ids, destination, d.By)
	if err != nil {
		return nil, err
	}
	goesThere := func(c outboxdb.Change) string {
		if c.Destination == destination {
			return "it goes there already"
		}
		return ""
	}
	var ended []uuid.UUID
	for _, c := range changes {
		if c.State.Final() && c.State != outflow.Delivered {
			ended = append(ended, c.ID)
		}
	}
	if len(ended) > 0 {
		retried, err := store.RetryTo(ctx, ended, destination, d.By)
		if err != nil {
			answers, movedErr := d.moved(ctx, store, changes, "redirected to "+outflow.DisplayDestination(destination), goesThere)
			return answers, errors.Join(err, movedErr)
		}
		for i, at := 0, 0; i < len(changes) && at < len(retried); i++ {
			if changes[i].ID == retried[at].ID {
				changes[i] = retried[at]
				at++
			}
		}
	}
	return d.moved(ctx, store, changes, "redirected to "+outflow.DisplayDestination(destination), goesThere)
}

// Reschedule makes pending messages due at a time, or where that is zero in a
// duration from now. A publish that is under way is not held back by it.
func (d Desk) Reschedule(ctx context.Context, store RescheduleStore, ids []uuid.UUID, at time.Time, in time.Duration) ([]Answer, error) {
	changes, err := store.Reschedule(ctx, ids, at, in, d.By)
	if err != nil {
		return nil, err
	}
	return d.moved(ctx, store, changes, "rescheduled", func(c outboxdb.Change) string {
		if c.ExpiresAt != nil {
			return "it expires at " + stamp(*c.ExpiresAt) + ", and would be due after that"
		}
		return ""
	})
}

// moved answers for messages that were started anew, and sends away the runs
// that are in their way. otherwise says why a pending one was left as it is.
func (d Desk) moved(ctx context.Context, store releaser, changes []outboxdb.Change, done string, otherwise func(outboxdb.Change) string) ([]Answer, error) {
	answers := make([]Answer, 0, len(changes))
	for _, c := range changes {
		a := answer(c, Done, "%s", done)
		switch {
		case c.Done && c.Retrying:
			text, _, err := d.nudge(ctx, store, c)
			a.Text += "; " + text
			if err != nil {
				return append(answers, a), err
			}
		case c.Done && c.State == outflow.Pending && !c.Untouched:
			a.Text += "; if a run has it, that makes way within seconds"
		case c.Done || !c.Found:
		case c.State == outflow.Delivered:
			a = answer(c, Refused, "delivered: \"outflow resend\" sends a copy")
		case c.State.Final():
			a = answer(c, Refused, "%s: \"outflow retry\" sends it", c.State)
		case c.CancelRequested:
			a = answer(c, Refused, "pending: its cancel was requested")
		default:
			a = answer(c, Refused, "%s", otherwise(c))
		}
		answers = append(answers, a)
	}
	return answers, nil
}

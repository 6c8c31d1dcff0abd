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
	"github.com/outflowhq/outflow/workflows"
)

// Desk is where an operator acts on messages. Its acts answer for each message,
// in order. With an error, which says that the table could not be asked, come the
// answers for what was changed before it; without any, nothing was.
type Desk struct {
	Runs Runs
	// Outbox is the first part of every workflow ID, as the starters have it.
	Outbox string
	By     outboxdb.By
}

// Verdict is what an act came to, for programs.
type Verdict string

// The verdicts.
const (
	Done      Verdict = "done"      // the message is as it was asked for
	Refused   Verdict = "refused"   // there is none, or it is not in a state for this
	Undecided Verdict = "undecided" // asked for; the time to wait is over
	Failed    Verdict = "failed"    // Temporal could not be asked
)

// Answer says what an act made of one message.
type Answer struct {
	ID      uuid.UUID `json:"id"`
	Verdict Verdict   `json:"verdict"`
	Text    string    `json:"text"`
	// State and Generation are the message's now; empty where there is none.
	State      outflow.State `json:"state,omitempty"`
	Generation int           `json:"generation,omitempty"`
	// NewID is that of the copy which resend made.
	NewID *uuid.UUID `json:"newId,omitempty"`
}

func answer(c outboxdb.Change, verdict Verdict, format string, args ...any) Answer {
	if !c.Found {
		return Answer{ID: c.ID, Verdict: Refused, Text: "not found"}
	}
	return Answer{ID: c.ID, Verdict: verdict, Text: fmt.Sprintf(format, args...), State: c.NewState, Generation: c.NewGeneration}
}

func (d Desk) workflowID(id uuid.UUID) string { return workflows.DeliverID(d.Outbox, id) }

// releaser makes a message claimable that has no run.
type releaser interface {
	Release(ctx context.Context, ref outbox.Ref, leasedUntil time.Time, by outboxdb.By) (outboxdb.Change, error)
}

// nudge asks the run of a retrying message to look at its row. Where it has none,
// its lease waits for nothing and is dropped. It returns what to add to an answer,
// and what Temporal said.
func (d Desk) nudge(ctx context.Context, store releaser, c outboxdb.Change) (text string, said, err error) {
	said = d.Runs.TryNow(ctx, d.workflowID(c.ID))
	switch {
	case said == nil:
		return "its run was told", nil, nil
	case !errors.Is(said, ErrNoRun):
		return "its run could not be told: " + said.Error(), said, nil
	}
	_, err = store.Release(ctx, outbox.Ref{ID: c.ID, Generation: c.NewGeneration}, c.NewAvailableAt, d.By)
	return "it had no run; the next scanner starts one", said, err
}

// RetryStore is the table as Retry needs it; outboxdb.Operator is one.
type RetryStore interface {
	releaser
	Retry(ctx context.Context, ids []uuid.UUID, by outboxdb.By) ([]outboxdb.Change, error)
	NoteTold(ctx context.Context, m outboxdb.Standing, by outboxdb.By) error
}

var _ RetryStore = (*outboxdb.Operator)(nil)

// Retry makes dead, expired and cancelled messages pending again, and asks the
// runs of those that are being retried to try soon.
func (d Desk) Retry(ctx context.Context, store RetryStore, ids []uuid.UUID) ([]Answer, error) {
	changes, err := store.Retry(ctx, ids, d.By)
	if err != nil {
		return nil, err
	}
	answers := make([]Answer, 0, len(ids))
	for _, c := range changes {
		a, err := d.retried(ctx, store, c)
		answers = append(answers, a)
		if err != nil {
			return answers, err
		}
	}
	return answers, nil
}

func (d Desk) retried(ctx context.Context, store RetryStore, c outboxdb.Change) (Answer, error) {
	switch {
	case !c.Found || c.Done:
		return answer(c, Done, "was %s, pending again", c.Phase), nil
	case c.State == outflow.Delivered:
		return answer(c, Refused, "delivered: \"outflow resend\" sends a copy"), nil
	case c.CancelRequested:
		return answer(c, Refused, "pending: its cancel was requested; retry it once it is cancelled"), nil
	case c.Retrying:
		text, said, err := d.nudge(ctx, store, c)
		switch {
		case said == nil: // the row has nothing to show for it
			err = store.NoteTold(ctx, c.Standing, d.By)
		case !errors.Is(said, ErrNoRun):
			return answer(c, Failed, "retrying: %s", text), nil
		}
		return answer(c, Done, "retrying: %s", text), err
	case c.Phase == "delayed":
		return answer(c, Refused, "pending, due at %s: \"outflow reschedule\" changes that", stamp(c.DueAt)), nil
	case c.Phase == "waiting":
		return answer(c, Refused, "pending: it waits for its destination until %s; \"outflow show\" says why", stamp(c.AvailableAt)), nil
	case c.Phase == "leased":
		return answer(c, Refused, "pending: it is being delivered"), nil
	}
	return answer(c, Refused, "pending: it is due and waits for a scanner"), nil
}

// ResendStore is the table as Resend needs it; outboxdb.Operator is one.
type ResendStore interface {
	Resend(ctx context.Context, id uuid.UUID, by outboxdb.By) (outboxdb.Change, uuid.UUID, error)
}

// Resend sends copies of delivered messages, each with an ID of its own. It
// answers for those that it came to before an error.
func (d Desk) Resend(ctx context.Context, store ResendStore, ids []uuid.UUID) ([]Answer, error) {
	answers := make([]Answer, 0, len(ids))
	for _, id := range ids {
		c, newID, err := store.Resend(ctx, id, d.By)
		if err != nil {
			return answers, err
		}
		switch {
		case c.Done:
			a := answer(c, Done, "sent again as %s", newID)
			a.NewID = &newID
			answers = append(answers, a)
		case c.State == outflow.Pending:
			answers = append(answers, answer(c, Refused, "pending: it was not delivered yet"))
		default:
			answers = append(answers, answer(c, Refused, "%s: \"outflow retry\" sends it", c.State))
		}
	}
	return answers, nil
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05Z") }

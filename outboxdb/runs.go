package outboxdb

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/outflowhq/outflow"
	"github.com/outflowhq/outflow/outbox"
)

// Load returns the message as a run may act on it: a row that this process
// claimed is returned once without another look, while its lease has margin
// left; any other is read, and may owe its payload. It returns whatever state and
// generation the row has, and outflow.ErrNotFound where there is none.
func (s *Store) Load(ctx context.Context, ref outbox.Ref) (outbox.Record, error) {
	if record, ok := s.handoff.take(ref); ok {
		return record, nil
	}
	found, err := s.loads.Do(ctx, ref)
	if err != nil {
		return outbox.Record{}, fmt.Errorf("loading message %s: %w", ref.ID, err)
	}
	return found.Record, nil
}

// LoadAgain is Load for a run whose process was lost with its workflow task. The
// look is counted as a claim where the row is pending in that generation.
func (s *Store) LoadAgain(ctx context.Context, ref outbox.Ref) (outbox.Record, error) {
	s.handoff.settle(ref) // whoever claimed it no longer leads
	found, err := insist(ctx, s.reloads, ref)
	if err != nil {
		return outbox.Record{}, fmt.Errorf("loading message %s again: %w", ref.ID, err)
	}
	return found.Record, nil
}

// Renew notes a durable attempt, or a wait: it moves the lease, notes the last error and
// returns the row, which says whether its destination is held back. A row that is
// final, or of another generation, is returned as it stands, with nothing written.
func (s *Store) Renew(ctx context.Context, r outbox.Renewal) (outbox.Record, error) {
	s.handoff.settle(r.Ref) // its run has left the fast path
	found, err := insist(ctx, s.renewals, r)
	if err != nil {
		return outbox.Record{}, fmt.Errorf("renewing the lease of message %s: %w", r.ID, err)
	}
	return found.Record, nil
}

// PutBack leaves a message to a later claim, with the words of the attempt that
// met a destination which takes nothing, and returns how it stands then. One that is
// off the fast path keeps its lease; one that is final, or of another generation, is
// left as it is.
func (s *Store) PutBack(ctx context.Context, ref outbox.Ref, lastError string) (outflow.Outcome, error) {
	record, err := insist(ctx, s.puttings, outbox.Renewal{Ref: ref, LastError: lastError, Attempts: 1})
	if err != nil {
		return outflow.Outcome{}, fmt.Errorf("putting message %s back: %w", ref.ID, err)
	}
	s.handoff.settle(ref)
	return record.Outcome(), nil
}

// Finish writes an end and returns how the message stands then: as asked, or as
// the row says where the end was refused because the row is final already or of
// another generation. It is idempotent.
func (s *Store) Finish(ctx context.Context, e outbox.Ending) (outflow.Outcome, error) {
	if !e.State.Final() {
		return outflow.Outcome{}, fmt.Errorf("finishing message %s: %q is not a final state", e.ID, e.State)
	}
	record, err := insist(ctx, s.endings, e)
	if err == nil || errors.Is(err, outflow.ErrNotFound) {
		s.handoff.settle(e.Ref)
	}
	if err != nil {
		return outflow.Outcome{}, fmt.Errorf("marking message %s %s: %w", e.ID, e.State, err)
	}
	return record.Outcome(), nil
}

// Yield makes a message claimable that ref's run leaves: one that was started
// anew, with a higher generation, while that run was still open, or a suspect,
// which is to be claimed alone.
func (s *Store) Yield(ctx context.Context, ref outbox.Ref) error {
	s.handoff.settle(ref)
	if _, err := s.pool.Exec(ctx, yield, ref.ID, ref.Generation); err != nil {
		return fmt.Errorf("leaving message %s to another run: %w", ref.ID, err)
	}
	return nil
}

// giveBack is a claim whose start did not happen.
type giveBack struct {
	outbox.Ref
	leasedUntil time.Time
	release     bool
}

// Release gives a claim back: it is no longer counted, and the message is due
// again at once, unless its lease has been moved since.
func (s *Store) Release(ctx context.Context, m outbox.ClaimedMessage) error {
	return s.giveBack(ctx, m, true)
}

// Uncount takes a claim off the message's count and leaves its lease: a run was
// open already.
func (s *Store) Uncount(ctx context.Context, m outbox.ClaimedMessage) error {
	return s.giveBack(ctx, m, false)
}

func (s *Store) giveBack(ctx context.Context, m outbox.ClaimedMessage, release bool) error {
	s.handoff.settle(m.Ref())
	_, err := insist(ctx, s.returns, giveBack{Ref: m.Ref(), leasedUntil: m.LeasedUntil, release: release})
	if err != nil {
		return fmt.Errorf("giving back message %s: %w", m.ID, err)
	}
	return nil
}

// Forget lets go of a claimed message that no run of this process has taken
// over: a run elsewhere has it. It writes nothing.
func (s *Store) Forget(ref outbox.Ref) { s.handoff.settle(ref) }

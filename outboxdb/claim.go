package outboxdb

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/outflowhq/outflow"
)

// Claim leases due messages to this process: of each destination at most
// req.Allowance less those open already, oldest first. Concurrent scanners never
// get the same row. One statement finds the destinations and, where any has due
// messages, one claims; an idle call is one statement, or none. Where the first is
// too slow, which a held snapshot makes it, the destinations of before go on.
func (s *Store) Claim(ctx context.Context, req outflow.ClaimRequest) (outflow.Claimed, error) {
	s.walk.mu.Lock()
	defer s.walk.mu.Unlock()
	walkErr := s.findDestinations(ctx)
	if walkErr != nil && len(s.walk.marks) == 0 {
		return outflow.Claimed{}, walkErr
	}
	noteErr := s.destinations.takeProblem()
	problem := errors.Join(walkErr, noteErr)
	asked := s.walk.ask(req, s.destinations.window)
	if len(asked.destinations) == 0 {
		return s.walk.claimed(nil, problem), nil
	}
	messages, rows, err := s.take(ctx, req.Lease, claim, asked.destinations, asked.marks, asked.quotas,
		req.MaxMessages, req.MaxBytes, req.Lease, mostRetrying)
	if err != nil {
		return outflow.Claimed{Problem: noteErr}, fmt.Errorf("claiming up to %d messages: %w", req.MaxMessages, err)
	}
	s.walk.learn(asked, rows, req.MaxMessages)
	return s.walk.claimed(messages, problem), nil
}

// ClaimAlone leases one suspect to this process (see outflow.SuspectClaims), or
// none. The caller has nothing else in flight.
func (s *Store) ClaimAlone(ctx context.Context, lease time.Duration) ([]outflow.ClaimedMessage, error) {
	messages, _, err := s.take(ctx, lease, claimAlone, lease)
	if err != nil {
		return nil, fmt.Errorf("claiming a suspect message: %w", err)
	}
	return messages, nil
}

// take runs a claiming statement, and keeps what it claimed for the runs to come.
func (s *Store) take(ctx context.Context, lease time.Duration, statement string, args ...any) ([]outflow.ClaimedMessage, []claimedRow, error) {
	began := time.Now()
	rows, err := s.pool.Query(ctx, statement, args...)
	if err != nil {
		return nil, nil, err
	}
	claimed, err := pgx.CollectRows(rows, pgx.RowToStructByNameLax[claimedRow])
	if err != nil {
		return nil, nil, err
	}
	slices.SortFunc(claimed, func(a, b claimedRow) int { return cmp.Compare(a.Seq, b.Seq) })

	messages := make([]outflow.ClaimedMessage, 0, len(claimed))
	holds := make([]*held, 0, len(claimed))
	for _, r := range claimed {
		h := &held{record: r.record(), claimed: began, lease: lease, expiresIn: r.ExpiresIn, again: r.claimedBefore(),
			taken: make(chan struct{}), settled: make(chan struct{})}
		holds = append(holds, h)
		messages = append(messages, outflow.ClaimedMessage{
			Record: h.record, LeasedUntil: r.AvailableAt, Taken: h.taken, Settled: h.settled})
		if r.Failing {
			s.destinations.seenFailing(r.Destination)
		}
	}
	s.handoff.put(began, holds)
	return messages, claimed, nil
}

// claimedRow is a row as claim returns it.
type claimedRow struct {
	row
	WasAvailableAt time.Time `db:"was_available_at"`
	// Seen is how many rows the claim looked at, before the bound in bytes.
	Seen int `db:"seen"`
}

// claimedBefore reports whether this may not be the first claim of the row, as
// untouched in operator_queries.go does: only enqueue leaves available_at like this.
func (r claimedRow) claimedBefore() bool {
	asEnqueued := r.DueAt
	if r.EnqueuedAt.After(asEnqueued) {
		asEnqueued = r.EnqueuedAt
	}
	return r.Generation > 1 || !r.WasAvailableAt.Equal(asEnqueued)
}
